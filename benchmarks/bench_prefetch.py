"""What a prefetch in threads costs, against plain loops and threads, and against others that prefetch in threads."""

import collections
import hashlib
import importlib
import itertools
import logging
import operator
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from compare import at_least, in_turns, verdict

import lazyseq

ROUNDS = 7
BLOCK = bytes(1 << 20)


# The items, each of which answers its index (or minus it).


def spin(i):
    for _ in range(2200):  # some 20 us that hold the GIL
        pass
    return i


def pause(i):
    time.sleep(0.001)
    return i


def digest(i):
    hashlib.sha256(BLOCK)
    return i


# The peers: each makes an iterable that reads a view ahead, with so many workers and such a buffer.


def by_lazyseq(view, workers, buffer):
    return lazyseq.prefetch(view, workers, max_buffered=buffer)


def by_seqtools(view, workers, buffer):
    import seqtools

    return seqtools.prefetch(view, workers, method="thread", max_buffered=buffer)


def by_torchdata(view, workers, buffer):
    from torchdata import nodes

    if workers == 1:  # ten times as fast as a mapper with one worker
        return nodes.Prefetcher(nodes.IterableWrapper(view), buffer, snapshot_frequency=10**6)
    indices = nodes.IterableWrapper(range(len(view)))  # a mapper holds two items per worker, a Prefetcher slows it
    return nodes.ParallelMapper(indices, view.__getitem__, workers, method="thread", snapshot_frequency=10**6)


def by_grain(view, workers, buffer):
    import grain

    # The threads that ReadOptions offers are slower, the more so the larger the buffer.
    items = grain.MapDataset.source(view).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if workers == 1:
        return grain.experimental.ThreadPrefetchIterDataset(items, prefetch_buffer_size=buffer)
    return grain.experimental.multithread_prefetch(items, workers, buffer // workers)


def by_joblib(view, workers, buffer):
    import joblib

    # What the reader has not taken yet does not hold it up: its buffer is pre_dispatch only while the reader keeps up.
    parallel = joblib.Parallel(workers, return_as="generator", prefer="threads", batch_size="auto", pre_dispatch=buffer)
    return parallel(joblib.delayed(view.__getitem__)(i) for i in range(len(view)))


def by_futures(view, workers, buffer):
    with ThreadPoolExecutor(workers) as pool:
        futures = (pool.submit(view.__getitem__, i) for i in range(len(view)))
        window = collections.deque(itertools.islice(futures, buffer))
        while window:
            item = window.popleft().result()
            window.extend(itertools.islice(futures, 1))
            yield item


def by_queue(view, workers, buffer):
    ready, end = queue.Queue(buffer), object()

    def work():
        for item in view:
            ready.put(item)
        ready.put(end)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not end:
        yield item


LIBRARIES = {  # name: (module, function)
    "SeqTools": ("seqtools", by_seqtools),
    "torchdata": ("torchdata.nodes", by_torchdata),
    "Grain": ("grain", by_grain),
    "joblib": ("joblib", by_joblib),
}
BY_HAND = {"futures by hand": by_futures, "queue by hand": by_queue}


def gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def import_peers():
    """Keep the libraries that can be imported, and that leave an interpreter without a GIL so."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Grain lists what else it could use
    for name, (module, _) in list(LIBRARIES.items()):
        try:
            test = f"import sys, {module}; sys.exit(77 * sys._is_gil_enabled())"
            if not gil() and subprocess.run([sys.executable, "-c", test], capture_output=True).returncode == 77:
                raise ImportError(f"{module} turns the GIL on")
            importlib.import_module(module)
        except ImportError as error:
            del LIBRARIES[name]
            print(f"{name} is left out: {error}")


# Ways to go through them.


def check(items, expected):
    if items != expected:
        raise AssertionError(f"got {items[:5]} ..., {len(items)} items, not {expected[:5]} ..., {len(expected)} items")


def close(*things):
    for thing in things:
        getattr(thing, "close", lambda: None)()


def drain(make, n):
    """Seconds per item from the first of n to the last one, so that the start of the workers is left out."""
    source = make(n)
    iterator = iter(source)
    item = next(iterator)
    start = time.perf_counter()
    for item in iterator:  # noqa: B007, the last one is looked at
        pass
    seconds = time.perf_counter() - start
    check([item], [1 - n])
    close(iterator, source)
    return seconds / (n - 1)


def whole(make, expected):
    """Seconds of all items, with the start of the workers, and without their end."""
    start = time.perf_counter()
    source = make()
    items = [item for item in source]  # list() could ask for blocks
    seconds = time.perf_counter() - start
    close(source)
    check(items, expected)
    return seconds


def plain_threads(view, workers):
    """All items, by threads that loop over their share of them."""
    items = [None] * len(view)

    def share(k):
        for i in range(k, len(view), workers):
            items[i] = view[i]

    threads = [threading.Thread(target=share, args=(k,)) for k in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return items


# What is measured. Each function prints its figures.


def peers(workers):
    """Those that have so many workers: ``{name: function}``."""
    functions = {name: function for name, (_, function) in LIBRARIES.items()} | BY_HAND
    if workers == 1:
        functions.pop("joblib", None)  # evaluates in the reader
    else:
        del functions["queue by hand"]  # has one thread
    return functions


def trivial(workers, buffer, fraction, times=None):
    """Items that cost nothing: what remains is the way from the worker to the reader."""

    def negatives(n):
        return lazyseq.smap(operator.neg, range(n))

    def contestant(function, size=1):
        """It checks what a peer delivers, then lets it run for some 50 ms, though for ten buffers at least."""

        def make(n):
            if size == 1:
                return function(negatives(n), workers, buffer)
            batches = function(lazyseq.batch(negatives(n), size), workers, buffer // size)
            return itertools.chain.from_iterable(batches)

        n = 2000
        whole(lambda: make(n), [-i for i in range(n)])
        for _ in range(2):  # the first items take longer
            n = min(200_000, max(10 * buffer, int(0.05 / drain(make, n))))
        return lambda: drain(make, n)

    def show(name, times):
        print(f"  {name:<26}{min(times) * 1e6:8.3f} us, median {statistics.median(times) * 1e6:.3f}")

    measures = {name: contestant(function) for name, function in {"lazyseq": by_lazyseq, **peers(workers)}.items()}
    measures["plain loop"] = lambda: drain(negatives, 200_000)
    seconds = in_turns(measures, ROUNDS)
    print(f"A trivial item, {workers} worker{'s' * (workers > 1)}, a buffer of {buffer}:")
    for name in measures:
        show(name, seconds[name])

    def ratio(name, of):
        return of(seconds[name]) / of(seconds["lazyseq"])

    print(f"  fraction of the plain loop{at_least(ratio('plain loop', min), fraction)}", end="")
    print(f"  (medians: {ratio('plain loop', statistics.median):.2f})")
    libraries = [name for name in seconds if name in LIBRARIES]
    if times and libraries:
        best = min(libraries, key=lambda name: min(seconds[name]))
        print(f"  x the best library, {best}{at_least(ratio(best, min), times)}", end="")
        print(f"  (medians: {ratio(best, statistics.median):.1f})")
        in_batches = contestant(LIBRARIES[best][1], size=8)
        show(f"{best} of batches of 8", [in_batches() for _ in range(ROUNDS)])


def parallel(what, function, n, workers, least):
    """Items that let others run, against threads that need not hand them over."""
    view, expected = lazyseq.smap(function, range(n)), list(range(n))
    makes = {"plain threads": lambda: plain_threads(view, workers)}
    for name, make in {"lazyseq": by_lazyseq, **peers(workers)}.items():
        makes[name] = lambda make=make: make(view, workers, 64)
    seconds = in_turns({name: lambda make=make: whole(make, expected) for name, make in makes.items()}, ROUNDS)
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{what}, {workers} workers, {best['plain threads'] * 1e3:.1f} ms by plain threads; speed of theirs = 1:")
    print(f"  lazyseq{at_least(best['plain threads'] / best['lazyseq'], least)}", end="")
    print(f"  (medians: {statistics.median(seconds['plain threads']) / statistics.median(seconds['lazyseq']):.2f})")
    print("  " + ", ".join(f"{name} {best['plain threads'] / best[name]:.2f}" for name in peers(workers)))


def elsewhere(what, function, reads):
    """Reads far from the last one, and the same after two in a row each time, which let the workers run ahead."""
    n, draw = 10**6, random.Random(0)
    view = lazyseq.smap(function, range(n))
    draws = [draw.randrange(n - 100) for _ in range(reads)]

    def jumps(items, draws, row):
        def measure():
            seconds = 0
            for i in draws:
                start = time.perf_counter()
                item = items[i]
                seconds += time.perf_counter() - start
                check([item, *[items[i + k] for k in range(1, row)]], list(range(i, i + row)))
            time.sleep(0.02)  # the workers come to rest, and do not disturb what is next
            return seconds / len(draws)

        return measure

    for workers in (2, 4):
        ours = by_lazyseq(view, workers, 10)
        measures = {"direct": jumps(view, draws, 1)}
        for row in (1, 3):
            measures["lazyseq", row] = jumps(ours, draws, row)
        if "SeqTools" in LIBRARIES:  # the only other one with an index
            measures["SeqTools", 1] = jumps(by_seqtools(view, workers, 10), draws[: reads // 4], 1)
        seconds = in_turns(measures, ROUNDS)
        direct = seconds.pop("direct")
        print(f"{what} elsewhere, {workers} workers, {min(direct) * 1e6:.1f} us directly; x directly:")
        for (name, row), times in seconds.items():
            best, median = (of(times) / of(direct) for of in (min, statistics.median))
            figure = verdict(best, 1.3) if name == "lazyseq" else f"{best:7.2f}"
            print(f"  {name}, {row} in a row{figure}  (medians: {median:.2f})")
        close(ours)


def starting():
    """A prefetch is made and started once, so the median counts, not the best."""
    view = lazyseq.smap(operator.neg, range(10**6))

    def fresh(read):
        start = time.perf_counter()
        items = lazyseq.prefetch(view, 4, max_buffered=64)
        if read:
            check([items[0]], [0])
        seconds = time.perf_counter() - start
        items.close()
        return seconds

    seconds = in_turns({"made": lambda: fresh(False), "first": lambda: fresh(True)}, 200)
    made, first = statistics.median(seconds["made"]) * 1e6, statistics.median(seconds["first"]) * 1e3
    print(f"Making a prefetch, us (median){verdict(made, 20)}")
    print(f"Its first item, ms (median)   {verdict(first, 1)}")


def without_gil():
    view, expected = lazyseq.smap(spin, range(2000)), list(range(2000))
    makes = {
        "serial": lambda: view,
        "plain threads": lambda: plain_threads(view, 2),  # what the machine allows
        "lazyseq": lambda: by_lazyseq(view, 2, 64),
    }
    seconds = in_turns({name: lambda make=make: whole(make, expected) for name, make in makes.items()}, ROUNDS)

    def gain(name, of):
        return of(seconds["serial"]) / of(seconds[name])

    print("20 us of Python without a GIL, 2 workers; x serial:")
    print(f"  lazyseq{at_least(gain('lazyseq', min), 1.8)}  (medians: {gain('lazyseq', statistics.median):.2f})")
    threads, median = (gain("plain threads", of) for of in (min, statistics.median))
    print(f"  plain threads {threads:.2f}  (medians: {median:.2f})")


def main():
    import_peers()
    trivial(1, 64, 0.15, times=3)
    trivial(4, 64, 0.09, times=2)
    trivial(1, 10, 0.045)
    trivial(1, 512, 0.3)
    parallel("Sleeping 1 ms", pause, 1600, 16, 0.95)
    parallel("Hashing 1 MB", digest, 300, 2, 0.94)
    elsewhere("20 us of Python", spin, 400)
    elsewhere("1 ms of sleep", pause, 40)
    starting()
    if not gil():
        without_gil()


if __name__ == "__main__":
    main()
