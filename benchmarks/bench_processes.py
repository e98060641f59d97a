"""What a prefetch in processes costs, against hand-written limits and against others that prefetch in processes."""

import collections
import logging
import mmap
import multiprocessing
import operator
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy
from compare import at_least, in_turns, verdict

import lazyseq

ROUNDS = 5
WORKERS = 2
FORK = multiprocessing.get_context("fork")


def by_lazyseq(view, buffer, **arguments):
    return lazyseq.prefetch(view, WORKERS, "process", buffer, mp_context="fork", **arguments)


# ---- The limits: what a pipe, and a ring of shared memory, can do at best ------------------------------------------


def by_chunked_pipe(view, buffer):
    """Each worker sends every second chunk through a pipe, and is two chunks ahead: four fill the buffer."""
    chunk = max(1, buffer // (2 * WORKERS))
    pipes = [FORK.Pipe(duplex=False) for _ in range(WORKERS)]
    room = [os.pipe() for _ in range(WORKERS)]

    def send(worker):
        for start in range(worker * chunk, len(view), WORKERS * chunk):
            os.read(room[worker][0], 1)
            pipes[worker][1].send_bytes(pickle.dumps([view[i] for i in range(start, min(len(view), start + chunk))], 5))

    workers = [FORK.Process(target=send, args=(k,), daemon=True) for k in range(WORKERS)]
    for worker in workers:
        worker.start()
    for _, end in room:
        os.write(end, b"xx")
    for start in range(0, len(view), chunk):
        worker = start // chunk % WORKERS
        yield from pickle.loads(pipes[worker][0].recv_bytes())
        os.write(room[worker][1], b"x")
    for worker in workers:
        worker.join()
    for descriptor in [end for pipe in room for end in pipe]:
        os.close(descriptor)


def by_warm_ring(view, buffer, copies=False):
    """Slots of shared memory that are filled in turn; a byte through a pipe says so, and one back that it was read."""
    array = view[0]
    slots = numpy.frombuffer(mmap.mmap(-1, buffer * array.nbytes), array.dtype).reshape(buffer, *array.shape)
    slots[:] = 0  # warm
    ready, free = ([os.pipe() for _ in range(WORKERS)] for _ in range(2))

    def fill(worker):
        for i in range(worker, len(view), WORKERS):
            if i >= buffer:
                os.read(free[worker][0], 1)
            slots[i % buffer] = view[i]
            os.write(ready[worker][1], b"x")

    workers = [FORK.Process(target=fill, args=(k,), daemon=True) for k in range(WORKERS)]
    for worker in workers:
        worker.start()
    for i in range(len(view)):
        os.read(ready[i % WORKERS][0], 1)
        yield slots[i % buffer].copy() if copies else slots[i % buffer]
        if i + buffer < len(view):
            os.write(free[i % WORKERS][1], b"x")
    for worker in workers:
        worker.join()
    for descriptor in [end for pipe in ready + free for end in pipe]:
        os.close(descriptor)


# ---- The peers ------------------------------------------------------------------------------------------------------


def by_seqtools(view, buffer, shm=0):
    import seqtools

    return seqtools.prefetch(view, WORKERS, method="process", max_buffered=buffer, shm_size=shm)


def by_seqtools_shm(view, buffer):
    return by_seqtools(view, buffer, 2**28)


def by_torch(view, buffer):
    from torch.utils.data import DataLoader

    return DataLoader(view, batch_size=None, num_workers=WORKERS, prefetch_factor=max(1, buffer // WORKERS))


def by_grain(view, buffer):
    import grain

    logging.getLogger("absl").setLevel(logging.ERROR)  # it lists what else it could use
    items = grain.MapDataset.source(view).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=WORKERS, per_worker_buffer_size=max(1, buffer // WORKERS))
    return items.mp_prefetch(options)


def by_pool(view, buffer):
    with FORK.Pool(WORKERS) as pool:
        yield from pool.imap(view.__getitem__, range(len(view)), chunksize=64)


def by_joblib(view, buffer):
    import joblib

    return joblib.Parallel(WORKERS, return_as="generator", pre_dispatch=buffer)(
        joblib.delayed(operator.getitem)(view, i) for i in range(len(view))
    )


PEERS = {
    "SeqTools": by_seqtools,
    "SeqTools, shm": by_seqtools_shm,
    "torch": by_torch,
    "Grain": by_grain,
    "Pool": by_pool,
    "joblib": by_joblib,
}


def installed():
    return {
        name: peer
        for name, peer in PEERS.items()
        if name == "Pool"
        or subprocess.run([sys.executable, "-c", f"import {name.split(',')[0].lower()}"]).returncode == 0
    }


# ---- Measures -------------------------------------------------------------------------------------------------------


def rate(make, view, buffer):
    """A function that answers how many items a second come, from the second on: not counting the start of processes."""

    def measure():
        iterable = make(view, buffer)
        items = iter(iterable)
        next(items)
        start = time.perf_counter()
        collections.deque(items, maxlen=0)
        seconds = time.perf_counter() - start
        if hasattr(iterable, "close"):
            iterable.close()
        return (len(view) - 1) / seconds

    return measure


def medians(measures, rounds=ROUNDS):
    return {name: statistics.median(answers) for name, answers in in_turns(measures, rounds).items()}


def record(i):
    return {"index": i, "name": f"item number {i}", "values": list(range(i, i + 12)), "text": "x" * 80}


class Constant:
    """The same array at every index: what is measured is its way."""

    def __init__(self, nbytes, n):
        self.array, self.n = numpy.ones(nbytes // 8), n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.array


def small_items(peers):
    print("items a second, in thousands (ratio: to the chunked pipe)")
    for kind, function, n in (("ints", operator.neg, 1_000_000), ("dicts of 200 bytes", record, 300_000)):
        for buffer in (64, 512):
            view, few = lazyseq.smap(function, range(n)), lazyseq.smap(function, range(n // 250))
            found = medians({name: rate(make, view, buffer) for name, make in
                             {"lazyseq": by_lazyseq, "pipe": by_chunked_pipe}.items()})  # fmt: skip
            others = medians({name: rate(make, few, buffer) for name, make in peers.items()}, 1)
            print(f"  {kind}, buffer {buffer}: {found['lazyseq'] / 1e3:.0f}, "
                  f"to the pipe {at_least(found['lazyseq'] / found['pipe'], 0.8)}; others: "
                  + ", ".join(f"{name} {value / 1e3:.0f}" for name, value in others.items()))  # fmt: skip


def arrays(peers):
    print("arrays, read and not touched, GB/s (ratio: to a ring of warm slots)")
    for nbytes, n, limits in ((150_000, 8000, 2), (600_000, 3000, 2), (8_000_000, 200, 1)):
        view, few = Constant(nbytes, n), Constant(nbytes, max(20, n // 10))
        found = medians({name: rate(make, view, 10) for name, make in
                         {"lazyseq": by_lazyseq, "ring": by_warm_ring}.items()})  # fmt: skip
        others = medians({name: rate(make, few, 10) for name, make in peers.items() if name != "Pool"}, 1)
        print(f"  {nbytes / 1e3:.0f} KB: {found['lazyseq'] * nbytes / 1e9:.1f}, "
              f"to the ring {at_least(found['lazyseq'] / found['ring'], 0.6)}; others: "
              + ", ".join(f"{name} {value * nbytes / 1e9:.1f}" for name, value in others.items()))  # fmt: skip
        shm = others.get("SeqTools, shm")
        if shm:
            print(f"    to SeqTools in shared memory {at_least(found['lazyseq'] / shm, limits)}")
    nbytes, n = 600_000, 1500

    def keep(make):
        def measure():
            items = iter(make())
            kept = [next(items)]
            start = time.perf_counter()
            kept += items
            return (len(kept) - 1) / (time.perf_counter() - start)

        return measure

    view = Constant(nbytes, n)
    found = medians({
        "lazyseq": keep(lambda: by_lazyseq(view, 10)),
        "ring": keep(lambda: by_warm_ring(view, 10, copies=True)),
    }, 3)  # fmt: skip
    print(f"  all kept: {found['lazyseq'] * nbytes / 1e9:.2f} GB/s, to the ring with copies "
          f"{at_least(found['lazyseq'] / found['ring'], 0.9)}")  # fmt: skip


def consumer():
    print("what an array costs its reader that finds it ready, us")
    for nbytes in (150_000, 600_000, 8_000_000):
        view, seconds = by_lazyseq(Constant(nbytes, 500), 64), []
        items = iter(view)
        for _ in range(10):
            time.sleep(0.1)  # until all is ready
            for _ in range(30):
                start = time.perf_counter()
                next(items)
                seconds.append(time.perf_counter() - start)
        view.close()
        print(f"  {nbytes / 1e3:.0f} KB {verdict(1e6 * statistics.median(seconds), 10)}")


def life():
    def first():
        start = time.perf_counter()
        with by_lazyseq(lazyseq.smap(abs, range(9)), 10) as view:
            _ = view[0]
            return time.perf_counter() - start

    def by_hand():
        start = time.perf_counter()
        pipes = [FORK.Pipe(duplex=False) for _ in range(WORKERS)]
        workers = [FORK.Process(target=pipe[1].send, args=(k,), daemon=True) for k, pipe in enumerate(pipes)]
        for worker in workers:
            worker.start()
        pipes[0][0].recv()
        seconds = time.perf_counter() - start
        for worker in workers:
            worker.join()
        return seconds

    def ends():
        view = by_lazyseq(lazyseq.smap(abs, range(9)), 10)
        list(view)
        time.sleep(0.02)
        start = time.perf_counter()
        view.close()
        return time.perf_counter() - start

    found = medians({"first": first, "by hand": by_hand, "end": ends}, 15)
    print(f"first item {1e3 * found['first']:.1f} ms, to fork and pipe by hand "
          f"{verdict(found['first'] / found['by hand'], 1.5)}")  # fmt: skip
    print(f"shut-down, ms {verdict(1e3 * found['end'], 30)}")


def private_memory(pid):
    return sum(int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
               if line.startswith("Private"))  # fmt: skip


def memory():
    objects = [(i, str(i)) for i in range(10**6)]

    def read(worker, pipe):
        total = sum(len(objects[i]) for i in range(worker, len(objects), WORKERS))
        pipe.send(total)
        pipe.recv()

    pipes = [FORK.Pipe() for _ in range(WORKERS)]
    workers = [FORK.Process(target=read, args=(k, pipe[1]), daemon=True) for k, pipe in enumerate(pipes)]
    for worker in workers:
        worker.start()
    for pipe in pipes:
        pipe[0].recv()
    bare = sum(private_memory(worker.pid) for worker in workers)
    for worker, pipe in zip(workers, pipes, strict=True):
        pipe[0].send(0)
        worker.join()
    with by_lazyseq(lazyseq.smap(len, objects), 512) as view:
        sum(view)
        ours = sum(private_memory(worker.pid) for worker in multiprocessing.active_children())
    print(
        f"private memory of workers over a million objects, {ours >> 10} MB, to bare ones {verdict(ours / bare, 1.1)}"
    )


def deaths():
    logging.getLogger("lazyseq").addHandler(logging.NullHandler())
    array = numpy.ones(75_000)

    def load(i):
        time.sleep(0.001)
        return array

    def measure(kills):
        with by_lazyseq(lazyseq.smap(load, range(3000)), 64) as view:
            items, n = iter(view), 0
            next(items)
            start = last = time.perf_counter()
            for _ in items:
                n += 1
                now = time.perf_counter()
                if kills and now - last > 1:
                    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                    last = now
                if now - start > 3:
                    break
            return n / (time.perf_counter() - start)

    with_kills, without = measure(True), measure(False)
    print(f"a kill a second: {with_kills:.0f} items/s, to none {at_least(with_kills / without, 0.9)}")
    waits = []
    for _ in range(5):
        with by_lazyseq(lazyseq.smap(load, range(300)), 64) as view:
            items = iter(view)
            for _ in range(20):
                next(items)
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
            longest = 0
            for _ in range(100):
                start = time.perf_counter()
                next(items)
                longest = max(longest, time.perf_counter() - start)
            waits.append(longest)
    print(f"the longest wait after a SIGKILL to each worker, ms {verdict(1e3 * statistics.median(waits), 51)}")


def main():
    print(f"{len(os.sched_getaffinity(0))} cores, {WORKERS} workers")
    peers = installed()
    small_items(peers)
    arrays(peers)
    consumer()
    life()
    memory()
    deaths()


if __name__ == "__main__":
    main()
