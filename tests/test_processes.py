"""The prefetch, over processes; what holds for threads as well is in test_prefetch.py."""

import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from random import Random

import numpy
import pytest
import threadpoolctl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyseq
from lazyseq import EvaluationError, TooManyFailures, WorkerDiedError, add_cache, batch, collate, guard, smap, unbatch
from lazyseq._engine import do_as_before_a_fork

# Those that start anew take long, and are the same in all builds of Python: without `-m starts` they are left out.
METHODS = [
    pytest.param(method, marks=() if method == "fork" else pytest.mark.starts)
    for method in multiprocessing.get_all_start_methods()
]


def prefetch(seq, nworkers=2, max_buffered=None, **arguments):
    return lazyseq.prefetch(seq, nworkers, "process", max_buffered, **{"mp_context": "fork", **arguments})


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def processes():
    """The children of this process that have not ended: not the fork server, nor the tracker of resources."""
    return multiprocessing.active_children()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Every test ends its workers, and leaves neither descriptors nor names of shared memory."""
    before, shared = len(descriptors()), set(os.listdir("/dev/shm"))
    yield
    deadline = time.monotonic() + 10
    gc.collect()
    # Other programs may have something there for a moment.
    while (processes() or set(os.listdir("/dev/shm")) - shared) and time.monotonic() < deadline:
        time.sleep(0.001)
    gc.collect()
    assert processes() == []
    assert len(descriptors()) <= before + 6  # those of the fork server
    assert not set(os.listdir("/dev/shm")) - shared


def outcomes(iterator, found=None):
    """The items of an iterator, with the errors that it raises in their places; added to those found, if given."""
    found = [] if found is None else found
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)


def script(code, *arguments, timeout=60):
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


# ---- Start methods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_as_the_source_however_processes_start(method):
    factor = 3
    view = prefetch(smap(lambda i: factor * i, range(300)), mp_context=method)
    expected = [3 * i for i in range(300)]
    assert list(view) == expected
    assert [view[i] for i in (5, 6, 7, 200, -1, 0)] == [15, 18, 21, 600, 897, 0]
    assert list(view[10:50]) == expected[10:50]
    assert list(view[10:50][::-7]) == expected[10:50][::-7]
    assert list(view[[5, 3, 299, 3]]) == [15, 9, 897, 9]
    assert view.__getitems__([200, 7, 8]) == [600, 21, 24]
    assert sorted(view[20:40].as_completed()) == [(i, expected[20 + i]) for i in range(20)]
    assert list(batch(view, 7)) == list(batch(expected, 7))
    view.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_context_serves_as_well_as_its_name(method):
    with prefetch(range(10), mp_context=multiprocessing.get_context(method)) as view:
        assert list(view) == list(range(10))


def test_on_windows_there_are_threads_only(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="method must be 'thread' on Windows"):
        prefetch(range(3))


def test_a_part_that_reaches_beyond_its_source_fails_there():
    view = prefetch(list(range(10)))[[3, 12, 4]]
    assert view[0] == 3 and view[2] == 4
    with pytest.raises(IndexError):
        view[1]


def test_what_cannot_be_pickled_is_named_at_once():
    lock = threading.Lock()
    view = prefetch(smap(lambda i: lock and i, range(3)), mp_context="spawn")
    with pytest.raises(
        TypeError, match=r"gets the pipeline pickled, and <lazyseq smap\(<lambda>\).* cannot be pickled"
    ):
        view[0]
    view = prefetch(range(3), mp_context="spawn", start_hook=lambda: lock)
    with pytest.raises(TypeError, match="start_hook <function .* cannot be pickled"):
        view[0]


class Unloadable:
    """What fails when it is made anew."""

    def __reduce__(self):
        return fail_to_load, ()

    def __len__(self):
        return 9

    def __getitem__(self, i):
        return i


def fail_to_load():
    raise KeyError("not here")


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_pipeline_that_cannot_be_loaded_is_an_error_that_says_so(method):
    view = prefetch(Unloadable(), mp_context=method)
    items = [iter(view), iter(view)]
    for read in (lambda: next(items[0]), lambda: view[2], lambda: next(items[1])):
        with pytest.raises(TypeError, match="cannot be loaded there: KeyError: 'not here'"):
            read()
    view.close()
    with prefetch(Unloadable()) as view:
        assert list(view) == list(range(9))


def test_a_failing_hook_is_told_to_every_reader():
    def hook():
        raise KeyError("no such device")

    with prefetch(range(9), start_hook=hook) as view:
        for items in (iter(view), iter(view), view.as_completed()):
            with pytest.raises(EvaluationError, match="start_hook failed") as caught:
                next(items)
            assert isinstance(caught.value.__cause__, KeyError)


def test_workers_are_started_from_any_thread():
    found = []
    view = prefetch(range(100))
    reader = threading.Thread(target=lambda: found.extend(view))
    reader.start()
    reader.join(30)
    assert found == list(view) == list(range(100))


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_is_at_home(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, "/of/the/parent"])
    before = logging.getLogger().level
    logging.getLogger().setLevel(17)

    def count_threads():
        return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

    def home(i):
        threads = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        interrupts = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        deadline = time.monotonic() + 5
        while (nthreads := count_threads()) > 2 and time.monotonic() < deadline:  # one that has ended goes a bit later
            time.sleep(0.001)
        return os.getcwd(), "/of/the/parent" in sys.path, logging.getLogger().level, threads, interrupts, nthreads

    try:
        numpy.dot(numpy.ones((2, 2)), numpy.ones((2, 2)))
        with prefetch(smap(home, range(1)), mp_context=method) as view:
            where, knows_path, level, threads, interrupts, nthreads = view[0]
    finally:
        logging.getLogger().setLevel(before)
    assert (where, knows_path, level, interrupts) == (str(tmp_path), True, 17, True)
    assert set(threads) <= {1}
    if method == "fork":
        assert nthreads <= 2  # that of the items, and the one that ends with the parent


@pytest.mark.parametrize("handler", ["its own", signal.SIG_IGN])
def test_a_program_does_not_see_the_fork_that_ends_threads(handler):
    seen = []

    def note(*_):
        seen.append(1)

    if handler == "its own":
        handler = note
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        do_as_before_a_fork()
        assert signal.getsignal(signal.SIGCHLD) == handler and seen == []
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_start_hook_runs_in_each_worker():
    with prefetch(smap(lambda i: os.environ["HOOK"], range(40)), start_hook=put_index) as view:
        assert set(view) <= {"0", "1"}
    assert "HOOK" not in os.environ
    view = prefetch(range(3), start_hook=lambda: 1 / 0)
    with pytest.raises(EvaluationError, match="start_hook failed in a worker of prefetch") as caught:
        view[0]
    assert type(caught.value.__cause__) is ZeroDivisionError
    view.close()


def put_index(worker):
    os.environ["HOOK"] = str(worker)


def test_a_main_module_without_its_guard_is_a_clear_error(tmp_path):
    path = tmp_path / "unguarded.py"
    path.write_text('from lazyseq import prefetch\nprint(list(prefetch(range(9), 1, "process", mp_context="spawn")))\n')
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert "WorkerDiedError" in done.stderr and "died while it was starting" in done.stderr
    assert done.stderr.count("if __name__ == '__main__':") == 2  # multiprocessing's, and ours


def test_within_a_worker_process_a_prefetch_evaluates_as_it_is_read():
    inner = prefetch(smap(abs, range(-20, 0)))
    with prefetch(smap(lambda i: read_with_warnings(inner, i), range(20)), 1) as view:
        found = list(view)
    assert [item for item, _ in found] == list(range(20, 0, -1))
    assert [text for _, texts in found for text in texts] == [
        "prefetch: worker processes have none of their own: items are evaluated as they are read"
    ]


def read_with_warnings(view, i):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return view[i], [str(warning.message) for warning in caught]


def test_threads_within_a_worker_process_do_run_ahead():
    with prefetch(smap(lambda i: sum(lazyseq.prefetch(range(i), 2)), range(20))) as view:
        assert list(view) == [sum(range(i)) for i in range(20)]


# ---- Results --------------------------------------------------------------------------------------------------------


def test_arrays_are_views_of_shared_memory_that_can_be_written_to():
    with prefetch(smap(lambda i: numpy.full((100, 100), i, "f4"), range(50)), max_buffered=4) as view:
        kept = []
        for i, array in enumerate(view):
            assert array.flags.writeable and not array.flags.owndata and (array == i).all()
            array += 1000
            kept.append(array[::7])
    gc.collect()
    assert all((array == i + 1000).all() for i, array in enumerate(kept))


def test_kept_results_never_change():
    view = prefetch(smap(lambda i: (i, numpy.arange(i, i + 5000)), range(500)), max_buffered=4)
    kept = list(view)
    assert list(view[:100])[7][0] == 7
    view.close()
    assert all((array == numpy.arange(i, i + 5000)).all() for i, array in kept)


@pytest.mark.parametrize("shm_size", [0, 100_000])
def test_beyond_shm_size_results_are_copied(shm_size):
    view = prefetch(smap(lambda i: numpy.full(5000, i), range(60)), shm_size=shm_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = list(view)
    texts = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(texts) == 1 and texts[0].startswith(f"More than shm_size={shm_size:,} bytes")
    assert all((array == i).all() and array.flags.writeable for i, array in enumerate(kept))
    view.close()


def test_what_is_let_go_is_used_again():
    with prefetch(smap(lambda i: numpy.full(100_000, i), range(300)), 1, max_buffered=4) as view:
        places = {array.__array_interface__["data"][0] for array in view}
    assert len(places) < 20


def test_results_may_die_in_any_thread():
    view = prefetch(smap(lambda i: numpy.full(10_000, i), range(400)), shm_size=3_000_000)
    arrays = iter(view)

    def consume():
        for array in arrays:
            assert (array == array[0]).all()

    readers = [threading.Thread(target=consume) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    view.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=40_000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(values, max_size=30), st.integers(1, 40))
def test_any_value_comes_back_as_it_was(items, max_buffered):
    with prefetch(smap(lambda x: x, items), max_buffered=max_buffered) as view:
        assert list(view) == items


def test_a_slow_item_holds_up_none_before_it():
    with prefetch(smap(lambda i: time.sleep(30) if i == 9 else i, range(10)), 1, max_buffered=10) as view:
        start = time.monotonic()
        assert [view[i] for i in range(9)] == list(range(9))
        assert time.monotonic() - start < 10


def test_items_that_share_an_evaluation_are_evaluated_once():
    pairs = collate([smap(lambda i: (os.getpid(), time.monotonic()), range(100)), range(100)])
    found = list(prefetch(unbatch(smap(lambda p: [p, p], pairs), 2)))
    assert all(found[i] == found[i + 1] for i in range(0, 200, 2)) and len(set(found)) == 100


class Bad(Exception):
    def __init__(self, i, lock=None):
        super().__init__(i)
        self.lock = lock  # with one, it cannot be pickled; a guard's record of it can


def bad_each_tenth(i):
    if i % 10 == 5:
        raise Bad(i, threading.Lock() if i == 15 else None)
    return i


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("on_error", ["raise", "default", "neighbour"])
def test_guards_know_what_has_failed_in_workers(method, on_error):
    inner = guard(smap(bad_each_tenth, range(60)), on_error=on_error)
    outer = collate([inner, guard(range(100, 160))])
    with prefetch(outer, mp_context=method) as view:
        found = outcomes(iter(view))
    assert [item[0] for i, item in enumerate(found) if i % 10 != 5] == [i for i in range(60) if i % 10 != 5]
    failures = dict(inner.failures)
    assert sorted(failures) == [5, 15, 25, 35, 45, 55] and outer.children[1].failures == []
    assert {type(error) for error in failures.values()} == {Bad}
    assert "lock" in failures[15].lock  # in words
    expected = {"raise": EvaluationError, "default": None, "neighbour": 26}[on_error]
    assert (type(found[25]) is expected) if on_error == "raise" else (found[25] == (expected, 125))


def test_the_budget_of_a_guard_is_that_of_all_workers():
    strict = guard(smap(bad_each_tenth, range(100)), default=-1, budget=4)
    with prefetch(strict, max_buffered=4) as view:
        found = outcomes(iter(view))
    assert [i for i, item in enumerate(found) if isinstance(item, TooManyFailures)] == [45, 55, 65, 75, 85, 95]
    assert [i for i, _ in found[45].failures] == [5, 15, 25, 35, 45] and len(strict.failures) == 10

    fraction = guard(smap(bad_each_tenth, range(100)), default=-1, budget=0.2)
    with prefetch(fraction, 3) as view:
        assert sum(item == -1 for item in view) == 10
    scarce = guard(smap(bad_each_tenth, range(100)), default=-1, budget=0.01)
    with prefetch(scarce, 3) as view, pytest.raises(TooManyFailures, match="reads failed"):
        list(view)


def test_a_cache_above_the_prefetch_keeps_its_items():
    view = add_cache(prefetch(smap(lambda i: numpy.full(5000, i), range(50))), 50)
    assert [a[0] for a in view] == [a[0] for a in view] == list(range(50))


# ---- Errors ---------------------------------------------------------------------------------------------------------


class Loaded(Exception):
    """Pickles, and does not load."""

    def __init__(self, one, two):
        super().__init__(one)


class Unpicklable(Exception):
    def __reduce__(self):
        raise RuntimeError("never")


class Late:
    """Pickles, and does not load."""

    def __reduce__(self):
        return failing, ()


def failing():
    raise KeyError("not here")


def fail_in_depth(i):
    if i == 3:
        try:
            failing()
        except KeyError as error:
            raise ValueError("bad item") from error
    return i


def test_errors_have_the_traceback_of_the_worker():
    with prefetch(smap(fail_in_depth, range(6))) as view:
        found = outcomes(iter(view))
        assert [type(item) for item in found] == [int, int, int, EvaluationError, int, int]
        assert found[3].index == 3
        text = "".join(traceback.format_exception(found[3]))
        for expected in (
            "in fail_in_depth",
            "in failing",
            "KeyError: 'not here'",
            "ValueError: bad item",
            "direct cause",
        ):
            assert expected in text


@pytest.mark.parametrize("kind", [Loaded, Unpicklable])
def test_errors_that_do_not_come_through_do_so_in_words(kind):
    def fail(i):
        raise kind(*[f"text {i}", 2][: 2 if kind is Loaded else 1])

    with prefetch(smap(fail, range(3))) as view:
        for i in range(3):
            with pytest.raises(EvaluationError, match=f"failed to evaluate item {i} of smap") as caught:
                view[i]
            text = str(caught.value.__cause__)
            assert kind.__name__ in text and f"text {i}" in text and "in fail" in text


class Lost(Exception):
    def __init__(self, i):
        super().__init__(i)
        self.i = i


def test_an_error_goes_with_its_last_reference():
    """No cycle leads through its traceback: else what its readers have, arrays and all, would wait for a collection."""

    def lose(i):
        try:
            raise Lost(i)
        except Lost as error:
            raise Lost(-i) from error

    with prefetch(smap(lose, range(3))) as view:
        gc.disable()
        try:
            view[1]
        except EvaluationError as error:
            references = [weakref.ref(each) for each in (error.__cause__, error.__cause__.__cause__)]
            assert [reference().i for reference in references] == [-1, 1]
        finally:
            gc.enable()
    assert [reference() for reference in references] == [None, None]


def test_attributes_of_errors_come_through():
    def fail(i):
        raise [SystemExit(7), OSError(2, "gone", "a file"), UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad")][i]

    lazyseq.seterr("passthrough")
    try:
        view = prefetch(smap(fail, range(3)))
    finally:
        lazyseq.seterr("wrap")
    with pytest.raises(SystemExit) as caught:
        view[0]
    assert caught.value.code == 7
    with pytest.raises(FileNotFoundError) as caught:
        view[1]
    assert (caught.value.errno, caught.value.filename) == (2, "a file")
    with pytest.raises(UnicodeDecodeError) as caught:
        view[2]
    assert caught.value.object == b"\xff"
    view.close()


def test_results_that_cannot_be_sent_fail_alone():
    with prefetch(smap(lambda i: (lambda: i) if i % 7 == 3 else i, range(30)), max_buffered=30) as view:
        for i, item in enumerate(outcomes(iter(view))):
            if i % 7 == 3:
                assert type(item) is EvaluationError and item.index == i
                assert "a result of type builtins.function cannot be sent from a worker process" in str(item.__cause__)
            else:
                assert item == i


def test_results_that_cannot_be_loaded_are_errors_and_fail_alone_the_next_time():
    with prefetch(smap(lambda i: Late() if i == 8 else i, range(30)), max_buffered=30) as view:
        found = outcomes(iter(view))
        assert "cannot be loaded: KeyError: 'not here'" in str(found[8].__cause__)
        assert [i for i, item in enumerate(outcomes(iter(view))) if item != i] == [8]


interrupted = []


class Interrupted:
    """What is loaded as i; the first time, by the reader, something comes in between."""

    def __init__(self, i):
        self.i = i

    def __reduce__(self):
        return load_interrupted, (self.i,)


def load_interrupted(i):
    if not interrupted:
        interrupted.append(i)
        raise KeyboardInterrupt
    return i


def test_nothing_is_lost_when_a_signal_comes_while_a_result_is_loaded():
    interrupted.clear()
    with prefetch(smap(lambda i: Interrupted(i) if i == 8 else i, range(30)), max_buffered=30) as view:
        items, found = iter(view), []
        with pytest.raises(KeyboardInterrupt):
            found += outcomes(items, found)
        assert found + outcomes(items) == list(range(30)) and interrupted == [8]


def test_nothing_is_lost_when_warnings_are_errors():
    view = prefetch(smap(lambda i: numpy.full(5000, i), range(9)), shm_size=100_000)
    with view, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = outcomes(iter(view))
    assert sum(isinstance(item, RuntimeWarning) for item in found) == 1
    arrays = [item for item in found if not isinstance(item, RuntimeWarning)]
    assert len(arrays) == 9 and all((array == i).all() for i, array in enumerate(arrays))


# ---- Life and death -------------------------------------------------------------------------------------------------


def test_garbage_and_close_end_the_workers():
    for use in (list, lambda view: view[3], lambda view: next(iter(view)), lambda view: next(view.as_completed())):
        for ends in (lambda view: None, lambda view: view.close()):
            view = prefetch(smap(abs, range(100)))
            use(view)
            assert len(processes()) == 2
            ends(view)
            del view
            gc.collect()
            deadline = time.monotonic() + 10
            while processes() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert processes() == []


def test_close_gives_back_descriptors():
    with prefetch(range(9)) as view:
        assert view[3] == 3
    before = descriptors()
    with prefetch(range(9)) as other:
        assert other[3] == 3
        assert len(descriptors()) > len(before)
    assert descriptors() == before
    del view, other


def test_close_does_not_wait_for_an_endless_item():
    view = prefetch(smap(lambda i: time.sleep(60 * (i > 0)), range(10)))
    assert view[0] is None
    start = time.monotonic()
    view.close()
    assert time.monotonic() - start < 5 and processes() == []
    with pytest.raises(ValueError, match="prefetch is closed"):
        view[1]


@pytest.mark.parametrize("end", ["", "p.close()", "del p", "sys.exit(0)", "kept = list(p)", "os._exit(0)"])
def test_the_interpreter_exits_without_a_sound(end):
    code = f"""
        import os, sys, numpy
        from lazyseq import prefetch, smap
        p = prefetch(smap(lambda i: numpy.full(9999, i), range(30)), 2, "process", mp_context="fork")
        a = p[3], next(iter(p))
        {end}
    """
    assert script(code) == (0, "", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("item", ["time.sleep(60)", "sum(range(4 * 10**9))"])  # the second keeps the GIL
def test_workers_end_with_their_parent(method, item, tmp_path):
    code = f"""
        import os, sys, time
        from lazyseq import prefetch, smap
        def slow(i):
            if i:
                open(os.path.join({str(tmp_path)!r}, str(os.getpid())), "w").close()
                {item}
            return i
        if __name__ == "__main__":
            p = prefetch(smap(slow, range(9)), 2, "process", mp_context="{method}")
            p[0]
            while len(os.listdir({str(tmp_path)!r})) < 2:
                time.sleep(0.01)
            print(*[worker.pid for worker in __import__("multiprocessing").active_children()], flush=True)
            os.kill(os.getpid(), 9)
    """
    returncode, out, err = script(code)
    assert returncode == -9 and err == ""
    pids = [int(pid) for pid in out.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 2
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(lives, pids))


def state(pid):
    """As the system tells it: S if the process sleeps, Z when it has ended, "" when that was noticed."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def lives(pid):
    return state(pid) not in ("", "Z")


def test_ctrl_c_in_a_terminal_is_the_readers_alone():
    code = """
        import os, signal, threading, time
        from lazyseq import prefetch, smap
        os.setpgid(0, 0)
        p = prefetch(smap(lambda i: time.sleep(60), range(9)), 2, "process", mp_context="fork")
        threading.Timer(0.5, lambda: os.killpg(0, signal.SIGINT)).start()
        p[0]
    """
    returncode, out, err = script(code)
    assert returncode == -signal.SIGINT and out == "" and err.count("Traceback") == 1
    assert err.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("method", METHODS[1:])
def test_ctrl_c_does_not_reach_workers_that_start(method, tmp_path):
    """Also before anything of ours runs there."""
    code = f"""
        import signal
        from lazyseq import prefetch, smap
        if __name__ == "__main__":
            with prefetch(range(9), 2, "process", mp_context="{method}") as p:
                assert list(p) == list(range(9))
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        else:
            print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
    """
    path = tmp_path / "main.py"
    path.write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, set(done.stdout.split()), done.stderr) == (0, {"True"}, "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "wait_for_all"])
def test_deaths_are_noticed_although_others_wait_for_children(method, handler):
    code = f"""
        import contextlib, os, signal
        from lazyseq import WorkerDiedError, prefetch, smap
        def wait_for_all(*_):
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        def dies(i):
            if i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return i
        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, {handler})
            with prefetch(smap(dies, range(9)), 2, "process", mp_context="{method}") as p:
                for i in range(9):
                    try:
                        print(p[i])
                    except WorkerDiedError as error:
                        print(error.index, error.attempts, error.exitcode)
    """
    returncode, out, _ = script(code)
    told = "-9" if method == "forkserver" else "None"
    assert (returncode, out.split("\n")) == (0, ["0", "1", "2", f"3 2 {told}", *"45678", ""])


def test_few_descriptors_are_a_clear_error():
    code = """
        import resource
        from lazyseq import prefetch
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        p = prefetch(range(9), 60, "process", mp_context="fork")
        try:
            p[0]
        except OSError as error:
            print("to start worker" in error.strerror, "ulimit -n" in error.strerror)
        q = prefetch(range(9), 2, "process", mp_context="fork")
        print(list(q))
    """
    assert script(code) == (0, "True True\n[0, 1, 2, 3, 4, 5, 6, 7, 8]\n", "")


def test_pickling_gives_the_recipe():
    view = pickle.loads(pickle.dumps(prefetch(range(10), 3, max_buffered=5, shm_size=10_000)))
    assert (view.nworkers, view.max_buffered) == (3, 5)
    assert list(view) == list(range(10)) and repr(view) == "<lazyseq prefetch(3 processes) of 10 items>"
    view.close()


def test_a_forked_child_starts_workers_of_its_own():
    view = prefetch(smap(lambda i: numpy.full(5000, i), range(50)))
    kept = list(view)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        right = all(a[0] == i for i, a in enumerate(kept)) and [a[0] for a in view] == list(range(50))
        del kept[:]
        gc.collect()
        view.close()
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    again = list(view)
    assert all(a[0] == b[0] == i for i, (a, b) in enumerate(zip(kept, again, strict=True)))
    view.close()


def test_a_forked_child_leaves_its_parents_garbage_alone():
    """Also what it collects before it has come to any function of ours."""
    done = script("""
        import gc, os
        os.register_at_fork(after_in_child=gc.collect)
        import numpy
        from lazyseq import prefetch, smap

        gc.disable()
        with prefetch(smap(lambda i: numpy.full(60_000, i), range(100)), 1, "process", 8, mp_context="fork") as view:
            items = iter(view)
            garbage = [view[20], next(items), items]
            garbage.append(garbage)
            del garbage, items
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            gc.collect()
            kept = list(view)
            assert all((array == i).all() for i, array in enumerate(kept))
    """)
    assert done == (0, "", "")


class Ends:
    """Ends the process at some items, the first time or always."""

    def __init__(self, how, at, folder=None):
        self.how, self.at, self.folder = how, at, folder

    def __call__(self, i):
        if i in self.at:
            if self.folder is None:
                self.how()
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.folder / str(i), os.O_CREAT | os.O_EXCL))
                self.how()
        return i


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def segmentation_fault():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", [killed, segmentation_fault, lambda: os._exit(0)])
def test_what_a_dead_worker_held_is_evaluated_again(method, how, tmp_path):
    items = {0, 7, 40, 41, 99} if method == "fork" else {7}  # others take long to take a dead one's place
    for read in (enumerate, lambda view: sorted(view.as_completed())):
        with prefetch(smap(Ends(how, items, tmp_path), range(100)), mp_context=method) as view:
            assert list(read(view)) == [(i, i) for i in range(100)]
        for path in tmp_path.iterdir():
            path.unlink()


def test_an_item_that_always_ends_its_worker_fails_alone(caplog):
    with prefetch(smap(Ends(killed, {0, 5, 6, 29}), range(30))) as view:
        found = outcomes(iter(view))
        for i, item in enumerate(found):
            if i in {0, 5, 6, 29}:
                assert type(item) is WorkerDiedError
                assert (item.index, item.signal, item.exitcode, item.attempts) == (i, signal.SIGKILL, -9, 2)
                assert f"worker process {item.pid} was killed by SIGKILL" in str(item)
            else:
                assert item == i
        assert view[7] == 7
    assert {record.name for record in caplog.records} == {"lazyseq"}
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    for i in (0, 5, 6, 29):  # another worker may have begun it before that
        texts = [record.getMessage() for record in caplog.records if f"item {i}" in record.getMessage()]
        assert len(texts) >= 2 and f"; item {i} is evaluated again; another takes its place" in texts[0]
        assert "as did another that has died; it is given up; another takes its place" in texts[1]


def test_an_item_that_is_given_up_stays_so(tmp_path, caplog):
    """Also when a third worker dies of it, which had begun it before."""

    def wait_for(event):
        while not (tmp_path / event).exists():
            time.sleep(0.001)

    def dies(i):
        with contextlib.suppress(FileExistsError):
            if i in (5, 6):
                os.close(os.open(tmp_path / str(i), os.O_CREAT | os.O_EXCL))
                wait_for("6" if i == 5 else "given up")
                killed()
        if i == 6:
            killed()
        return i

    with prefetch(smap(dies, range(10))) as view:
        found = outcomes(map(view.__getitem__, range(7)))
        assert found[:6] == list(range(6)) and (found[6].index, found[6].attempts) == (6, 2)
        (tmp_path / "given up").touch()
        deadline = time.monotonic() + 10
        while "evaluating item 6, which is given up; another takes its place" not in caplog.text:
            assert [view[8], view[7]] == [8, 7] and time.monotonic() < deadline
        with pytest.raises(WorkerDiedError) as caught:
            view[6]
    assert (caught.value.attempts, caught.value.pid) == (2, found[6].pid)


class EndsWhenSent:
    def __reduce__(self):
        killed()


def test_a_result_that_ends_its_worker_fails_alone():
    """Also where it is sent with others."""
    rows = unbatch(smap(lambda b: [4 * b + k for k in range(4)], range(5)), 4)
    with prefetch(smap(lambda i: EndsWhenSent() if i in (5, 9, 10) else i, rows)) as view:
        for found in outcomes(view.as_completed()), outcomes(iter(view)):
            assert sorted(item.index for item in found if type(item) is WorkerDiedError) == [5, 9, 10]
            assert len(found) == 20


@pytest.mark.parametrize("n", [6, 20])
def test_any_number_of_items_in_a_row_may_end_their_workers(n):
    with prefetch(smap(Ends(killed, range(n)), range(40)), max_buffered=32) as view:
        for found in outcomes(view.as_completed()), outcomes(iter(view)):
            assert len(found) == 40
            errors = [item for item in found if type(item) is WorkerDiedError]
            assert sorted(error.index for error in errors) == list(range(n)) and {e.attempts for e in errors} == {2}


def test_an_error_that_is_raised_again_does_not_grow():
    def texts(view):
        errors = [error for _ in range(4) for error in outcomes(map(view.__getitem__, [3]))]
        return {"".join(traceback.format_exception(error)) for error in errors}

    with prefetch(smap(Ends(killed, {3}), range(6))) as view:
        assert len(texts(view)) == len(texts(smap(abs, view))) == 1
    with prefetch(smap(abs, range(6)), start_hook=killed) as view:
        assert len(texts(view)) == len(texts(smap(abs, view))) == 1


def test_workers_that_die_of_nothing_end_reading(tmp_path):
    def hook():
        if (tmp_path / "begun").exists():
            os._exit(3)
        (tmp_path / "begun").touch()

    view = prefetch(smap(abs, range(30)), 1, start_hook=hook)
    assert view[0] == 0
    processes()[0].kill()
    with pytest.raises(WorkerDiedError, match="exited with code 3") as caught:
        view[29]
    assert caught.value.__notes__ == ["It was the last of 4 that died and left nothing."]
    for found, most in (outcomes(iter(view)), 30), (outcomes(view.as_completed()), 1):
        assert 0 < len(found) <= most and {type(item) for item in found} == {WorkerDiedError}
    view.close()


def test_a_stopped_worker_is_a_timeout(caplog):
    with prefetch(smap(lambda i: os.kill(os.getpid(), signal.SIGSTOP) if i == 3 else i, range(9)), timeout=2) as view:
        found = outcomes(iter(view))
        assert type(found[3]) is TimeoutError and str(found[3]).startswith("item 3 of prefetch(2 processes)")
        assert [item for item in found if type(item) is int] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert "was ended: item 3 took longer than 2.0 s; another takes its place" in caplog.text


def test_workers_that_are_stopped_while_they_start_are_replaced(tmp_path):
    def hook():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(tmp_path / "stopped", os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGSTOP)

    with prefetch(smap(str, range(30)), 1, timeout=1, start_hook=hook) as view:
        assert list(view) == [str(i) for i in range(30)]


def test_idle_workers_that_are_stopped_are_replaced(caplog):
    with prefetch(smap(abs, range(100)), max_buffered=4, timeout=1) as view:
        for read in (iter, lambda view: (item for _, item in view.as_completed())):
            items = read(view)
            assert next(items) in range(4)
            be_idle()
            for process in processes():
                os.kill(process.pid, signal.SIGSTOP)
            assert len(list(items)) == 99
    assert "was ended: it did nothing for 1.0 s; another takes its place" in caplog.text


def be_idle():
    """Wait until all workers sleep, in two looks."""
    looks, deadline = 0, time.monotonic() + 10
    while looks < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        states = [state(process.pid) for process in processes()]
        looks = looks + 1 if states == ["S", "S"] else 0
    assert looks == 2


@pytest.mark.parametrize("max_buffered", [2, 10])
@pytest.mark.parametrize(
    ("happens", "kind", "timeout"), [(lambda: time.sleep(60), TimeoutError, 0.5), (killed, WorkerDiedError, None)]
)
def test_what_is_not_sent_yet_of_the_same_grain_comes(max_buffered, happens, kind, timeout):
    rows = unbatch(smap(lambda b: [4 * b + k for k in range(4)], range(5)), 4)
    with prefetch(smap(lambda i: happens() if i == 5 else i, rows), max_buffered=max_buffered, timeout=timeout) as view:
        for found in outcomes(iter(view)), outcomes(map(view.__getitem__, range(20))):
            assert type(found[5]) is kind and [*found[:5], *found[6:]] == [*range(5), *range(6, 20)]
        found = outcomes(view.as_completed())
        (error,) = [item for item in found if type(item) is not tuple]
        assert type(error) is kind and "item 5" in str(error)
        assert sorted(item for item in found if type(item) is tuple) == [(i, i) for i in range(20) if i != 5]


def test_a_worker_that_is_stopped_while_it_sends_is_a_timeout():
    class Stops:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGSTOP)
            return int, (3,)

    with prefetch(smap(lambda i: Stops() if i == 3 else i, range(9)), timeout=2) as view:
        found = outcomes(iter(view))
        assert type(found[3]) is TimeoutError and [*found[:3], *found[4:]] == [0, 1, 2, 4, 5, 6, 7, 8]


def test_idle_workers_that_are_killed_are_replaced(caplog):
    with prefetch(smap(abs, range(1000)), max_buffered=4) as view:
        items, before = iter(view), None
        for i in range(0, 1000, 2):
            assert next(items) == i
            before = before or len(descriptors())
            if i % 100 == 0:
                time.sleep(0.01)  # until all is ready, and the workers are idle
                for pid in [process.pid for process in processes()]:
                    os.kill(pid, signal.SIGKILL)
            assert next(items) == i + 1
        assert processes() and len(descriptors()) == before
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) >= 10 and all("was killed by SIGKILL" in text for text in texts)
    assert all(text.endswith("; another takes its place") for text in texts)


@pytest.mark.parametrize("k", range(2))  # it depends on what comes first
def test_a_death_that_another_reader_notices(k, tmp_path):
    """Runs behind that of the dead worker are published already when the reader comes to where it was cut."""
    dies = Ends(killed, {320}, tmp_path)

    def slow(i):
        time.sleep(0.02 if i >= 1000 else 0.002 if 300 <= i < 400 else 0)
        return dies(i)

    with prefetch(smap(slow, range(2000)), max_buffered=200) as view:
        found = [view[i] for i in range(303)]
        other = threading.Thread(target=lambda: [view[i] for i in range(1000, 1030)])
        other.start()
        other.join()  # by then, all that this thread's window has room for is finished
        found += [view[i] for i in range(303, 500)]
    assert found == list(range(500)) and (tmp_path / "320").exists()


def test_a_signal_does_not_interrupt_a_recovery(monkeypatch):
    """Else there could be two workers with the memory of one."""
    main, start, starts = threading.get_ident(), lazyseq._processes.start, []

    def start_and_interrupt(*arguments):
        starts.append(start(*arguments))
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.05)
        return starts[-1]

    with prefetch(range(3000), 1) as view:
        assert view[0] == 0
        processes()[0].kill()
        monkeypatch.setattr(lazyseq._processes, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(view[100:])
        monkeypatch.undo()
        assert list(view) == list(range(3000))
        assert processes() == [start.process for start in starts] and len(starts) == 1


def test_killed_at_random_times():
    with prefetch(smap(lambda i: numpy.full(6000, i), range(3000)), max_buffered=16) as view:
        ended, kept, again, random = threading.Event(), [], [], Random(8)

        def kill():
            fewest = 0
            while not ended.wait(random.uniform(0.001, 0.03)):
                count, workers = len(kept) + len(again), processes()
                if workers and count >= fewest:  # else it would seem that none can live
                    fewest = count + 20
                    random.choice(workers).kill()

        killer = threading.Thread(target=kill)
        assert view[0][0] == 0  # one that dies before any worker has begun is an error
        killer.start()
        try:
            outcomes(iter(view), kept)
            for i in range(0, 3000, 37):
                outcomes(iter(view[i : i + 2]), again)
        finally:
            ended.set()
            killer.join()
    places = [k for i in range(0, 3000, 37) for k in (i, i + 1) if k < 3000]
    assert len(kept) == 3000 and all(right(array, i) for i, array in enumerate(kept))
    assert len(again) == len(places) and all(map(right, again, places))
    assert sum(type(array) is WorkerDiedError for array in kept + again) < 30


def right(array, i):
    """Whether it is item i; or its error, should two have been killed over it."""
    if type(array) is WorkerDiedError:
        return array.index == i and array.attempts == 2
    return (array == i).all()


# ---- What others may change ------------------------------------------------------------------------------------------


class Box:
    def __init__(self):
        self.value = None


ARRAY, LARGE_ARRAY, BOX = numpy.zeros(10), numpy.zeros(5000), Box()
LIST, DICT, TUPLE, TREE = [0], {"at": [0]}, ({}, "text"), [[[0]], [0]]


def array_of(i):
    ARRAY[:] = i
    return ARRAY


def large_array_of(i):
    LARGE_ARRAY[:] = i
    return LARGE_ARRAY


def list_of(i):
    LIST[0] = i
    return LIST


def dict_of(i):
    DICT["at"][0] = DICT["now"] = i
    return DICT


def tuple_of(i):
    TUPLE[0]["now"] = i
    return TUPLE


def tree_of(i):
    TREE[0][0][0] = TREE[1][0] = i
    return TREE


def box_of(i):
    BOX.value = i
    return BOX


def any_of(i):
    return [array_of, abs, list_of, dict_of, tuple_of, abs, tree_of, large_array_of][i % 8](i)


@pytest.mark.parametrize("function", [array_of, large_array_of, list_of, dict_of, tuple_of, tree_of, box_of, any_of])
@pytest.mark.parametrize("nworkers", [1, 2])
def test_a_function_may_use_again_what_it_has_returned(function, nworkers):
    with prefetch(smap(function, range(300)), nworkers, max_buffered=64) as view:
        kept = list(view)
    for i, item in enumerate(kept):
        assert pickle.dumps(item) == pickle.dumps(function(i))
    assert len({id(item) for item in kept if type(item) is not int}) == len([x for x in kept if type(x) is not int])


def test_one_object_that_is_many_items_arrives_as_many():
    array = numpy.zeros(5000)
    with prefetch(smap(lambda i: array, range(100)), 1, max_buffered=64) as view:
        kept = list(view)
    kept[50] += 1
    assert sum(int(item[0]) for item in kept) == 1


def test_one_object_in_two_places_of_an_item_stays_one():
    shared = [1]
    for item in ([shared, shared], (shared, shared), {"a": shared, "b": shared}, [[shared, 1], shared]):
        with prefetch(smap(lambda i, item=item: item, range(20)), 1) as view:
            for found in view:
                first, second = found.values() if type(found) is dict else found
                first = first[0] if type(first[0]) is list else first
                assert found == item and first is second
    loop = []
    loop.append(loop)
    with prefetch(smap(lambda i: loop, range(20)), 1) as view:
        assert all(found[0] is found for found in view)


def test_errors_may_change_afterwards_too():
    error = KeyError(0)

    def fail(i):
        error.args = (i,)
        raise error

    with prefetch(smap(fail, range(50)), 1, max_buffered=50) as view:
        assert [found.__cause__.args for found in outcomes(iter(view))] == [(i,) for i in range(50)]


# ---- Little memory ---------------------------------------------------------------------------------------------------

WITHOUT_MEMFD = """
    import errno, os, sys, tempfile
    import numpy
    from lazyseq import EvaluationError, prefetch, smap

    def refuse(*args):
        raise OSError(errno.EPERM, "not here")

    os.memfd_create, real = refuse, tempfile.TemporaryFile
    tempfile.TemporaryFile = lambda dir: real(dir=sys.argv[1])
"""


def in_little_memory(folder, code):
    """What a script has printed that has 4 MB of shared memory, and no memfd."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", folder], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        returncode, out, err = script(textwrap.dedent(WITHOUT_MEMFD) + textwrap.dedent(code), str(folder))
    finally:
        subprocess.run(["umount", folder], check=True)
    assert (returncode, err) == (0, "")
    return out


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_is_lost_where_there_is_little_memory(tmp_path, keep):
    out = in_little_memory(
        tmp_path,
        f"""
        import warnings
        warnings.simplefilter("ignore", RuntimeWarning)  # results are copied
        with prefetch(smap(lambda i: numpy.full(150_000, i, "u1"), range(300)), 2, "process", mp_context="fork") as p:
            kept = []
            for i, array in enumerate(p):
                assert (array == i % 256).all()
                if {keep}:
                    kept.append(array)
            assert all((array == i % 256).all() for i, array in enumerate(kept))
        sizes = [20_000 + 3000 * i if i % 3 else 10 for i in range(150)]
        with prefetch(smap(lambda n: numpy.zeros(n, "u1"), sizes), 2, "process", 4, mp_context="fork") as p:
            assert [len(array) for array in p] == sizes
        print("all")
        """.replace("lambda i: numpy.full(150_000, i, ", "lambda i: numpy.full(150_000, i % 256, "),
    )
    assert out == "all\n"


def test_want_of_memory_is_an_error_of_the_item_and_ends_no_worker(tmp_path):
    out = in_little_memory(
        tmp_path,
        """
        def load(i):
            return os.getpid(), numpy.zeros(8_000_000 if i % 3 == 1 else 1000, "u1")

        workers, failed = set(), 0
        with prefetch(smap(load, range(30)), 2, "process", mp_context="fork") as p:
            for i in range(30):
                try:
                    workers.add(p[i][0])
                except MemoryError as error:
                    assert i % 3 == 1 and "--shm-size" in str(error), error
                    failed += 1
        assert len(workers) <= 2 and failed == 10

        # Where not even an error finds room: what is received is held, and what comes is more than there is.
        with prefetch(smap(lambda i: bytes(15_000), range(1000)), 2, "process", 512, mp_context="fork") as p:
            items, found = iter(p), []
            while len(found) < 1000:
                try:
                    found.append(len(next(items)))
                except MemoryError:
                    found.append(None)
        assert found.count(None) < 500
        print("all")
        """,
    )
    assert out == "all\n"


def test_a_result_that_is_too_large_for_its_worker_is_a_memory_error():
    code = """
        import resource, numpy
        from lazyseq import prefetch, smap
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, 100 << 20))
        with prefetch(smap(lambda i: numpy.ones(i), [20_000_000, 5]), 1, "process", mp_context="fork") as p:
            try:
                p[0]
            except MemoryError as error:
                print(error)
            print(p[1])
    """
    returncode, out, err = script(code)
    assert (returncode, err) == (0, "")
    assert out.startswith("shared memory is full: 160,000,000 bytes were asked for")
    assert out.endswith("[1. 1. 1. 1. 1.]\n")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate here")
def test_rings_take_memory_when_they_are_needed(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    taken = []
    real = os.posix_fallocate

    def fill(descriptor, start, length):
        taken.append(length)
        real(descriptor, start, length)

    monkeypatch.setattr(os, "posix_fallocate", fill)
    with prefetch(range(20), max_buffered=512) as view:
        assert view[0] == 0
        before = sum(taken)
        assert before < 400_000
        windows = [iter(view) for _ in range(20)]
        assert [next(window) for window in windows] == [0] * 20
        assert before < sum(taken) < 2_000_000
        del windows


# ---- Workers as they come -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_a_notebook_defines_comes_back_as_its_own(method):
    code = """
        import sys
        from dataclasses import dataclass
        import numpy
        from lazyseq import EvaluationError, prefetch, smap

        @dataclass
        class Point:
            x: numpy.ndarray

        class MyError(Exception):
            pass

        def load(i):
            if i == 2:
                raise MyError("two", numpy.float64)
            return Point(numpy.full(5000, i))

        with prefetch(smap(load, range(20)), 2, "process", mp_context=sys.argv[1]) as p:
            for i in range(20):
                try:
                    found = p[i]
                except EvaluationError as error:
                    assert i == 2 and type(error.__cause__) is MyError, error.__cause__
                    assert error.__cause__.args == ("two", numpy.float64)
                else:
                    assert type(found) is Point and (found.x == i).all() and not found.x.flags.owndata
        print("all")
    """
    assert script(code, method) == (0, "all\n", "")


def test_threads_leave_the_default_start_method_open():
    code = """
        import multiprocessing
        from lazyseq import prefetch
        threads = prefetch(range(9), 1)
        processes = prefetch(range(9), 1, "process")
        assert list(threads) == list(range(9))
        multiprocessing.set_start_method("forkserver")
        assert list(processes) == list(range(9))
        print(multiprocessing.get_start_method())
    """
    assert script(code) == (0, "forkserver\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_libraries_that_load_later_have_one_thread_too(method, monkeypatch):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    if method == "forkserver":  # which has the environment that was there when it started
        multiprocessing.forkserver._forkserver._stop()
    with prefetch(smap(lambda i: [os.environ.get(name) for name in names], range(1)), mp_context=method) as view:
        assert view[0] == ["1", "1", "3", "1"]
    assert "OMP_NUM_THREADS" not in os.environ
    if method == "forkserver":
        multiprocessing.forkserver._forkserver._stop()


def test_close_waits_for_no_busy_process():
    seconds = []
    for _ in range(5):
        view = prefetch(smap(lambda i: i and time.sleep(60), range(30)))
        assert view[0] == 0
        start = time.monotonic()
        view.close()
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 0.15


def test_a_worker_is_told_once_that_it_has_none_of_its_own():
    def inside(i):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert list(prefetch(smap(abs, range(5)))) == list(range(5))
        return len(caught)

    with prefetch(smap(inside, range(6)), 1) as view:
        assert list(view) == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("method", METHODS[1:])
def test_without_a_working_directory_it_is_said(method, tmp_path, monkeypatch):
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="working directory, which is no more"):
        prefetch(range(3), mp_context=method)[0]
