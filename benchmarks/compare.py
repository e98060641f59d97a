"""Time functions against each other: in turns, so that a machine which slows down slows all, and the best of many."""

import time


def best_times(functions, rounds=30):
    """The shortest time of each function, in seconds: ``{name: function}`` -> ``{name: seconds}``."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def verdict(figure, limit):
    """A figure beside the limit that it should keep."""
    return f"{figure:7.2f}  at most {limit:<5} {'' if figure <= limit else 'MISSED'}"


def at_least(figure, limit):
    """The same for a figure that should be large."""
    return f"{figure:7.2f}  at least {limit:<5} {'' if figure >= limit else 'MISSED'}"
