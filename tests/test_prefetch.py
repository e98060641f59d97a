"""The prefetch, over threads."""

import gc
import itertools
import operator
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import lazyseq
from lazyseq import EvaluationError, batch, collate, gather, prefetch, seterr, smap, unbatch


@pytest.fixture(autouse=True)
def no_worker_left():
    """Every test ends its workers, by garbage collection if not by close."""
    before = workers()
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while workers() - before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert workers() - before == set()


def workers():
    return {thread for thread in threading.enumerate() if thread.name.startswith("lazyseq")}


def within(seconds, function, *args):
    """The result of a function that must not take longer: a hang is a failure, not the end of the tests."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*args)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "hangs"
    return result[0]


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


def test_skipping_forward_and_backward():
    view = prefetch(range(100), 2, max_buffered=6)
    assert [view[i] for i in range(0, 100, 3)] == list(range(0, 100, 3))
    assert [view[i] for i in range(99, -1, -1)] == list(range(99, -1, -1))
    assert list(view[::-7]) == list(range(100))[::-7]
    assert list(view[10:20][2:4]) == [12, 13]


@pytest.mark.parametrize("index", [-1, -100])
def test_negative_indices(index):
    assert within(10, prefetch(range(100), 2).__getitem__, index) == range(100)[index]


@pytest.mark.parametrize("index", [100, -101, 10**30])
def test_outside_is_index_error(index):
    with pytest.raises(IndexError):
        prefetch(range(100), 2)[index]


def test_empty_source():
    assert list(prefetch([], 2)) == []


def test_nothing_starts_before_the_first_read():
    log = Log()
    view = prefetch(smap(log, range(10)), 2)
    repr(view), len(view), view[2:5], view.children
    assert workers() == set() and log.calls == []
    assert view[0] == 0
    assert len(workers()) == 2


@pytest.mark.parametrize("max_buffered", [1, 4, 10])
def test_started_minus_delivered_stays_within_max_buffered(max_buffered):
    log = Log()
    for delivered, _ in enumerate(prefetch(smap(log, range(300)), 3, max_buffered=max_buffered), 1):
        # The item in hand was delivered just now, so the loop may see the room that it has left filled.
        assert len(log.calls) - delivered <= max_buffered


def test_at_rest_the_buffer_is_full():
    log = Log()
    view = prefetch(smap(log, range(100)), 2, max_buffered=8)
    assert view[0] == 0
    deadline = time.monotonic() + 10
    while len(log.calls) < 9 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert sorted(log.calls) == list(range(9))


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


def test_unknown_length_iterates_to_the_end():
    view = prefetch(Endless(37), 3, max_buffered=8)
    with pytest.raises(TypeError, match="no length"):
        len(view)
    assert list(view) == [-i for i in range(37)]
    assert list(view) == [-i for i in range(37)]
    with pytest.raises(IndexError):
        view[37]
    assert view[36] == -36


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


def test_reading_a_failed_item_again_tries_again():
    attempts = Log(lambda x: 1 // (len(attempts.calls) - 1))
    view = prefetch(smap(attempts, [5]), 1)
    with pytest.raises(EvaluationError):
        view[0]
    assert view[0] == 1


def test_a_failing_start_hook_fails_the_read():
    def hook(worker):
        raise OSError(f"no licence for {worker}")

    view = prefetch(range(10), 1, start_hook=hook)
    for _ in range(2):
        with pytest.raises(EvaluationError, match="start_hook failed") as caught:
            view[0]
        assert str(caught.value.__cause__) == "no licence for 0"


# ---- Hooks ------------------------------------------------------------------------------------------------------


def test_start_hook_gets_the_index_if_it_wants_one():
    seen = []
    with prefetch(range(10), 3, start_hook=seen.append) as view:
        list(view)
    assert sorted(seen) == [0, 1, 2]
    seen.clear()
    with prefetch(range(10), 3, start_hook=lambda: seen.append("called")) as view:
        list(view)
    assert seen == ["called"] * 3


# ---- Several readers --------------------------------------------------------------------------------------------


def test_two_iterators_over_one_prefetch():
    view = prefetch(smap(operator.neg, range(200)), 2)
    assert list(zip(view, view, strict=True)) == [(-i, -i) for i in range(200)]


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


def test_a_destructor_that_reads_the_prefetch():
    class Nosy:
        def __init__(self, i):
            self.i = i
            made.append(i)

        def __del__(self):
            if self.i == 5:
                read.append(view[40].i)

    read, made = [], []
    view = prefetch(smap(Nosy, range(50)), 2, max_buffered=10)
    assert view[0].i == 0
    while len(made) < 11:
        time.sleep(0.001)
    assert within(10, view.__getitem__, 30).i == 30  # what was ahead is dropped here
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


def test_views_over_a_closed_prefetch_say_so():
    view = prefetch(range(10), 2)
    part = smap(operator.neg, view[2:])
    assert part[0] == -2
    view.close()
    with pytest.raises(ValueError, match="^prefetch is closed$"):
        part[0]


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


def test_break_and_start_again():
    view = prefetch(smap(operator.neg, range(100)), 2)
    for end in (0, 1, 50, 3):
        assert list(itertools.islice(view, end)) == [-i for i in range(end)]
    assert list(view) == [-i for i in range(100)]


def test_results_and_errors_are_let_go():
    class Item:
        alive = 0
        lock = threading.RLock()  # reentrant: items may die while one is made

        def __init__(self, i):
            with self.lock:
                Item.alive += 1
            if i % 7 == 0:
                raise ValueError(i)

        def __del__(self):
            with self.lock:
                Item.alive -= 1

    for _ in range(30):
        view = prefetch(smap(Item, range(100)), 2, max_buffered=20)
        for i in (1, 2, 50, 51, 3):
            view[i]
        with pytest.raises(EvaluationError):
            view[7]
        view.close()
    del view
    gc.collect()
    deadline = time.monotonic() + 10
    while Item.alive and time.monotonic() < deadline:
        time.sleep(0.001)
    assert Item.alive == 0


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


def test_repr_names_the_workers():
    assert repr(prefetch(range(5), 2)) == "<lazyseq prefetch(2 threads) of 5 items>"
    assert lazyseq.prefetch(range(5), 1).children == (range(5),)
