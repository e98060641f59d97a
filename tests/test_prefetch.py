"""The prefetch, over threads."""

import concurrent.futures
import contextlib
import functools
import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import random
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
import warnings
import weakref
from typing import ClassVar

import pytest

import lazyseq
from lazyseq import EvaluationError, batch, collate, gather, prefetch, seterr, smap, unbatch

frees_at_once = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a free-threaded CPython frees what a sleeping thread has made when it wakes",
)


def settled(condition):
    """Whether it is so, in the end."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


@pytest.fixture(autouse=True)
def no_worker_left():
    """Every test ends its workers, by garbage collection if not by close."""
    started_elsewhere.update(workers())
    yield
    gc.collect()
    settled(lambda: not workers() and not multiprocessing.active_children())
    assert workers() == set() and multiprocessing.active_children() == []


started_elsewhere = set()


def workers():
    """The workers that this test has started."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("lazyseq")} - started_elsewhere


@pytest.fixture(params=["thread", "process"])
def either_method(request, monkeypatch):
    """The test holds for threads and for processes."""
    if request.param == "process":
        monkeypatch.setitem(globals(), "prefetch", functools.partial(lazyseq.prefetch, method="process"))


def within(seconds, function, *args):
    """What a function gives or raises that must not take longer: a hang is a failure, not the end of the tests."""
    future = concurrent.futures.Future()

    def call():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(seconds)
    finally:
        assert future.done(), "hangs"


class Log:
    """A function that notes what it is called with, from any thread."""

    def __init__(self, function=lambda x: x):
        self.function = function
        self.calls = []

    def __call__(self, x):
        self.calls.append(x)
        return self.function(x)


class Endless:
    """Items without a length; it ends where `end` says."""

    def __init__(self, end=None):
        self.end = end

    def __getitem__(self, i):
        if self.end is not None and i >= self.end:
            raise IndexError(i)
        return -i


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("nworkers", [0, 1, 2, 4])
@pytest.mark.parametrize("max_buffered", [1, 2, 7, 64, 1000])
def test_iteration_gives_the_items_in_order(nworkers, max_buffered):
    view = prefetch(smap(operator.neg, range(500)), nworkers, max_buffered=max_buffered)
    assert len(view) == 500
    assert list(view) == [-i for i in range(500)]
    assert list(view) == [-i for i in range(500)], "again"


def test_order_does_not_depend_on_who_finishes_first():
    first_may_end = threading.Event()

    def slow_start(i):
        if i == 0:
            first_may_end.wait()
        if i == 5:
            first_may_end.set()
        return i

    assert list(prefetch(smap(slow_start, range(20)), 2, max_buffered=10)) == list(range(20))


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("nworkers", [1, 3])
def test_any_index_at_any_time(nworkers):
    view = prefetch(smap(operator.neg, range(300)), nworkers, max_buffered=8)
    draw = random.Random(1)
    for _ in range(3000):
        i = draw.randrange(-300, 300)
        assert view[i] == -(i % 300)
        for k in range(draw.randrange(5)):
            if i >= 0 and i + k < 300:
                assert view[i + k] == -i - k


@pytest.mark.usefixtures("either_method")
def test_skipping_forward_and_backward():
    view = prefetch(range(100), 2, max_buffered=6)
    assert [view[i] for i in range(0, 100, 3)] == list(range(0, 100, 3))
    assert [view[i] for i in range(99, -1, -1)] == list(range(99, -1, -1))
    assert list(view[::-7]) == list(range(100))[::-7]
    assert list(view[10:20][2:4]) == [12, 13]


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("index", [-1, -100])
def test_negative_indices(index):
    assert within(10, prefetch(range(100), 2).__getitem__, index) == range(100)[index]


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("index", [100, -101, 10**30])
def test_outside_is_index_error(index):
    with pytest.raises(IndexError):
        prefetch(range(100), 2)[index]


@pytest.mark.usefixtures("either_method")
def test_empty_source():
    assert list(prefetch([], 2)) == []


def test_nothing_starts_before_the_first_read():
    log = Log()
    view = prefetch(smap(log, range(10)), 2)
    repr(view), len(view), view[2:5], view.children
    assert workers() == set() and log.calls == []
    assert view[0] == 0
    assert settled(lambda: len(workers()) == 2)


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("max_buffered", [1, 4, 10])
def test_started_minus_delivered_stays_within_max_buffered(max_buffered):
    log = Log()
    for delivered, _ in enumerate(prefetch(smap(log, range(300)), 3, max_buffered=max_buffered), 1):
        # The item in hand was delivered just now, so the loop may see the room that it has left filled.
        assert len(log.calls) - delivered <= max_buffered


def test_at_rest_the_buffer_is_full():
    log = Log(lambda x: time.sleep(0.001) or x)  # not so cheap that handing it over would cost more
    view = prefetch(smap(log, range(100)), 2, max_buffered=8)
    assert view[0] == 0
    settled(lambda: len(log.calls) >= 9)
    time.sleep(0.02)
    assert sorted(log.calls) == list(range(9))


@pytest.mark.usefixtures("either_method")
def test_a_single_read_elsewhere_evaluates_little():
    log = Log()
    view = prefetch(smap(log, range(10**6)), 2, max_buffered=100)
    assert view[0] == 0
    for i in range(1000, 100_000, 1000):
        assert view[i] == i
    assert len([x for x in log.calls if x >= 1000]) <= 99 * 4


def test_a_read_elsewhere_does_not_wait_for_what_runs():
    release = threading.Event()
    view = prefetch(smap(lambda i: i if i != 1 else release.wait() and i, range(100)), 2, max_buffered=2)
    assert view[0] == 0  # a worker is caught in item 1
    assert within(10, view.__getitem__, 50) == 50
    assert within(10, view.__getitem__, 0) == 0
    release.set()
    assert view[1] == 1


@pytest.mark.parametrize("max_buffered", [64, 512])
def test_items_that_turn_out_slow_are_shared_out_among_the_workers(max_buffered):
    log, threads = Log(), set()

    def suddenly_slow(i):
        log(i)
        if i >= 5000:
            threads.add(threading.get_ident())
            time.sleep(0.002)
        return i

    view = prefetch(smap(suddenly_slow, range(5300)), 4, max_buffered=max_buffered)
    items = iter(view)
    assert list(itertools.islice(items, 5000)) == list(range(5000))
    assert list(items) == list(range(5000, 5300))
    assert len(threads) == 4
    assert sorted(log.calls) == list(range(5300))


def test_what_is_finished_before_a_slow_item_is_there_at_once():
    """A run that looked cheap is handed over and counted without a wake-up: the reader looks by itself."""
    waits = []
    for _ in range(20):
        release = threading.Event()
        view = prefetch(smap(lambda i, release=release: i if i != 1000 else release.wait(60) and i, range(2000)), 2,
                        max_buffered=64)  # fmt: skip
        items = iter(view)
        for i in range(900):
            assert next(items) == i
        start = time.perf_counter()
        for i in range(900, 1000):
            assert next(items) == i
        waits.append(time.perf_counter() - start)
        release.set()
        view.close()
    assert sorted(waits)[15] < 0.05  # with sleeps of 0.1 s, every other one took longer


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts how often a single thread has slept")
def test_a_reader_that_waits_sleeps_through_several_short_runs():
    import resource

    def nap(i):
        time.sleep(20e-6)
        return i

    def sleeps():
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

    found = [10**6]
    with prefetch(smap(nap, range(2000)), nworkers=4, max_buffered=64) as p:
        while min(found) >= 350 and len(found) <= 20:  # mostly 200 to 350, more when others are busy
            before = sleeps()
            assert list(p) == list(range(2000))
            found.append(sleeps() - before)
    assert min(found) < 350  # woken for each run, it is 450 to 900


def test_slow_items_in_the_midst_of_cheap_ones_are_evaluated_side_by_side():
    def seldom_slow(i):
        if i % 100 < 4:
            time.sleep(0.02)
        return i

    start = time.perf_counter()
    assert list(prefetch(smap(seldom_slow, range(1500)), 4, max_buffered=16)) == list(range(1500))
    assert time.perf_counter() - start < 0.8 * 60 * 0.02  # what they take one after the other


def test_items_that_share_an_evaluation_are_evaluated_once():
    log = Log()
    pairs = collate([smap(log, range(100)), range(100)])
    assert list(prefetch(unbatch(pairs, 2), 2)) == [x for i in range(100) for x in (i, i)]
    assert sorted(log.calls) == list(range(100))


@pytest.mark.parametrize("start", [0, 1, 7, 19])
def test_runs_of_grain_are_aligned_wherever_reading_starts(start):
    log = Log(lambda i: [10 * i + k for k in range(10)])
    view = prefetch(smap(operator.neg, unbatch(smap(log, range(5)), 10)), 2, max_buffered=20)
    assert [view[i] for i in range(start, 50)] == [-i for i in range(start, 50)]
    assert sorted(log.calls) == list(range(start // 10, 5))


def test_a_slow_run_is_cut_between_grains():
    log = Log(lambda i: time.sleep(0.005 * (i >= 50)) or range(4 * i, 4 * i + 4))
    assert list(prefetch(unbatch(smap(log, range(60)), 4), 2, max_buffered=64)) == list(range(240))
    assert sorted(log.calls) == list(range(60))


def test_a_grain_larger_than_max_buffered_still_runs_side_by_side():
    both = threading.Barrier(2, timeout=10)
    view = prefetch(unbatch(smap(lambda i: both.wait() and [i] * 50 or [i] * 50, range(4)), 50), 2, max_buffered=2)
    assert list(view) == [i for i in range(4) for _ in range(50)]


def test_without_workers_it_closes_all_the_same():
    view = prefetch([1, 2], nworkers=0)
    assert list(view) == [1, 2]
    view.close()
    with pytest.raises(ValueError, match="prefetch is closed"):
        view[0]


def test_an_item_that_fails_within_a_grain_fails_alone():
    def fail_at_three(x):
        if x == 3:
            raise KeyError(x)
        return x

    log = Log(fail_at_three)
    view = prefetch(smap(log, unbatch([[0, 1], [2, 3], [4, 5]], 2)), 2)
    items = iter(view)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EvaluationError, match="failed to evaluate item 3 of smap"):
        next(items)
    assert list(items) == [4, 5]
    assert sorted(log.calls) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(EvaluationError, match="failed to evaluate item 3 of smap"):
        view[3]


# ---- Lengths that are unknown, or change ------------------------------------------------------------------------


@pytest.mark.usefixtures("either_method")
def test_unknown_length_iterates_to_the_end():
    view = prefetch(Endless(37), 3, max_buffered=8)
    with pytest.raises(TypeError, match="no length"):
        len(view)
    assert list(view) == [-i for i in range(37)]
    assert list(view) == [-i for i in range(37)]
    with pytest.raises(IndexError):
        view[37]
    assert view[36] == -36


@pytest.mark.usefixtures("either_method")
def test_unbounded():
    assert list(itertools.islice(prefetch(Endless(), 2), 100)) == [-i for i in range(100)]
    assert prefetch(Endless(), 2)[10**12] == -(10**12)


def test_a_source_that_grows_and_shrinks():
    source = list(range(10))
    view = prefetch(source, 2, max_buffered=4)
    assert list(view) == list(range(10))
    source.extend(range(10, 20))
    assert list(view) == list(range(20))
    seen = view[3]
    del source[5:]
    assert seen == 3 and len(view) == 5
    with pytest.raises(IndexError):
        view[7]
    assert list(view) == list(range(5))


@pytest.mark.parametrize("nworkers", [1, 3])
@pytest.mark.parametrize("max_buffered", [1, 4, 50])
def test_a_source_that_shrinks_while_it_is_iterated_over(nworkers, max_buffered):
    for end in (0, 5, 11, 12, 20):
        source = list(range(40))
        items = iter(prefetch(source, nworkers, max_buffered=max_buffered))
        assert [next(items) for _ in range(10)] == list(range(10))
        del source[end:]
        assert within(10, list, items) == list(range(10, end))

        source = list(range(40))
        pairs = prefetch(source, nworkers, max_buffered=max_buffered).as_completed()
        found = [next(pairs) for _ in range(10)]
        del source[end:]
        for _ in range(50):
            with contextlib.suppress(IndexError):
                found.append(within(10, next, pairs, None))
            if found[-1] is None:
                break
        assert found.pop() is None
        assert sorted(found)[:end] == [(i, i) for i in range(end)] and len(set(found)) == len(found)


# ---- Errors -----------------------------------------------------------------------------------------------------


def outcomes(view):
    """Each item, or what reading it raised, by one iterator that goes on."""
    iterator, found = iter(view), []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except BaseException as error:
            found.append(error)


def moody(x):
    if x % 5 == 3:
        raise {3: KeyError, 8: StopIteration, 13: IndexError, 18: SystemExit}[x](x)
    return x


@pytest.mark.parametrize("nworkers", [0, 1, 3])
def test_errors_are_raised_at_their_index_and_reading_goes_on(nworkers):
    view = prefetch(smap(moody, range(20)), nworkers, max_buffered=6)
    for _ in range(2):
        found = outcomes(view)
        assert len(found) == 20
        for i, item in enumerate(found):
            if i in (3, 8, 13):
                assert type(item) is EvaluationError and item.index == i
                assert str(item).startswith(f"failed to evaluate item {i} of smap(moody) made at {__file__}:")
                assert type(item.__cause__) in (KeyError, StopIteration, IndexError)
                assert item.__cause__.__traceback__.tb_next.tb_frame.f_code is moody.__code__
            elif i == 18:
                assert type(item) is SystemExit and item.code == 18
            else:
                assert item == i


def test_the_error_names_the_prefetch_where_there_is_no_other_stage():
    class Broken(Endless):
        def __len__(self):
            return 10

        def __getitem__(self, i):
            raise OSError("disk on fire")

    with pytest.raises(EvaluationError, match=r"failed to evaluate item 4 of prefetch\(2 threads\)") as caught:
        prefetch(Broken(), 2)[4]
    assert str(caught.value.__cause__) == "disk on fire"


@pytest.mark.usefixtures("either_method")
def test_workers_follow_the_mode_of_the_code_that_made_the_prefetch():
    source = smap(moody, range(20))
    seterr("passthrough")
    try:
        through = prefetch(source, 2)
    finally:
        seterr("wrap")
    with pytest.raises(KeyError):
        through[3]
    wrapped = prefetch(source, 2)
    seterr("passthrough")
    try:
        with pytest.raises(EvaluationError):
            wrapped[3]
    finally:
        seterr("wrap")


@pytest.mark.usefixtures("either_method")
def test_reading_a_failed_item_again_tries_again():
    attempts = Log(lambda x: 1 // (len(attempts.calls) - 1))
    view = prefetch(smap(attempts, [5]), 1)
    with pytest.raises(EvaluationError):
        view[0]
    assert view[0] == 1


@pytest.mark.usefixtures("either_method")
def test_a_failing_start_hook_fails_the_read():
    def hook(worker):
        raise OSError(f"no licence for {worker}")

    view = prefetch(range(10), 1, start_hook=hook)
    for _ in range(2):
        with pytest.raises(EvaluationError, match="start_hook failed") as caught:
            view[0]
        assert str(caught.value.__cause__) == "no licence for 0"


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("nworkers", [2, 4])
def test_a_failing_start_hook_fails_every_way_to_read(nworkers):
    def hook(worker):
        raise OSError("no licence")

    ways = [list, lambda view: list(view.as_completed()), lambda view: view.__getitems__([7, 2]),
            lambda view: list(batch(view, 4)), lambda view: view[[3, 1]][0], lambda view: view[2:][3]]  # fmt: skip
    for read in ways:
        view = prefetch(range(10), nworkers, start_hook=hook)
        for _ in range(2):
            with pytest.raises(EvaluationError, match="start_hook failed") as caught:
                within(20, read, view)
            assert str(caught.value.__cause__) == "no licence"


# ---- Hooks ------------------------------------------------------------------------------------------------------


def test_start_hook_gets_the_index_if_it_wants_one():
    seen, all_three = [], threading.Barrier(3)
    view = smap(lambda i: all_three.wait(10) >= 0, range(3))  # or all might be done before all have started
    with prefetch(view, 3, start_hook=seen.append) as items:
        assert list(items) == [True] * 3
    assert sorted(seen) == [0, 1, 2]
    seen.clear()
    with prefetch(view, 3, start_hook=lambda: seen.append("called")) as items:
        assert list(items) == [True] * 3
    assert seen == ["called"] * 3


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals are not masked there")
def test_what_a_start_hook_does_to_its_thread_is_not_inherited_by_other_workers():
    """A thread has the signal mask, niceness and affinity of the one that has started it."""
    found, all_there = [], AllThere(4)
    hook = lambda: found.append(signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]))  # noqa: E731
    with prefetch(smap(lambda i: all_there(i) if i > 4 else i, range(20)), 4, start_hook=hook) as view:
        assert list(view) == list(range(20))
    assert found == [signal.pthread_sigmask(signal.SIG_BLOCK, [])] * 4


# ---- Several readers --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_method")
def test_two_iterators_over_one_prefetch():
    view = prefetch(smap(operator.neg, range(200)), 2)
    assert list(zip(view, view, strict=True)) == [(-i, -i) for i in range(200)]


@pytest.mark.usefixtures("either_method")
def test_threads_share_one_prefetch():
    view = prefetch(smap(operator.neg, range(100)), 3, max_buffered=5)
    results = []
    readers = [threading.Thread(target=lambda: results.append(list(view))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert results == [[-i for i in range(100)]] * 8


def test_a_function_that_reads_its_own_prefetch():
    chain = []
    view = prefetch(smap(lambda i: 0 if i == 0 else chain[0][i - 1] + 1, range(20)), 1)
    chain.append(view)
    assert within(10, list, view) == list(range(20))
    chain.clear()


@pytest.mark.parametrize(("inner", "outer"), [(2, 2), (4, 1)])
def test_a_prefetch_over_a_prefetch_evaluates_each_item_once(inner, outer):
    log = Log(lambda i: time.sleep(0.0002) or i)
    assert list(prefetch(smap(operator.neg, prefetch(smap(log, range(200)), inner)), outer)) == [-i for i in range(200)]
    assert sorted(log.calls) == list(range(200))


def test_threads_that_share_an_iterator_read_in_order():
    log = Log(lambda i: time.sleep(0.0001) or i)
    iterator = iter(prefetch(smap(log, range(500)), 3))
    found = []
    readers = [threading.Thread(target=lambda: found.extend(iterator)) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert sorted(found) == sorted(log.calls) == list(range(500))


def test_many_threads_that_read_a_little_and_end():
    """As in a server with a thread for each request: identifiers come again while their last owners' windows go."""
    requests = iter(range(0, 10**6, 7))
    view = prefetch(smap(lambda i: time.sleep(0.0002) or (i, i), range(10**6)), 2, max_buffered=6)
    answered, stuck = [], []

    def request(k):
        if [view[i] for i in range(k, k + 4)] == [(i, i) for i in range(k, k + 4)]:
            answered.append(k)

    def client():
        for k in itertools.islice(requests, 20):
            thread = threading.Thread(target=request, args=(k,), daemon=True)
            thread.start()
            thread.join(10)
            if thread.is_alive():
                stuck.append(thread)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        clients = [threading.Thread(target=client) for _ in range(45)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not stuck and len(set(answered)) == 45 * 20
    view.close()


@frees_at_once
def test_what_a_thread_had_ahead_goes_with_it():
    class Item:
        def __init__(self, i):
            alive.append(i)

        def __del__(self):
            alive.pop()

    alive = []
    view = prefetch(smap(Item, range(100)), 2, max_buffered=10)
    others = prefetch(range(100), 1)

    def read():
        assert others[3] == 3
        view[50]
        while len(alive) < 5:
            time.sleep(0.001)

    for _ in range(50):
        within(10, read)
        assert settled(lambda: len(alive) <= 2), "each worker may know the last one that it has evaluated"
    view.close()


@pytest.mark.usefixtures("either_method")
def test_more_readers_than_there_may_be_windows():
    view = prefetch(smap(operator.neg, range(100)), 2, max_buffered=4)
    iterators = [iter(view) for _ in range(1100)]
    for i in range(3):
        assert [next(iterator) for iterator in iterators] == [-i] * 1100
    assert within(30, view.__getitem__, 7) == -7
    assert list(view) == [-i for i in range(100)]
    del iterators
    assert [view[i] for i in range(100)] == [-i for i in range(100)]


def test_more_threads_than_processors_read_by_index_at_the_same_time():
    view = prefetch(smap(operator.neg, range(10**6)), 3, max_buffered=5)
    together, found = threading.Barrier(50, timeout=30), []

    def read(k):
        together.wait()
        found.append([view[i] for i in range(k, k + 60)] == [-i for i in range(k, k + 60)])
        together.wait()

    readers = [threading.Thread(target=read, args=(1000 * k,)) for k in range(50)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert found == [True] * 50


def test_a_prefetch_that_its_source_knows_is_garbage_all_the_same():
    class Dataset:
        def __init__(self):
            self.items = prefetch(smap(self.load, range(100)), 2)

        def load(self, i):
            return i

    for use in (lambda items: items[3], list, lambda items: next(iter(items)), lambda items: items[[5, 2]][0]):
        dataset = Dataset()
        use(dataset.items)
        reference = weakref.ref(dataset)
        del dataset
        deadline = time.monotonic() + 10
        while reference() is not None and time.monotonic() < deadline:
            gc.collect()  # again where a worker was inside an item
        assert reference() is None


def test_a_source_without_length_that_grows():
    source = Endless(5)
    view = prefetch(source, 2, max_buffered=4)
    assert list(view) == [0, -1, -2, -3, -4]
    with pytest.raises(IndexError):
        view[5]
    source.end = 20
    for i in (12, 13, 14, 5):
        assert view[i] == -i


def test_a_thread_that_cannot_be_started_now_is_started_later(monkeypatch):
    release = threading.Event()
    with prefetch(smap(lambda i: i if i != 1 else release.wait(60) and i, range(10)), 1, timeout=0.05) as view:
        assert view[0] == 0
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no thread")))
            with pytest.raises(RuntimeError, match="no thread"):
                view[1]
        with pytest.raises(TimeoutError):
            view[1]
        assert within(10, view.__getitem__, 2) == 2
        release.set()


class AllThere:
    """Its items take until so many workers are evaluating."""

    def __init__(self, nworkers):
        self.nworkers, self.names, self.event = nworkers, set(), threading.Event()

    def __call__(self, i):
        self.names.add(threading.current_thread().name)
        if len(self.names) == self.nworkers:
            self.event.set()
        assert self.event.wait(10)
        return i

    def check(self):
        assert self.names == {f"lazyseq-worker-{k}" for k in range(self.nworkers)}
        assert settled(lambda: len(workers()) == self.nworkers)


def test_the_first_item_does_not_wait_until_all_workers_have_started(monkeypatch):
    reader, start, go_on, all_there = threading.current_thread(), threading.Thread.start, threading.Event(), AllThere(8)

    def late(thread):
        if threading.current_thread() is not reader:
            assert go_on.wait(10)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", late)
    with prefetch(smap(lambda i: i and all_there(i), range(100)), 8) as view:
        assert view[0] == 0
        assert len(workers()) <= 2  # the reader starts the second if the first has not done so in a millisecond
        go_on.set()
        assert within(20, list, view) == list(range(100))
        all_there.check()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("begun", [False, True])
def test_a_start_that_fails_while_the_first_worker_is_busy_is_tried_again(error, begun, monkeypatch):
    """A Ctrl-C may come when the thread has been started and is not noted yet: it must not work beside the next one."""
    reader, start, all_there, left = threading.current_thread(), threading.Thread.start, AllThere(3), [1, 1, 1]

    def interrupted(thread):
        if threading.current_thread() is not reader or not thread.name.endswith("-1") or not left:
            return start(thread)
        left.pop()
        if begun:
            start(thread)
        raise error

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with prefetch(smap(all_there, range(30)), 3) as view:
        for _ in range(3):
            with pytest.raises(type(error)):
                view[0]
        assert within(20, list, view) == list(range(30))
        all_there.check()


def test_workers_that_cannot_start_are_missed_only_where_a_reader_waits(monkeypatch):
    start, go_on = threading.Thread.start, threading.Event()

    def refuse(thread):
        if not thread.name.endswith("-0"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with prefetch(smap(lambda i: i if i != 50 else go_on.wait(10) and i, range(100)), 4) as view:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                for i in range(51):
                    assert view[i] == i
            assert len(workers()) == 1
        go_on.set()
        assert list(view) == list(range(100))


def test_readers_that_see_the_same_late_item_replace_its_worker_once():
    def read():
        items, late = iter(view), set()
        for i in range(30):
            try:
                assert next(items) == i
            except TimeoutError:
                late.add(i)
        return late

    with prefetch(smap(lambda i: time.sleep(0.03 * (i % 3 == 0)) or i, range(30)), 2, timeout=0.01) as view:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for reader in [pool.submit(read) for _ in range(4)]:
                assert reader.result() >= {*range(0, 30, 3)}  # others may be late on a busy machine
        assert settled(lambda: sorted(thread.name[-2:] for thread in workers()) == ["-0", "-1"])


def test_a_timeout_in_a_bulk_read_names_the_item():
    release = threading.Event()
    with prefetch(smap(lambda i: i if i != 2 else release.wait(60) and i, range(10)), 2, timeout=0.05) as view:
        with pytest.raises(TimeoutError, match="^item 2 of"):
            view.__getitems__([5, 2, 0])
        release.set()


def test_without_workers_errors_follow_the_mode_of_the_code_that_made_the_prefetch():
    seterr("passthrough")
    try:
        view = prefetch(smap(operator.neg, ["x"]), 0)
    finally:
        seterr("wrap")
    for read in (view.__getitem__, lambda i: next(iter(view)), lambda i: next(view.as_completed())):
        with pytest.raises(TypeError):
            read(0)


@frees_at_once
def test_an_item_that_is_given_up_while_it_is_counted_does_not_stay_with_an_idle_worker(monkeypatch):
    alive, evaluated, go_on = weakref.WeakSet(), threading.Event(), threading.Event()

    class Item:
        def __init__(self):
            alive.add(self)

    def clock():  # which the worker reads when it has stored an item, before it counts it
        if alive and threading.current_thread() is not threading.main_thread():
            evaluated.set()
            go_on.wait(10)
        return time.perf_counter_ns()

    monkeypatch.setattr(lazyseq._engine, "perf_counter_ns", clock)
    # Not cheap, or it might not be begun before it is asked for.
    view = prefetch(smap(lambda i: time.sleep(0.005) or (i and Item()), range(10)), 1, max_buffered=1)
    items = iter(view)
    assert next(items) == 0 and evaluated.wait(10) and len(alive) == 1
    del items
    go_on.set()
    assert settled(lambda: not alive)


@frees_at_once
def test_an_iterator_takes_what_was_ready_for_it_along():
    """Cheap items come run by run; who goes away in the middle of one leaves nothing in a worker's hands."""
    alive = weakref.WeakSet()

    class Item:
        def __init__(self):
            alive.add(self)

    view = prefetch(smap(lambda i: Item(), range(10**6)), 1, max_buffered=32)
    for n in (5000, 5001, 5007, 5016):
        iterator = iter(view)
        for _ in range(n):
            next(iterator)
        del iterator
        assert settled(lambda: not alive)
    iterator = iter(view)
    first = next(iterator)
    iterator.__init__(view, 10**6)
    with pytest.raises(StopIteration):
        next(iterator)
    assert type(first) is Item


def test_an_interrupted_read_loses_no_item():
    release = threading.Event()
    iterator = iter(prefetch(smap(lambda i: i if i != 3 else release.wait(60) and i, range(6)), 1))
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    release.set()
    assert list(iterator) == [3, 4, 5]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_length_that_cannot_be_told_loses_no_item(error):
    class Away(Endless):
        is_away = False

        def __len__(self):
            if self.is_away:
                raise error("the share is away")
            return 10

    source = Away()
    iterator = iter(prefetch(source, 2, max_buffered=4))
    for i in range(10):
        source.is_away = True
        for _ in range(2):
            with pytest.raises(error):
                next(iterator)
        source.is_away = False
        assert next(iterator) == -i
    assert list(iterator) == []


def test_two_prefetches_whose_functions_read_each_other():
    chain = []
    first = prefetch(smap(lambda i: i if i < 10 else chain[0][i - 10] + 10, range(30)), 2)
    second = prefetch(smap(lambda i: first[i], range(30)), 2)
    chain.append(second)
    assert within(30, list, first) == list(range(30))
    assert within(30, list, second) == list(range(30))
    chain.clear()
    first.close()
    second.close()


def test_a_destructor_that_reads_the_prefetch():
    class Nosy:
        def __init__(self, i):
            time.sleep(0.001)
            self.i = i
            made.append(i)

        def __del__(self):
            if self.i == 5:
                read.append(view[40].i)

    read, made = [], []
    view = prefetch(smap(Nosy, range(50)), 2, max_buffered=10)

    def jump():
        assert view[0].i == 0
        while len(made) < 11:
            time.sleep(0.001)
        return view[30].i  # what was ahead is dropped here

    assert within(10, jump) == 30
    deadline = time.monotonic() + 10
    while not read and time.monotonic() < deadline:
        gc.collect()  # without a GIL, what a thread that sleeps has made dies when this looks after it
    assert read == [40]
    view.close()  # the workers know the source, which knows the prefetch: this one is never garbage


def test_views_over_a_prefetch():
    view = prefetch(smap(operator.neg, range(100)), 2)
    assert list(batch(view, 30))[-1] == [-90, -91, -92, -93, -94, -95, -96, -97, -98, -99]
    assert list(gather(view, [5, 3, 99])) == [-5, -3, -99]
    assert list(prefetch(view, 2)) == [-i for i in range(100)]
    assert list(view[[1, 2]]) == [-1, -2]


# ---- Life -------------------------------------------------------------------------------------------------------


def test_close_ends_the_workers_and_reading():
    view = prefetch(range(100), 3)
    assert view[5] == 5
    view.close()
    assert workers() == set()
    view.close()
    assert len(view) == 100
    with pytest.raises(ValueError, match="prefetch is closed"):
        view[5]
    with pytest.raises(ValueError, match="prefetch is closed"):
        next(iter(view))


@frees_at_once
def test_close_drops_what_was_evaluated_ahead():
    class Item:
        pass

    made = weakref.WeakSet()

    def make(i):
        item = Item()
        made.add(item)
        return item

    with prefetch(smap(make, range(100)), 2, max_buffered=8) as view:
        view[0]
    assert settled(lambda: not made)  # a worker lets go of its last one
    assert len(view) == 100


@pytest.mark.usefixtures("either_method")
def test_views_over_a_closed_prefetch_say_so():
    view = prefetch(range(10), 2)
    part = smap(operator.neg, view[2:])
    assert part[0] == -2
    view.close()
    with pytest.raises(ValueError, match="^prefetch is closed$"):
        part[0]


@pytest.mark.usefixtures("either_method")
def test_close_before_the_first_read():
    view = prefetch(range(10), 2)
    view.close()
    with pytest.raises(ValueError, match="prefetch is closed"):
        view[0]


def test_close_while_another_thread_waits():
    evaluating, release = threading.Event(), threading.Event()

    def stuck(i):
        evaluating.set()
        release.wait()

    view = prefetch(smap(stuck, range(10)), 1)
    caught = []

    def read():
        try:
            view[0]
        except ValueError as error:
            caught.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    evaluating.wait()
    within(10, view.close)  # although the item goes on
    reader.join(10)
    assert caught == ["prefetch is closed"]
    release.set()


@pytest.mark.parametrize(
    "read", [list, lambda view: list(view.as_completed()), lambda view: view.__getitems__([7, 2]), lambda view: view[9]]
)
def test_close_while_other_threads_wait(read):
    evaluating, release = threading.Event(), threading.Event()
    view = prefetch(smap(lambda i: evaluating.set() or release.wait(60), range(10)), 2)
    caught = []

    def reader():
        with pytest.raises(ValueError, match="^prefetch is closed$") as error:
            read(view)
        caught.append(error)

    readers = [threading.Thread(target=reader) for _ in range(3)]
    for thread in readers:
        thread.start()
    assert evaluating.wait(10)
    time.sleep(0.02)
    within(10, view.close)
    for thread in readers:
        thread.join(10)
    assert len(caught) == 3
    release.set()


@pytest.mark.usefixtures("either_method")
def test_the_context_manager_closes():
    with prefetch(range(10), 2) as view:
        assert view[3] == 3
    with pytest.raises(ValueError, match="prefetch is closed"):
        view[3]


def test_garbage_collection_ends_the_workers():
    view = prefetch(smap(operator.neg, range(100)), 2)
    iterator = iter(view)
    assert next(iterator) == 0
    cycle = [view]
    cycle.append(cycle)
    del view, iterator, cycle  # no_worker_left does the rest


@pytest.mark.usefixtures("either_method")
def test_break_and_start_again():
    view = prefetch(smap(operator.neg, range(100)), 2)
    for end in (0, 1, 50, 3):
        assert list(itertools.islice(view, end)) == [-i for i in range(end)]
    assert list(view) == [-i for i in range(100)]


def test_results_and_errors_are_let_go():
    class Item:
        alive: ClassVar[list] = []  # a list: counting is not atomic

        def __init__(self, i):
            Item.alive.append(i)
            if i % 7 == 0:
                raise ValueError(i)

        def __del__(self):
            Item.alive.pop()

    for _ in range(30):
        view = prefetch(smap(Item, range(100)), 2, max_buffered=20)
        for i in (1, 2, 50, 51, 3):
            view[i]
        with pytest.raises(EvaluationError):
            view[7]
        view.close()
    del view
    deadline = time.monotonic() + 10
    while Item.alive and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)
    assert Item.alive == []


def test_pickling_gives_the_recipe():
    view = prefetch(smap(operator.neg, range(10)), 2, max_buffered=5)
    assert view[3] == -3
    copy = pickle.loads(pickle.dumps(view))
    assert list(copy) == list(view)
    assert (copy.nworkers, copy.max_buffered) == (2, 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_workers_of_its_own():
    view = prefetch(smap(operator.neg, range(1000)), 2)
    assert view[3] == -3
    child = os.fork()
    if child == 0:
        os._exit(0 if [view[i] for i in range(3, 500)] == [-i for i in range(3, 500)] else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert view[4] == -4


def run_script(text, **kwargs):
    script = textwrap.dedent(text)
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True, text=True, timeout=60, check=False, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "p.close()", "next(iter(p))", "del p"])
def test_the_interpreter_exits_without_a_sound(ending):
    result = run_script(f"""
        import sys, time, lazyseq
        p = lazyseq.prefetch(lazyseq.smap(lambda i: time.sleep(0.001), range(10**6)), 4)
        p[0]
        {ending}
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_interpreter_exits_while_a_daemon_reads():
    code = """
        import threading, time
        from lazyseq import prefetch, smap
        view = prefetch(smap(lambda i: time.sleep(0.001), range(10**6)), 2)
        threading.Thread(target=lambda: list(view), daemon=True).start()
        time.sleep(0.1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_child_forked_while_another_thread_starts_the_workers():
    for k in range(8):
        view = prefetch(range(100), 64)
        reader = threading.Thread(target=view.__getitem__, args=(0,))
        reader.start()
        time.sleep(0.0005 * k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads: that is the test
            pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if view[3] == 3 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        reader.join(10)
        view.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_during_iteration():
    """Parent and child both go on where they were."""
    view = prefetch(smap(lambda i: time.sleep(0.0002) or -i, range(200)), 2, max_buffered=8)
    pairs, items = view.as_completed(), iter(view)
    first = [next(pairs) for _ in range(20)]
    assert [next(items) for _ in range(20)] == [-i for i in range(20)]
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        right = list(items) == [-i for i in range(20, 200)] and dict(first + list(pairs)) == {i: -i for i in range(200)}
        os._exit(0 if right else 1)
    assert list(items) == [-i for i in range(20, 200)]
    assert sorted(first + list(pairs)) == [(i, -i) for i in range(200)]
    assert os.waitpid(child, 0) == (child, 0)


def test_the_interpreter_exits_while_an_item_never_ends():
    result = run_script("""
        import threading, lazyseq
        p = lazyseq.prefetch(lazyseq.smap(lambda i: i or threading.Event().wait(), range(1, -1, -1)), 2)
        assert p[0] == 1
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_ctrl_c_reaches_a_waiting_reader():
    result = run_script("""
        import os, signal, threading, time, lazyseq
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        p = lazyseq.prefetch(lazyseq.smap(lambda i: i or threading.Event().wait(), range(1, -1, -1)), 2)
        assert p[0] == 1
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            p[1]
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - start < 5)
        assert p[0] == 1
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted True\n", "")


@pytest.mark.parametrize("reading", ["sum(p)", "2 in p", "collections.deque(p, 0)", "sum(p[5:])"])
def test_ctrl_c_reaches_a_reader_that_never_waits_for_long(reading):
    result = run_script(f"""
        import collections, os, signal, sys, threading, time, lazyseq
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        p = lazyseq.prefetch(lazyseq.repeat(1), 1)

        def interrupt():
            global start
            start = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Timer(0.3, interrupt).start()
        try:
            {reading}
        except KeyboardInterrupt:
            print(time.monotonic() - start)
    """)
    print(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert float(result.stdout) < 2  # 0.2 on a machine that does nothing else


def test_repr_names_the_workers():
    assert repr(prefetch(range(5), 2)) == "<lazyseq prefetch(2 threads) of 5 items>"
    assert lazyseq.prefetch(range(5), 1).children == (range(5),)


# ---- In the order in which they are finished ------------------------------------------------------------------------


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("nworkers", [0, 1, 4])
@pytest.mark.parametrize("max_buffered", [1, 3, 50])
def test_as_completed_gives_each_item_once(nworkers, max_buffered):
    view = prefetch(smap(operator.neg, range(300)), nworkers, max_buffered=max_buffered)
    assert sorted(view.as_completed()) == [(i, -i) for i in range(300)]
    assert list(view) == [-i for i in range(300)]
    assert sorted(view[10:20].as_completed()) == [(i, -i - 10) for i in range(10)]


def test_a_slow_item_holds_up_no_other_one():
    release = threading.Event()
    with prefetch(smap(lambda i: i if i != 3 else release.wait(60) and i, range(200)), 2, max_buffered=4) as view:
        pairs = view.as_completed()
        first = within(30, list, itertools.islice(pairs, 199))
        assert sorted(first) == [(i, i) for i in range(200) if i != 3]
        release.set()
        assert list(pairs) == [(3, 3)]


@pytest.mark.usefixtures("either_method")
def test_as_completed_holds_max_buffered():
    log = Log()
    for delivered, _ in enumerate(prefetch(smap(log, range(200)), 3, max_buffered=7).as_completed(), 1):
        assert len(log.calls) - delivered <= 7


@pytest.mark.usefixtures("either_method")
@pytest.mark.parametrize("nworkers", [0, 1, 3])
def test_as_completed_raises_errors_with_their_index_and_goes_on(nworkers):
    view = prefetch(smap(moody, gather(range(20), range(19, -1, -1))), nworkers)
    found, failed = [], []
    pairs = view.as_completed()
    while True:
        try:
            found.append(next(pairs))
        except StopIteration:
            break
        except EvaluationError as error:
            failed.append(error.index)
            if nworkers:
                assert f"while evaluating item {error.index} of prefetch" in error.__notes__[-1]
        except SystemExit as error:
            failed.append(19 - error.code)
            if nworkers:
                assert f"while evaluating item {19 - error.code} of prefetch" in error.__notes__[-1]
    assert sorted(failed) == [19 - i for i in (18, 13, 8, 3)]
    assert sorted(found) == sorted((19 - i, i) for i in range(20) if i % 5 != 3)


@pytest.mark.usefixtures("either_method")
def test_as_completed_of_unknown_length():
    assert sorted(prefetch(Endless(37), 3).as_completed()) == [(i, -i) for i in range(37)]
    assert list(prefetch(Endless(0), 3).as_completed()) == []
    assert len(list(itertools.islice(prefetch(Endless(), 3).as_completed(), 50))) == 50


def test_as_completed_of_items_that_share_an_evaluation():
    log = Log(lambda i: [10 * i + k for k in range(10)])
    view = prefetch(unbatch(smap(log, range(7)), 10), 2, max_buffered=3)
    assert sorted(view.as_completed()) == [(i, i) for i in range(70)]
    assert sorted(log.calls) == list(range(7))


@pytest.mark.usefixtures("either_method")
def test_as_completed_by_several_threads():
    view = prefetch(smap(operator.neg, range(2000)), 3)
    pairs, found = view.as_completed(), []
    readers = [threading.Thread(target=lambda: found.extend(list(pairs))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert sorted(found) == [(i, -i) for i in range(2000)]


@pytest.mark.usefixtures("either_method")
def test_as_completed_after_close():
    view = prefetch(range(10), 2)
    pairs = view.as_completed()
    next(pairs)
    view.close()
    with pytest.raises(ValueError, match="prefetch is closed"):
        next(pairs)


# ---- Timeouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nworkers", [1, 2])
def test_an_item_that_takes_too_long_is_a_timeout_and_reading_goes_on(nworkers):
    release = threading.Event()
    source = smap(lambda i: i if i not in (5, 6, 30) else release.wait(60) and i, range(40))
    with prefetch(source, nworkers, timeout=0.05) as view:
        found = outcomes(view)
        for i, item in enumerate(found):
            if i in (5, 6, 30):
                assert type(item) is TimeoutError
                assert str(item).startswith(f"item {i} of prefetch(")
                assert str(item).endswith("took longer than 0.05 s")
            else:
                assert item == i
        assert len(found) == 40 and view[7] == 7
        with pytest.raises(TimeoutError, match="item 5 of"):
            view[5]
        release.set()
        assert view[5] == 5
    assert view.timeout == 0.05


@pytest.mark.usefixtures("either_method")
def test_a_timeout_within_a_run_is_that_items_alone():
    release = threading.Event()
    batches = smap(lambda i: [i] * 4, range(10))
    source = smap(lambda i: i if i != 2 or release.is_set() else release.wait(60) and i, unbatch(batches, 4))
    with prefetch(source, 2, timeout=0.05) as view:
        found = outcomes(view)
        assert [i for i, item in enumerate(found) if type(item) is TimeoutError] == [8, 9, 10, 11]
        assert [item for item in found if type(item) is int] == [i for i in range(10) if i != 2 for _ in range(4)]
        release.set()


@pytest.mark.usefixtures("either_method")
def test_timeouts_of_items_ahead_do_not_stop_the_items_before_them():
    release = threading.Event()
    with prefetch(smap(lambda i: i if i < 3 else release.wait(60) and i, range(9)), 2, timeout=0.05) as view:
        items = iter(view)
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        for i in range(3, 9):
            with pytest.raises(TimeoutError, match=f"item {i} of"):
                next(items)
        release.set()


@pytest.mark.usefixtures("either_method")
def test_timeouts_as_completed():
    release = threading.Event()
    with prefetch(smap(lambda i: i if i % 10 else release.wait(60) and i, range(50)), 2, timeout=0.05) as view:
        pairs, late, found = view.as_completed(), 0, []
        for _ in range(50):
            try:
                found.append(next(pairs))
            except TimeoutError:
                late += 1
        assert late == 5 and sorted(found) == [(i, i) for i in range(50) if i % 10]
        assert list(pairs) == []
        release.set()


@pytest.mark.parametrize("read", [iter, lambda view: map(view.__getitem__, range(4))])
def test_an_item_that_took_too_long_is_a_timeout_although_nobody_waited_for_it(read):
    late = threading.Event()
    source = smap(lambda i: i if i != 2 else time.sleep(0.3) or late.set(), range(4))
    with prefetch(source, 1, max_buffered=4, timeout=0.1) as view:
        items = read(view)
        assert [next(items), next(items)] == [0, 1]
        assert late.wait(10)
        time.sleep(0.01)
        with pytest.raises(TimeoutError, match="^item 2 of prefetch"):
            next(items)
        assert view[3] == 3
        assert len(workers()) == 1, "the thread has come back, and works on"


@pytest.mark.usefixtures("either_method")
def test_the_timeout_of_an_item_of_a_part_names_it_as_the_whole_does():
    release = threading.Event()
    source = smap(lambda i: i if i != 3 else release.wait(60) and i, range(10))
    with prefetch(source, 1, timeout=0.05) as view:
        part = view[2:9]
        for read in (lambda: part[1], lambda: part[::-1][5], lambda: part[[4, 1]][1], lambda: list(part)):
            with pytest.raises(TimeoutError, match="^item 3 of prefetch"):
                read()
        release.set()


def test_start_hook_runs_in_the_threads_that_take_the_place_of_others():
    started, release = [], threading.Event()
    with prefetch(
        smap(lambda i: release.wait(60) if i == 0 else i, range(9)), 1, timeout=0.02, start_hook=started.append
    ) as view:
        with pytest.raises(TimeoutError):
            view[0]
        assert view[1] == 1
        release.set()
    assert started == [0, 0]


# ---- Reads elsewhere ------------------------------------------------------------------------------------------------


def test_a_read_elsewhere_is_evaluated_by_the_reader_where_several_threads_evaluate_anyway():
    def who(_):
        return threading.current_thread().name.startswith("lazyseq-worker")

    several, one = prefetch(smap(who, range(10**6)), 2), prefetch(smap(who, range(10**6)), 1)
    hooked = prefetch(smap(who, range(10**6)), 2, start_hook=lambda: None)
    assert several[0] and one[0] and hooked[0]
    assert [several[i] for i in (10**5, 10**5 + 1, 10**5 + 2)] == [False, True, True]
    assert one[10**5] and hooked[10**5]


def test_a_read_elsewhere_follows_the_mode_of_the_code_that_made_the_prefetch():
    view = prefetch(smap(moody, [1] * 100 + [3]), 2)
    assert view[0] == 1
    seterr("passthrough")
    try:
        with pytest.raises(EvaluationError):
            view[100]
        assert seterr() == "passthrough"
    finally:
        seterr("wrap")


def test_a_function_that_reads_its_own_prefetch_when_the_reader_evaluates():
    chain = []
    view = prefetch(smap(lambda i: i if i < 1000 else chain[0][i - 1000] + 1, range(5000)), 2)
    chain.append(view)
    assert view[0] == 0
    assert within(10, lambda: view[4500]) == 504
    chain.clear()
    view.close()


@pytest.mark.parametrize("nworkers", [1, 2])
def test_a_read_a_little_before_keeps_what_is_finished(nworkers):
    log = Log(lambda x: time.sleep(0.0005) or x)
    view = prefetch(smap(log, range(100)), nworkers, max_buffered=10)
    assert [view[i] for i in range(20)] == list(range(20))
    time.sleep(0.1)  # 20 to 29 are finished, of which 18 leaves room for those up to 27
    assert [view[i] for i in (18, 19, 20, 21)] == [18, 19, 20, 21]
    assert [view[i] for i in (19, 22, 23)] == [19, 22, 23]
    assert [view[i] for i in range(24, 60)] == list(range(24, 60))
    assert [log.calls.count(x) for x in range(22, 28)] == [1] * 6


# ---- Leaks ----------------------------------------------------------------------------------------------------------


def use_and_drop(k):
    """One of the ways in which a prefetch comes to its end."""
    view = prefetch(smap(moody, list(range(20))), 1 + k % 3, max_buffered=5, timeout=60 if k % 5 == 0 else None)
    if k % 7 == 0:
        for _ in view:
            break
    elif k % 7 == 1:
        outcomes(view)
    elif k % 7 == 2:
        view[4], view[15], view[4:8][1], view.__getitems__([9, 1])
    elif k % 7 == 3:
        with pytest.raises(EvaluationError):
            view[3]
    elif k % 7 == 4:
        next(view.as_completed())
    elif k % 7 == 5:
        iterators = [iter(view) for _ in range(3)]
        assert [next(iterator) for iterator in iterators] == [0, 0, 0]
    if k % 2:
        view.close()


def test_nothing_is_left_of_a_thousand_prefetches():
    def count():
        gc.collect()
        deadline = time.monotonic() + 20
        while workers() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert workers() == set()
        gc.collect()
        return len(gc.get_objects())

    for k in range(70):
        use_and_drop(k)
    before = count()
    for k in range(1000):
        use_and_drop(k)
    assert count() - before < 100  # it would be thousands
