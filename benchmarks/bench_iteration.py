"""What iterating a view and making a large one cost, against the builtin or the library that does the same job best."""

import collections
import itertools
import operator
import random
import subprocess
import sys

import cytoolz
import iteration_utilities
import more_itertools
import numpy
import seqtools
from compare import at_least, best_times, verdict

import lazyseq

N = 10_000
ITEMS = list(range(N))
PARTS = [ITEMS[k : k + 100] for k in range(0, N, 100)]
PAIRS = [ITEMS[k : k + 10] for k in range(0, N, 10)]
OTHER = ITEMS[::-1]
SHUFFLED = random.Random(0).sample(ITEMS, N)
SHUFFLED_ARRAY = numpy.array(SHUFFLED)


def consume(make):
    """Make an iterable and go through it in C, so that what is measured is the iterable."""
    return lambda: collections.deque(make(), maxlen=0)


JOBS = {  # name: (least ratio, ours, peers)
    "concatenate": (
        0.95,
        lambda: lazyseq.concatenate(PARTS),
        {"chain": lambda: itertools.chain(*PARTS)},
    ),
    "unbatch": (0.95, lambda: lazyseq.unbatch(PAIRS, 10), {"chain": lambda: itertools.chain.from_iterable(PAIRS)}),
    "collate": (0.95, lambda: lazyseq.collate([ITEMS, OTHER]), {"zip": lambda: zip(ITEMS, OTHER, strict=False)}),
    "smap": (0.9, lambda: lazyseq.smap(operator.neg, ITEMS), {"map": lambda: map(operator.neg, ITEMS)}),
    "batch": (
        0.95,
        lambda: lazyseq.batch(ITEMS, 32),
        {
            "partition_all": lambda: cytoolz.partition_all(32, ITEMS),
            "grouper": lambda: iteration_utilities.grouper(ITEMS, 32),
        },
    ),
    "interleave": (
        0.95,
        lambda: lazyseq.interleave(ITEMS, OTHER, ITEMS),
        {
            "cytoolz": lambda: cytoolz.interleave([ITEMS, OTHER, ITEMS]),
            "roundrobin": lambda: iteration_utilities.roundrobin(ITEMS, OTHER, ITEMS),
            "more_itertools": lambda: more_itertools.interleave_longest(ITEMS, OTHER, ITEMS),
        },
    ),
    "gather": (
        3.5,
        lambda: lazyseq.gather(ITEMS, SHUFFLED_ARRAY),
        {"comprehension": lambda: [ITEMS[i] for i in SHUFFLED]},
    ),
}


def iteration():
    print(f"Iterating {N} items, speed of the best peer = 1:")
    for name, (least, ours, peers) in JOBS.items():
        runs = {"ours": consume(ours), **{peer: consume(make) for peer, make in peers.items()}}
        seconds = best_times(runs, rounds=300)
        best = min(peers, key=seconds.get)
        speed = at_least(seconds[best] / seconds["ours"], least)
        print(f"  {name:<12}{seconds['ours'] / N * 1e9:6.1f} ns {speed} ({best})")


def construction():
    parts = [[k] for k in range(10**6)]
    make = {lib.__name__: (lambda lib=lib: lib.concatenate(parts)) for lib in (lazyseq, seqtools)}
    seconds = best_times(make, rounds=3)
    print(f"Concatenating 10**6 lists: {seconds['lazyseq'] * 1e3:.1f} ms", end="")
    print(f", x SeqTools{verdict(seconds['lazyseq'] / seconds['seqtools'], 0.15)}")

    two, many = lazyseq.interleave(ITEMS, OTHER), lazyseq.interleave(*[range(k, 3 * k + 100) for k in range(1000)])
    draw = random.Random(1)
    hot = [draw.randrange(N) for _ in range(1000)]

    def reads(view):
        def run():
            for i in hot:
                view[i]

        return run

    seconds = best_times({"two": reads(two), "many": reads(many)}, rounds=100)
    print(f"An item of 1,000 interleaved sequences, x one of two:{verdict(seconds['many'] / seconds['two'], 10)}")


def imports():
    def start(module):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    best = best_times({module: start(module) for module in ("lazyseq", "numpy", "sys")}, rounds=15)
    ratio = (best["lazyseq"] - best["sys"]) / (best["numpy"] - best["sys"])
    print(f"Importing lazyseq, x importing numpy:{verdict(ratio, 1.3)}")


if __name__ == "__main__":
    iteration()
    construction()
    imports()
