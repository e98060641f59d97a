"""Views, iterators and caches that many threads use at once, with and without a GIL."""

import collections
import contextlib
import itertools
import operator
import os
import random
import subprocess
import sys
import sysconfig
import threading

import numpy
import pytest

from lazyseq import (
    EvaluationError,
    add_cache,
    arange,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    guard,
    interleave,
    repeat,
    smap,
    split,
    starmap,
    switch,
    take,
    unbatch,
    uniter,
)
from lazyseq.instrument import debug, monitor_throughput

N = 240
THREADS = 6


@pytest.fixture(autouse=True)
def frequent_switches():
    """With a GIL too, threads shall meet in the middle of things."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def side_by_side(*functions, seconds=90):
    """Run the functions at once, each in a thread, and return what they return; an error of one is raised."""
    results, errors = [None] * len(functions), []
    ready = threading.Barrier(len(functions))

    def run(k):
        ready.wait()
        try:
            results[k] = functions[k]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]
    return results


class Unmeasured:
    """A sequence without a length."""

    def __init__(self, n):
        self.n = n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return i


class Foreign(Unmeasured):
    def __len__(self):
        return self.n


def fresh(x):
    """An object that nobody else keeps alive: a reference too few to it is noticed."""
    return (x, [x])


def plain():
    return [fresh(i) for i in range(N)]


# Each gives all items of plain() in some order, once.
VIEWS = {
    "smap of list": lambda: smap(fresh, list(range(N))),
    "smap of tuple": lambda: smap(fresh, tuple(range(N))),
    "smap of range": lambda: smap(fresh, range(N)),
    "smap of array": lambda: smap(lambda x: fresh(int(x)), numpy.arange(N)),
    "smap of foreign": lambda: smap(fresh, Foreign(N)),
    "smap of arange": lambda: smap(fresh, arange(N)),
    "smap of collate": lambda: smap(operator.itemgetter(0), collate([plain(), tuple(range(N))])),
    "smap of smap": lambda: smap(fresh, smap(lambda x: x - 1, range(1, N + 1))),
    "smap of two": lambda: smap(lambda x, y: fresh(x) if x == y else None, smap(abs, range(N)), tuple(range(N))),
    "smap, unknown length": lambda: smap(fresh, Unmeasured(N)),
    "smap of two, unknown length": lambda: smap(lambda x, _: fresh(x), smap(abs, Unmeasured(N)), repeat(0)),
    "starmap": lambda: starmap(lambda x, y: fresh(x if x == y else None), collate([smap(abs, range(N)), arange(N)])),
    "collate": lambda: smap(lambda pair: fresh(pair[0] if pair[0] == pair[1] else None), collate([range(N)] * 2)),
    "gather of list": lambda: gather(plain(), list(range(N))[::-1]),
    "gather of smap": lambda: gather(smap(fresh, range(N)), [(7 * i) % N for i in range(N)]),
    "gather, lazy": lambda: gather(plain(), smap(lambda i: N - 1 - i, range(N))),
    "take": lambda: take(smap(fresh, range(2 * N)), range(N)),
    "slice": lambda: smap(fresh, range(-3, N + 2))[3:-2],
    "slice with a step": lambda: smap(fresh, range(2 * N))[:N][::-1],
    "cycle": lambda: cycle(smap(fresh, range(N)), N),
    "concatenate lists": lambda: concatenate([plain()[k : k + 10] for k in range(0, N, 10)]),
    "concatenate views": lambda: concatenate([smap(fresh, range(k, k + 10)) for k in range(0, N, 10)]),
    "concatenate both": lambda: concatenate([plain()[:100], (), smap(fresh, range(100, 170)), plain()[170:]]),
    "concatenate, unknown length": lambda: concatenate([plain()[:9], smap(lambda i: fresh(i + 9), Unmeasured(N - 9))]),
    "interleave lists": lambda: interleave(plain()[:50], plain()[50:60], plain()[60:]),
    "interleave views": lambda: interleave(smap(fresh, range(50)), plain()[50:60], smap(fresh, range(60, N))),
    "batch": lambda: smap(operator.itemgetter(0), batch(plain(), 1)),
    "unbatch lists": lambda: unbatch([plain()[k : k + 10] for k in range(0, N, 10)], 10),
    "unbatch views": lambda: unbatch(smap(lambda k: plain()[k : k + 10], range(0, N, 10)), 10),
    "unbatch tuples": lambda: unbatch(smap(lambda k: tuple(plain()[k : k + 7]), range(0, N, 7)), 7, N % 7 or 7),
    "unbatch of batch": lambda: unbatch(batch(smap(fresh, range(N)), 16), 16),
    "batch of smap, unbatched": lambda: unbatch(smap(list, batch(smap(fresh, range(N)), 16)), 16),
    "switch": lambda: switch([k % 2 for k in range(N)], plain(), smap(fresh, range(N))),
    "case": lambda: case([k % 3 for k in range(N)], plain(), smap(fresh, range(N)), plain()),
    "uniter": lambda: uniter(plain(), 5, 3, N),
    "uniter, unknown length": lambda: uniter(plain(), 5, 3),
    "cache": lambda: add_cache(smap(fresh, range(N)), 20),
    "cache in a dict": lambda: add_cache(smap(fresh, range(N)), 20, {}),
    "debug": lambda: debug(smap(fresh, range(N)), lambda i, value: None),
    "monitor": lambda: monitor_throughput(smap(fresh, range(N))),
    "split": lambda: concatenate(list(split(smap(fresh, range(N)), 4))),
    "deep": lambda: unbatch(batch(smap(fresh, gather(concatenate([[k] for k in range(N)]), range(N))), 48), 48),
}
every_view = pytest.mark.parametrize("name", VIEWS)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this CPython always has a GIL")
def test_importing_leaves_the_gil_off():
    script = "import sys, lazyseq, lazyseq.instrument; print(sys._is_gil_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    run = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (result.stdout, result.stderr) == ("False\n", "")


@every_view
def test_threads_that_read_one_view(name):
    view = VIEWS[name]()
    expected = list(VIEWS[name]())

    def read(seed):
        draw = random.Random(seed)
        positions = [draw.randrange(N) for _ in range(N)]
        assert [view[i] for i in positions] == [expected[i] for i in positions]
        assert list(view) == expected
        assert list(view[7:][::3]) == expected[7::3]
        assert view.__getitems__(positions) == [expected[i] for i in positions]

    side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)])


@every_view
def test_threads_that_share_an_iterator_get_each_item_once(name):
    for _ in range(5):
        iterator = iter(VIEWS[name]())
        found = side_by_side(*[lambda iterator=iterator: list(iterator)] * THREADS)
        assert sorted(itertools.chain(*found)) == plain()
        assert list(iterator) == []


def test_threads_that_share_an_iterator_over_errors():
    def fail_at_thirds(x):
        if x % 3 == 0:
            raise ValueError(x)
        return x

    def read():
        found = []
        while True:
            try:
                found.append(next(iterator))
            except EvaluationError as error:
                found.append(error.__cause__.args[0])
            except StopIteration:
                return found

    failing = smap(fail_at_thirds, range(N))
    for view in (failing, smap(abs, failing), batch(failing, 1), unbatch(batch(failing, 4), 4), failing[0:]):
        iterator = iter(view)
        found = [x[0] if type(x) is list else x for own in side_by_side(*[read] * THREADS) for x in own]
        assert sorted(found) == list(range(N))


def test_an_iterator_does_not_hold_up_those_who_share_it():
    together = threading.Barrier(THREADS, timeout=60)
    iterator = iter(collate([smap(lambda x: together.wait() and x or x, range(THREADS)), range(THREADS)]))
    assert sorted(side_by_side(*[lambda: next(iterator)] * THREADS)) == [(i, i) for i in range(THREADS)]


# ---- Sources that change --------------------------------------------------------------------------------------------


LIST_VIEWS = {
    "smap": lambda xs: smap(operator.itemgetter(0), xs),
    "smap of two": lambda xs: smap(lambda x, y: x[0], xs, cycle(xs)),
    "gather": lambda xs: smap(operator.itemgetter(0), gather(xs, [0, 5, -1, 3, 8, -4])),
    "concatenate": lambda xs: smap(operator.itemgetter(0), concatenate([xs, xs])),
    "interleave": lambda xs: smap(operator.itemgetter(0), interleave(xs, xs)),
    "collate": lambda xs: smap(lambda pair: pair[0][0], collate([xs, xs])),
    "batch": lambda xs: smap(lambda items: items[0][0], batch(xs, 3)),
    "whole batches": lambda xs: smap(lambda items: items[0][0] if len(items) == 3 else "short", batch(xs, 3, True)),
    "unbatch": lambda xs: smap(operator.itemgetter(0), unbatch([xs, xs], 10)),
    "slice": lambda xs: smap(operator.itemgetter(0), cycle(xs, 10)[2:]),
    "repeat": lambda xs: smap(lambda items: items[0][0], repeat(xs, 20)),
}


@pytest.mark.parametrize("name", LIST_VIEWS)
def test_lists_that_change_while_they_are_read(name):
    items = [[k] for k in range(10)]
    view = LIST_VIEWS[name](items)
    done = threading.Event()
    fine = (IndexError, EvaluationError)  # where the list is too short at the moment

    def change(seed):
        draw = random.Random(seed)
        try:
            for _ in range(3000):
                if len(items) > 20:
                    items.clear()
                what = draw.randrange(6)
                if what == 0:
                    del items[draw.randrange(10) :]
                elif what == 1:
                    items[:] = [[k] for k in range(10)]
                elif what == 2 and items:
                    with contextlib.suppress(IndexError):
                        items[draw.randrange(10)] = [draw.randrange(10)]
                else:
                    items.append([draw.randrange(10)])
        finally:
            done.set()

    def read(seed):
        draw = random.Random(seed)
        found = set()
        while not done.is_set():
            with contextlib.suppress(fine):
                found.add(view[draw.randrange(10)])
            iterator = iter(view)
            while True:
                try:
                    found.update(itertools.islice(iterator, 30))
                    break
                except fine:
                    pass
        return found

    _, *found = side_by_side(lambda: change(0), *[lambda seed=seed: read(seed) for seed in range(1, 4)])
    assert set().union(*found) <= {*range(10)}


def test_assignments_beside_reads():
    items = [[0] for _ in range(10)]
    views = [gather(items, list(range(10))), concatenate([items]), batch(items, 5), repeat([0], 10), items]

    def write():
        for value in range(2000):
            views[0][value % 10] = [value]
            views[1][value % 10] = [value]
            views[2][1] = [[value]] * 5
            views[3][0] = [value]

    def read():
        for k in range(2000):
            for view in views:
                item = view[k % 2]
                assert 0 <= (item[0][0] if view is views[2] else item[0]) < 2000

    side_by_side(write, write, *[read] * 3)


# ---- Caches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["memory", "dict", "ordered"])
def test_what_a_cache_keeps_is_computed_once(kept):
    calls = [[] for _ in range(N)]
    mapping = {"memory": None, "dict": {}, "ordered": collections.OrderedDict()}[kept]
    view = add_cache(smap(lambda i: calls[i].append(i) or fresh(i), range(N)), N, mapping)

    def read(seed):
        draw = random.Random(seed)
        return {i: view[i] for i in (draw.randrange(N) for _ in range(4000))}

    found = side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)])
    assert [len(each) for each in calls] == [1] * N
    for own in found:
        assert all(value is view[i] for i, value in own.items())


@pytest.mark.parametrize("kept", ["memory", "dict"])
def test_counts_of_batches_and_of_items(kept):
    computed = [[] for _ in range(THREADS)]

    def note(i):
        computed[seeds[threading.get_ident()]].append(i)
        return i

    seeds = {}
    view = add_cache(smap(note, unbatch(smap(list, [range(k, k + 5) for k in range(0, N, 5)]), 5)), N // 4,
                     {} if kept == "dict" else None)  # fmt: skip

    def read(seed):
        seeds[threading.get_ident()] = seed
        draw = random.Random(seed)
        for _ in range(300):
            indices = [draw.randrange(N) for _ in range(8)]
            assert view.__getitems__(indices) == indices and view[indices[0]] == indices[0]
            assert view.cache_info().currsize <= N // 4

    side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)])
    info = view.cache_info()
    assert info.misses == sum(map(len, computed)) and info.currsize == N // 4
    assert 2400 * THREADS * 0.8 < info.hits + info.misses <= 2700 * THREADS  # a batch asks once for what it has twice


@pytest.mark.parametrize("n", [2, 4])
def test_caches_that_read_each_other(n):
    def item(k, i):
        return i if i < n else caches[(k + 1) % n][i - 1] + caches[(k + n - 1) % n][i - 2] - i + 3

    caches = [add_cache(smap(lambda i, k=k: item(k, i), range(20)), 20) for k in range(n)]
    expected = [[item(k, i) for i in range(20)] for k in range(n)]
    for _ in range(40):
        for view in caches:
            view.cache_clear()
        reads = [lambda k=k: list(caches[k % n]) for k in range(THREADS)]
        assert side_by_side(*reads) == [expected[k % n] for k in range(THREADS)]


def test_failures_while_items_fail():
    def fail(i):
        if i % 3 == 0:
            raise OSError(i)
        return i

    view = guard(smap(fail, range(300)), default=-1, budget=100)

    def read():
        for _ in range(10):
            assert list(view) == [-1 if i % 3 == 0 else i for i in range(300)]

    def look():
        for _ in range(300):
            assert all(i % 3 == 0 and error.args == (i,) for i, error in view.failures)

    side_by_side(read, read, read, look, look)
    assert len(view.failures) == 100


@pytest.mark.parametrize("kept", ["memory", "dict"])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_cache_that_forgets(size, kept):
    at_work = [0] * 50
    most = [0] * 50

    def slow(i):  # the cache lets nobody else compute i meanwhile, so that nothing else guards these
        at_work[i] += 1
        most[i] = max(most[i], at_work[i])
        value = fresh(i)
        at_work[i] -= 1
        return value

    mapping = {} if kept == "dict" else None
    view = add_cache(smap(slow, range(50)), size, mapping)

    def read(seed):
        draw = random.Random(seed)
        return all(view[i] == fresh(i) for i in (draw.randrange(50) for _ in range(2000)))

    assert side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)]) == [True] * THREADS
    assert most == [1] * 50
    assert mapping is None or len(mapping) <= size


@pytest.mark.parametrize("kept", ["memory", "dict"])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_assignments_to_a_cache_are_seen_at_once(size, kept):
    source = [0] * 5
    view = add_cache(gather(source, list(range(5))), size, {} if kept == "dict" else None)

    def write(i):
        for value in range(1, 2001):
            view[i] = value
            assert view[i] == value  # nobody else writes there
        return value

    def read(seed):
        draw = random.Random(seed)
        last = [0] * 5
        for _ in range(6000):
            i = draw.randrange(5)
            value = view[i]
            assert value >= last[i]
            last[i] = value

    side_by_side(*[lambda i=i: write(i) for i in range(3)], *[lambda seed=seed: read(seed) for seed in range(3)])
    assert list(view) == [2000] * 3 + [0] * 2


def test_a_cache_whose_items_fail():
    def fail_now_and_then(i):
        attempts[i].append(i)
        if len(attempts[i]) % 2:
            raise ValueError(i)
        return fresh(i)

    attempts = [[] for _ in range(20)]
    view = add_cache(smap(fail_now_and_then, range(20)), 5)

    def read(seed):
        draw = random.Random(seed)
        for _ in range(1000):
            i = draw.randrange(20)
            try:
                assert view[i] == fresh(i)
            except EvaluationError as error:
                assert error.__cause__.args == (i,)

    side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)])


# ---- What else changes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 3])
def test_a_uniter_uses_its_iterable_in_one_thread_at_a_time(passes):
    class Source:
        busy = False

        def __iter__(self):
            for k in range(N):
                assert not self.busy
                self.busy = True
                value = fresh(k)
                self.busy = False
                yield value

    view = uniter(Source(), 4, passes, N)

    def read(seed):
        draw = random.Random(seed)
        for start in (draw.randrange(N - 10) for _ in range(20)):
            assert [view[i] for i in range(start, start + 10)] == [fresh(i) for i in range(start, start + 10)]

    side_by_side(*[lambda seed=seed: read(seed) for seed in range(THREADS)])


def test_a_probe_keeps_its_limit():
    calls = []
    view = debug(range(N), lambda i, value: calls.append(i), max_calls=50)
    side_by_side(*[lambda: list(view)] * THREADS)
    assert len(calls) == 50


def test_a_monitor_beside_resets():
    view = monitor_throughput(smap(fresh, range(N)))

    def reset():
        for _ in range(500):
            view.reset()
            view[0]

    side_by_side(reset, *[lambda: [list(view) for _ in range(5)]] * 3)
    assert view.read_delay() > 0


def test_views_are_made_and_dropped_in_threads():
    source = smap(fresh, range(N))
    shared = [source]

    def make(seed):
        draw = random.Random(seed)
        for _ in range(500):
            view = [*shared][-1]
            if len(shared) > 8:
                shared[:] = [source]
            shared.append(draw.choice([view[0:], gather(view, range(N)), concatenate([view, []]), smap(fresh, source)]))
            iterator = iter(view)
            next(iterator)

    side_by_side(*[lambda seed=seed: make(seed) for seed in range(THREADS)])
