"""Time functions against each other: in turns, so that a machine which slows down slows all, and the best of many."""

import time


def in_turns(measures, rounds):
    """What every function answers in each round: ``{name: function}`` -> ``{name: [seconds, ...]}``."""
    answers = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            answers[name].append(measure())
    return answers


def timed(function):
    """A function that answers how long a call of the given one took."""

    def measure():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return measure


def best_times(functions, rounds=30):
    """The shortest time of each function, in seconds: ``{name: function}`` -> ``{name: seconds}``."""
    times = in_turns({name: timed(function) for name, function in functions.items()}, rounds)
    return {name: min(seconds) for name, seconds in times.items()}


def verdict(figure, limit):
    """A figure beside the limit that it should keep."""
    return f"{figure:7.2f}  at most {limit:<5} {'' if figure <= limit else 'MISSED'}"


def at_least(figure, limit):
    """The same for a figure that should be large."""
    return f"{figure:7.2f}  at least {limit:<5} {'' if figure >= limit else 'MISSED'}"
