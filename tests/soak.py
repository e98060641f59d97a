"""Long use of prefetches whose workers are killed, crash and are stopped all the time.

`python tests/soak.py --seconds 60` checks every value, and that memory, descriptors and speed stay as they are; --plot
draws them over time (and needs matplotlib). It is no test of pytest's, which collects test_*.py.
"""

import argparse
import collections
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import random
import signal
import statistics
import sys
import threading
import time
import traceback
import warnings

import numpy

from lazyseq import EvaluationError, WorkerDiedError, prefetch, smap

N = 20_000
SIGNALS = (*[signal.SIGKILL] * 5, signal.SIGSEGV, signal.SIGSEGV, signal.SIGSTOP)
METHODS = ("fork", "fork", "spawn", "fork", "forkserver")
LIFE = 8  # seconds of each prefetch, at most
TIMEOUT = 2  # seconds; a machine that is shared may take a process from its processor for long


def item(i):
    if i % 97 == 0:
        raise ValueError(i)
    if i % 3 == 0:
        time.sleep(0.001)
    return {"i": i, "text": str(i)} if i % 5 == 0 else numpy.full(i * 7919 % 50_000, i)


def is_item(i, value):
    if i % 97 == 0:
        return False
    if i % 5 == 0:
        return value == {"i": i, "text": str(i)}
    return value.shape == (i * 7919 % 50_000,) and (value == i).all()


class Log(logging.Handler):
    """Counts the recoveries that are logged."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        self.count += 1


class Reader:
    """Reads in all ways, and checks what comes."""

    def __init__(self, chance):
        self.chance = chance
        self.kept = collections.deque()
        self.counts = collections.Counter()
        self.view = self.method = None

    def take(self, i, read):
        """Check item i, or the error that reading it raises; keep some items for later."""
        try:
            value = read()
        except Exception as error:
            self.judge(error, i)
        else:
            assert is_item(i, value), (i, value)
            self.counts["delivered"] += 1
            if self.chance.random() < 0.2:
                self.kept.append((i, value))
            if len(self.kept) > 200:
                i, value = self.kept.popleft()
                assert is_item(i, value), ("changed while it was kept", i, value)

    def judge(self, error, i=None):
        """An error is the item's own, or its workers have died or been stopped."""
        if isinstance(error, WorkerDiedError):  # which is an EvaluationError
            assert i in (None, error.index) and error.attempts == 2, (i, error)
            self.counts["given up"] += 1
        elif isinstance(error, EvaluationError):
            assert isinstance(error.__cause__, ValueError), error
            where = error.__cause__.args[0]
            assert where % 97 == 0 and i in (None, where), (i, error)
            self.counts["errors"] += 1
        elif isinstance(error, TimeoutError):
            self.counts["timeouts"] += 1
        else:
            raise error
        self.counts["delivered"] += 1

    def ahead(self):
        start = self.chance.randrange(N)
        part = self.view[start : start + self.chance.randrange(1, 400)]
        items = iter(part)
        for i in range(start, start + len(part)):
            self.take(i, lambda: next(items))

    def elsewhere(self):
        for i in self.chance.choices(range(N), k=30):
            self.take(i, lambda i=i: self.view[i])

    def side_by_side(self):
        starts = self.chance.choices(range(N - 100), k=3)
        iterators = [iter(self.view[start : start + 100]) for start in starts]
        for k in range(100):
            for start, items in zip(starts, iterators, strict=True):
                self.take(start + k, lambda items=items: next(items))

    def given_up_early(self):
        start = self.chance.randrange(N - 100)
        items = iter(self.view[start:])
        for i in range(start, start + self.chance.randrange(1, 20)):
            self.take(i, lambda: next(items))

    def together(self):
        indices = [i for i in self.chance.choices(range(N), k=16) if i % 97]
        try:
            values = self.view.__getitems__(indices)
        except Exception as error:
            self.judge(error)
        else:
            for i, value in zip(indices, values, strict=True):
                self.take(i, lambda value=value: value)

    def as_completed(self):
        start = self.chance.randrange(N - 100)
        pairs = self.view[start : start + 100].as_completed()
        found = 0
        while True:
            try:
                i, value = next(pairs)
            except StopIteration:
                break
            except Exception as error:
                self.judge(error)
            else:
                self.take(start + i, lambda value=value: value)
            found += 1
        assert found == 100, found

    def in_a_fork(self):
        if self.method == "forkserver":
            return  # which serves the process alone that has started it
        i = self.chance.randrange(N)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.take(i, lambda: self.view[i])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    def ends(self):
        """How many workers the killer has ended."""
        return sum(self.counts[how.name] for how in set(SIGNALS))

    def act(self):
        acts = (self.ahead, self.ahead, self.elsewhere, self.side_by_side, self.given_up_early, self.together,
                self.as_completed, self.in_a_fork)  # fmt: skip
        weights = (6, 6, 3, 3, 3, 3, 3, 0.2)
        self.chance.choices(acts, weights)[0]()


class Killer(threading.Thread):
    """Ends workers at random, but lets some items pass in between: that none can live is another matter."""

    def __init__(self, reader, chance):
        super().__init__(daemon=True)
        self.reader, self.chance, self.ended = reader, chance, threading.Event()

    def run(self):
        fewest = 0
        while not self.ended.wait(self.chance.expovariate(4)):
            workers = multiprocessing.active_children()
            if workers and self.reader.counts["delivered"] >= fewest:
                fewest = self.reader.counts["delivered"] + 100
                how = self.chance.choice(SIGNALS)
                with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                    os.kill(self.chance.choice(workers).pid, how)
                    self.reader.counts[how.name] += 1


def memory():
    """Of this process and its workers, in MiB; what they share counts once."""
    total = 0
    for process in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        with contextlib.suppress(OSError), open(f"/proc/{process}/smaps_rollup") as lines:  # it may have ended
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def soak(seconds, seed):
    """Read for that long; return the samples, taken each second: time, items a second, MiB, descriptors, ends."""
    chance, log = random.Random(seed), Log()
    logging.getLogger("lazyseq").addHandler(log)
    warnings.filterwarnings("ignore", message=".*shm_size")  # some are small, that results be copied
    reader = Reader(chance)
    start = before = time.monotonic()
    samples, delivered = [], 0
    # The same ones in both halves, however short: these are compared.
    life = min(LIFE, seconds / 2 / len(METHODS))
    kinds = [
        {"mp_context": method, "max_buffered": chance.choice((4, 16, 64)), "shm_size": chance.choice((None, 2**25))}
        for method in METHODS
    ]
    for arguments in itertools.cycle(kinds):
        reader.method = arguments["mp_context"]
        with prefetch(smap(item, range(N)), 2, "process", timeout=TIMEOUT, **arguments) as reader.view:
            reader.take(1, lambda: reader.view[1])  # a prefetch whose workers die before one has begun fails for good
            killer = Killer(reader, random.Random(chance.random()))
            killer.start()
            try:
                end = min(time.monotonic() + life, start + seconds)
                while (now := time.monotonic()) < end:
                    reader.act()
                    if now - before >= 1:
                        rate = (reader.counts["delivered"] - delivered) / (now - before)
                        ends = reader.ends()
                        samples.append((now - start, rate, memory(), len(os.listdir("/proc/self/fd")), ends))
                        before, delivered = now, reader.counts["delivered"]
            finally:
                killer.ended.set()
                killer.join()
        if time.monotonic() - start >= seconds:
            break
    for i, value in reader.kept:
        assert is_item(i, value), ("changed while it was kept", i, value)
    reader.kept.clear()
    reader.view = None
    print(f"{seconds} s, seed {seed}:", ", ".join(f"{count} {what}" for what, count in sorted(reader.counts.items())))
    ends = reader.ends()
    assert reader.counts["timeouts"] <= reader.counts["SIGSTOP"], "an item was late that nobody had stopped"
    assert log.count >= ends / 2, f"{log.count} recoveries were logged, of {ends}"
    return samples


def check(samples):
    """Nothing grows, or slows down, from the first half to the second."""
    first, last = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    for k, what, measure in (
        (1, "items a second", statistics.mean),
        (2, "MiB at most", max),
        (3, "descriptors", max),
    ):
        early, late = (measure(sample[k] for sample in half) for half in (first, last))
        print(f"{what}: {early:.0f} in the first half, {late:.0f} in the second")
        if what == "items a second":
            assert late >= early / 2
        else:
            assert late <= early * 1.3 + 8


def plot(samples, path):
    from matplotlib import pyplot

    step = max(1, len(samples) // 360)
    rows = numpy.array(samples)
    rows = rows[: len(rows) // step * step].reshape(-1, step, 5).mean(1)
    figure, axes = pyplot.subplots(4, 1, sharex=True, figsize=(8, 7), layout="constrained")
    labels = ("items / s", "memory [MiB]", "descriptors", "workers ended")
    for k, (axis, label) in enumerate(zip(axes, labels, strict=True), 1):
        axis.plot(rows[:, 0] / 60, rows[:, k], linewidth=0.8)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--plot", help="draw what was measured into this file")
    arguments = parser.parse_args()
    shared = set(os.listdir("/dev/shm"))
    samples = soak(arguments.seconds, arguments.seed)
    if arguments.plot:
        plot(samples, arguments.plot)
    check(samples)
    gc.collect()
    assert multiprocessing.active_children() == []
    gone = time.monotonic() + 10
    while (left := set(os.listdir("/dev/shm")) - shared) and time.monotonic() < gone:
        time.sleep(0.1)  # it may be another program's
    assert not left, left


if __name__ == "__main__":
    sys.exit(main())
