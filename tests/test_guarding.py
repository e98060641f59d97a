"""Guards: items that fail are tried again, replaced, counted."""

import contextlib
import gc
import itertools
import json
import os
import pickle
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

import lazyseq
from lazyseq import (
    EvaluationError,
    TooManyFailures,
    WorkerDiedError,
    add_cache,
    batch,
    gather,
    guard,
    prefetch,
    seterr,
    smap,
    unbatch,
)


class Flaky:
    """A function that fails for its first `times` calls with each of the bad values."""

    def __init__(self, bad, times=10**9, error=OSError):
        self.bad, self.times, self.error, self.calls = set(bad), times, error, []

    def __call__(self, x):
        self.calls.append(x)
        if x in self.bad and self.calls.count(x) <= self.times:
            raise self.error(f"bad {x}")
        return x


def test_without_failures_it_is_its_source():
    view = guard(smap(Flaky([]), range(9)))
    assert list(view) == list(range(9)) and view[-1] == 8 and len(view) == 9
    assert list(view[2:5]) == [2, 3, 4] and batch(view, 4)[2] == [8]
    assert view.failures == [] and view.children[0][3] == 3
    assert list(guard((x for x in "abc") and [1, 2])) == [1, 2]


@pytest.mark.parametrize("read", [list, lambda view: [view[i] for i in range(len(view))]])
def test_an_item_that_fails_is_tried_again(read):
    f = Flaky([2, 5], times=2)
    view = guard(smap(f, range(7)), retries=2)
    assert read(view) == list(range(7))
    assert sorted(f.calls) == sorted([*range(7), 2, 2, 5, 5])
    assert view.failures == []
    with pytest.raises(EvaluationError, match="failed to evaluate item 2") as caught:
        guard(smap(Flaky([2]), range(7)), retries=3)[2]
    assert "after 4 tries" in caught.value.__notes__


def test_retries_wait_twice_as_long_each_time():
    f = Flaky([0], times=3)
    times = []
    view = guard(smap(lambda x: times.append(time.monotonic()) or f(x), [0]), retries=3, backoff=0.02)
    assert view[0] == 0
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] >= 0.02 and waits[1] >= 0.04 and waits[2] >= 0.08


@pytest.mark.parametrize("read", [list, lambda view: [view[i] for i in range(len(view))],
                                  lambda view: view.__getitems__(range(len(view)))])  # fmt: skip
def test_a_default_takes_the_items_place(read):
    view = guard(smap(Flaky([1, 3]), range(5)), default=-1)
    assert read(view) == [0, -1, 2, -1, 4]
    assert [(i, type(error), str(error)) for i, error in view.failures] == [
        (1, OSError, "bad 1"),
        (3, OSError, "bad 3"),
    ]
    assert all(error.__traceback__ is None for _, error in view.failures)
    asked = []
    view = guard(smap(Flaky([1, 3]), range(5)), default=lambda i, error: asked.append((i, str(error))) or 100 + i)
    assert read(view) == [0, 101, 2, 103, 4] and asked == [(1, "bad 1"), (3, "bad 3")]
    assert read(guard(smap(Flaky([1]), range(3)), on_error="default")) == [0, None, 2]


def test_a_default_that_raises_is_the_guards_error():
    view = guard(smap(Flaky([1]), range(3)), default=lambda i, error: 1 // 0)
    with pytest.raises(EvaluationError, match=r"failed to evaluate item 1 of guard\(default\)") as caught:
        view[1]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_nearest_neighbour_takes_the_items_place():
    view = guard(smap(Flaky([0, 1, 4, 5, 6, 9]), range(10)), on_error="neighbour")
    assert list(view) == [2, 2, 2, 3, 3, 7, 7, 7, 8, 8]
    assert [i for i, _ in view.failures] == [0, 1, 4, 5, 6, 9]
    with pytest.raises(EvaluationError, match="item 20 of") as caught:
        guard(smap(Flaky(range(40)), range(40)), on_error="neighbour")[20]
    assert "and no neighbour within 16 items could be had" in caught.value.__notes__


def test_only_the_errors_that_were_named():
    def load(x):
        if x in (1, 2):
            raise {1: KeyError, 2: OSError}[x](x)
        return str(x)

    source = smap(load, range(4))
    view = guard(source, default="?", errors=OSError)
    assert [view[0], view[2]] == ["0", "?"]
    with pytest.raises(EvaluationError):
        view[1]
    assert [i for i, _ in view.failures] == [2]
    assert list(guard(source, default="?", errors=(OSError, LookupError))) == ["0", "?", "?", "3"]

    def stop(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard(smap(stop, [1]), default=0)[0]
    assert guard(smap(stop, [1]), default=0, errors=BaseException)[0] == 0


def test_where_errors_are_passed_through():
    seterr("passthrough")
    try:
        view = guard(smap(Flaky([1]), range(3)), default=-1)
        assert list(view) == [0, -1, 2]
        with pytest.raises(OSError, match="bad 1"):
            guard(smap(Flaky([1]), range(3)))[1]
    finally:
        seterr("wrap")


def test_the_end_of_a_sequence_is_no_failure():
    class Endless:
        def __getitem__(self, i):
            if i >= 5:
                raise IndexError(i)
            if i == 3:
                raise OSError
            return i

    view = guard(Endless(), default="?")
    assert list(view) == [0, 1, 2, "?", 4]
    with pytest.raises(IndexError):
        view[5]
    with pytest.raises(IndexError):
        guard([1, 2], default="?")[2]
    assert [i for i, _ in view.failures] == [3]


def test_a_closed_prefetch_is_no_failure():
    p = prefetch(range(9), 1)
    p.close()
    with pytest.raises(ValueError, match="prefetch is closed"):
        guard(p, default=0, retries=3)[1]


@pytest.mark.parametrize("mode", ["wrap", "passthrough"])
def test_what_fails_for_all_items_is_let_through(mode):
    seterr(mode)
    try:
        p = prefetch(range(9), 1)
        p.close()
        for source in (p, smap(str, p), smap(lambda i: p[i], range(9))):
            view = guard(source, default=0, retries=3)
            for read in (lambda view=view: view[1], lambda view=view: list(view)):
                with pytest.raises((ValueError, EvaluationError)) as caught:
                    read()
                assert "prefetch is closed" in str(caught.value.__cause__ or caught.value) and view.failures == []
        view = guard(prefetch(range(9), 1, start_hook=lambda: 1 // 0), default=0)
        with pytest.raises(EvaluationError) as caught:
            view[1]
        assert "start_hook failed" in f"{caught.value}, {caught.value.__cause__}" and view.failures == []
    finally:
        seterr("wrap")


@pytest.mark.parametrize("mode", ["wrap", "passthrough"])
@pytest.mark.parametrize("error", [IndexError, StopIteration])
def test_what_a_function_raises_is_the_same_error_in_both_modes(mode, error):
    class Five:
        def __getitem__(self, i):
            if i >= 5:
                raise IndexError(i)
            return i

    seterr(mode)
    try:
        view = guard(smap(Flaky([1], error=error), Five()), default=-1, errors=error)
        assert list(view) == [0, -1, 2, 3, 4]
        assert [(i, type(each), str(each)) for i, each in view.failures] == [(1, error, "bad 1")]
        with pytest.raises((EvaluationError, RuntimeError)):
            guard(smap(Flaky([1], error=error), Five()), default=-1, errors=OSError)[1]
    finally:
        seterr("wrap")


def test_a_number_of_failures_is_allowed():
    view = guard(smap(Flaky([1, 2, 4]), range(9)), default=-1, budget=2)
    assert [view[i] for i in range(4)] == [0, -1, -1, 3]
    with pytest.raises(TooManyFailures, match="3 items failed, and 2 may: 1: OSError: bad 1; 2: OSError") as caught:
        view[4]
    assert [i for i, _ in caught.value.failures] == [1, 2, 4] and caught.value.index == 4
    with pytest.raises(TooManyFailures):
        smap(str, view)[4]
    with pytest.raises(TooManyFailures):
        guard(smap(Flaky([0]), range(9)), default=-1, budget=0)[0]
    copy = pickle.loads(pickle.dumps(caught.value))
    assert [(i, str(error)) for i, error in copy.failures] == [(i, f"bad {i}") for i in (1, 2, 4)]


def test_a_fraction_of_failures_is_allowed():
    view = guard(smap(Flaky(range(0, 100, 10)), range(100)), default=-1, budget=0.1)
    assert [x for x in view if x == -1] == [-1] * 10
    with pytest.raises(TooManyFailures, match="2 of 2 reads failed, and 0.1 of them and one may"):
        list(guard(smap(Flaky([0, 1]), range(100)), default=-1, budget=0.1))


def test_an_item_counts_once_for_the_budget_however_often_it_is_read():
    view = guard(smap(Flaky([1, 2, 7]), range(9)), default=-1, budget=3)
    for _ in range(3):
        assert list(view) == [0, -1, -1, 3, 4, 5, 6, -1, 8]
    assert len(view.failures) == 3
    view = guard(smap(Flaky([1, 2, 7]), range(9)), default=-1, budget=0.4)
    for _ in range(3):
        assert list(view).count(-1) == 3


def test_what_was_assigned_to_has_not_failed():
    source = ["0", "a", "b", "3"]
    numbers = smap(float, source)

    class Settable:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return numbers[i]

        def __setitem__(self, i, value):
            source[i] = value

    view = guard(Settable(), on_error="neighbour", budget=2)
    assert list(view) == [0.0, 0.0, 3.0, 3.0] and [i for i, _ in view.failures] == [1, 2]
    view[2] = "2"
    assert [i for i, _ in view.failures] == [1] and view[1] == 2.0
    source[3] = "c"
    assert view[3] == 2.0  # the second that fails


def test_the_text_of_too_many_failures_is_short():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        def __reduce__(self):
            raise TypeError("no copy")

    def fail(x):
        raise Silent if x % 2 else ValueError("long " * 100_000)

    view = guard(smap(fail, range(40)), default=0, budget=20)
    with pytest.raises(TooManyFailures) as caught:
        list(view)
    text = str(caught.value)
    assert 1000 < len(text) < 3000 and "0: ValueError: long long" in text and "and 11 more" in text
    assert "1: Silent, whose text cannot be had" in text and len(caught.value.failures) == 21


def test_a_guard_of_guards_and_over_batches():
    inner = guard(smap(Flaky([1, 2]), range(4)), default=-1, budget=1)
    with pytest.raises(TooManyFailures):
        list(guard(inner, default=-2))  # what is beyond a budget, nobody replaces
    f = Flaky([5])
    shards = smap(lambda k: [f(10 * k + j) for j in range(10)], range(3))
    assert list(guard(unbatch(guard(shards, default=[0] * 10), 10))) == [0] * 10 + list(range(10, 30))


def test_assignment_goes_to_the_source():
    source = [1, 2]
    view = guard(source)
    view[1] = 5
    assert source == [1, 5]


def test_in_threads():
    f = Flaky(range(0, 1000, 50))
    view = guard(smap(f, range(1000)), default=-1)
    with prefetch(view, 4) as p:
        assert list(p) == [-1 if i % 50 == 0 else i for i in range(1000)]
    assert sorted(i for i, _ in view.failures) == list(range(0, 1000, 50))
    counted = guard(smap(f, range(1000)), default=-1, budget=10**6)
    readers = [threading.Thread(target=list, args=(counted,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert len(counted.failures) == 20


def test_over_a_prefetch_with_a_timeout():
    release = threading.Event()
    with prefetch(smap(lambda i: release.wait(60) if i == 2 else i, range(5)), 1, timeout=0.05) as p:
        assert list(guard(p, default="late")) == [0, 1, "late", 3, 4]
        release.set()


def test_pickling_gives_the_recipe():
    view = guard(smap(abs, ["a", -2]), retries=1, default=0, errors=(TypeError,), budget=0.9)
    assert list(view) == [0, 2]
    copy = pickle.loads(pickle.dumps(view))
    assert copy.failures == [] and list(copy) == [0, 2] and len(copy.failures) == 1


def test_tree_counts_failures(capsys):
    view = guard(smap(Flaky([1]), range(3)), default=0)
    lazyseq.instrument.tree(view)
    list(gather(view, [1, 1, 2]))
    lazyseq.instrument.tree(view)
    lines = [line.partition(", made at")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "guard(default), 3 items" and lines[3] == "guard(default), 3 items, 1 failed"


@pytest.mark.parametrize("on_error", ["raise", "default"])
def test_failures_keep_nothing_alive(on_error):
    class Large:
        alive: ClassVar[list] = []

        def __init__(self):
            Large.alive.append(1)

        def __del__(self):
            Large.alive.pop()

    def load(x):
        large = Large()
        try:
            raise KeyError(x)
        except KeyError as error:
            raise OSError(x) from error
        return large

    view = guard(smap(load, range(9)), on_error=on_error)
    for i in range(9):
        with contextlib.suppress(EvaluationError):
            view[i]
    gc.collect()
    assert Large.alive == [] and len(view.failures) == 9


def test_a_guard_reads_together_what_its_source_does():
    loads = []
    shards = smap(lambda k: loads.append(k) or [k * 10 + j for j in range(10)], range(5))
    view = guard(unbatch(shards, 10), default=-1)
    assert batch(view, 10)[3] == list(range(30, 40)) and loads == [3]
    f = Flaky([33])
    view = guard(smap(f, unbatch(shards, 10)), default=-1)
    assert batch(view, 10)[3] == [30, 31, 32, -1, *range(34, 40)]


def read_singly(view):
    return [view[i] for i in range(len(view))]


def read_together(view):
    return view.__getitems__(range(len(view)))


def read_in_batches(view):
    return [x for k in batch(view, 64) for x in k]


class Shards:
    """Shards of 64 numbers, over which functions may fail; what is loaded and called is counted."""

    def __init__(self, *bad, times=10**9):
        self.loads, self.f = [], Flaky(bad, times)
        self.shards = smap(self.load, range(5))

    def load(self, k):
        self.loads.append(k)
        return [64 * k + j for j in range(64)]


PIPELINES = {
    "smap": lambda s: smap(s.f, unbatch(s.shards, 64)),
    "smaps": lambda s: smap(lambda x: x, smap(s.f, smap(int, unbatch(s.shards, 64)))),
    "two sources": lambda s: smap(lambda x, y: s.f(x), unbatch(s.shards, 64), range(320)),
    "slice": lambda s: smap(s.f, unbatch(s.shards, 64))[0:320],
    "gather": lambda s: gather(smap(s.f, unbatch(s.shards, 64)), list(range(320))),
    "cache": lambda s: add_cache(smap(s.f, unbatch(s.shards, 64)), 320),
    "guard": lambda s: guard(smap(s.f, unbatch(s.shards, 64)), errors=KeyError, default=-2),
}


def reads_by_index(name, read):
    return read is read_singly or (read is list and name == "gather")


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("read", [list, read_singly, read_together, read_in_batches])
def test_items_fail_alike_however_they_are_read(name, read):
    s = Shards(70, 71, 300)
    view = guard(PIPELINES[name](s), default=-1)
    assert read(view) == [-1 if i in (70, 71, 300) else i for i in range(320)]
    assert [(i, str(error)) for i, error in view.failures] == [(i, f"bad {i}") for i in (70, 71, 300)]
    assert sorted(s.f.calls) == list(range(320))  # each once
    assert reads_by_index(name, read) or sorted(s.loads) == list(range(5))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("read", [list, read_singly, read_together, read_in_batches])
def test_retries_read_what_failed_and_nothing_else(name, read):
    s = Shards(70, 300, times=2)
    view = guard(PIPELINES[name](s), retries=2)
    assert read(view) == list(range(320)) and view.failures == []
    assert sorted(s.f.calls) == sorted([*range(320), 70, 70, 300, 300])
    assert reads_by_index(name, read) or len(s.loads) <= 5 + 4


@pytest.mark.parametrize("read", [list, read_singly, read_together])
def test_reads_count_alike_for_a_budget(read):
    view = guard(smap(Flaky([1, 90]), unbatch(smap(lambda k: range(10 * k, 10 * k + 10), range(10)), 10)), budget=0.02,
                 default=-1)  # fmt: skip
    assert read(view).count(-1) == 2
    view = guard(smap(Flaky([1, 9]), unbatch(smap(lambda k: range(10 * k, 10 * k + 10), range(10)), 10)), budget=0.02,
                 default=-1)  # fmt: skip
    with pytest.raises(TooManyFailures, match="2 of 10 reads failed"):
        read(view)


def test_a_shard_that_fails_is_loaded_once_by_a_batch():
    loads = []

    def load(k):
        loads.append(k)
        if k == 1:
            raise OSError("bad shard")
        return [8 * k + j for j in range(8)]

    view = guard(smap(lambda x: x, unbatch(smap(load, range(3)), 8)), default=-1)
    assert view.__getitems__(range(24)) == [*range(8), *[-1] * 8, *range(16, 24)] and loads == [0, 1, 2]
    assert [i for i, _ in view.failures] == list(range(8, 16))
    with pytest.raises(EvaluationError) as caught:
        guard(smap(lambda x: x, unbatch(smap(load, range(3)), 8))).__getitems__(range(24))
    assert len(caught.value.__notes__) == 3  # one for each stage above


def test_a_source_that_reads_together_is_read_so_and_what_fails_singly():
    class Table:
        def __init__(self, bad):
            self.bad, self.reads = bad, []

        def __len__(self):
            return 20

        def __getitem__(self, i):
            return self.__getitems__([i])[0]

        def __getitems__(self, indices):
            self.reads.append(list(indices))
            if self.bad in indices:
                raise OSError("bad row")
            return list(indices)

    for stage in (lambda table: table, lambda table: smap(lambda x: x, table)):
        table = Table(-1)
        assert batch(guard(stage(table), default=-1), 10)[1] == list(range(10, 20))
        assert table.reads == [list(range(10, 20))]
        table = Table(13)
        view = guard(stage(table), default=-1)
        assert batch(view, 10)[1] == [10, 11, 12, -1, *range(14, 20)] and [i for i, _ in view.failures] == [13]
        assert table.reads == [list(range(10, 20)), *[[i] for i in range(10, 20)]]

    class Array:  # in a file
        shape, dtype, __array__, reads = (20,), int, None, 0

        def __len__(self):
            return 20

        def __getitem__(self, indices):
            self.reads += 1
            return np.arange(20)[indices]

    array = Array()
    assert batch(guard(smap(int, array)), 10)[1] == list(range(10, 20)) and array.reads == 1


def test_an_interruption_is_no_failure_in_a_batch_either():
    def stop(x):
        calls.append(x)
        raise KeyboardInterrupt

    calls = []
    source = smap(stop, unbatch([[1, 2], [3, 4]], 2))
    with pytest.raises(KeyboardInterrupt):
        guard(source, default=0).__getitems__([0, 1])
    assert calls == [1]
    assert guard(source, default=0, errors=BaseException).__getitems__([0, 1]) == [0, 0]


# ---- What is recorded of a failure ----------------------------------------------------------------------------------


def record(raising):
    def fail(x):
        raising()

    view = guard(smap(fail, [0]), on_error="default")
    assert list(view) == [None]
    return view.failures[0][1]


def raising(error):
    def fail():
        raise error

    return fail


def test_a_record_holds_nothing_large():
    size = 10**6
    error = record((b"\xff" * size).decode)
    assert type(error) is UnicodeDecodeError and error.start == 0 and len(error.object) < 10_000
    error = record((b"x" * size + b"\xff").decode)
    assert f"position {size}" in str(error) and "invalid start byte" in str(error)
    error = record(lambda: json.loads("[\n" + "1," * size))
    assert type(error) is json.JSONDecodeError and len(error.doc) < 10_000
    assert str(error) == f"Expecting value: line 2 column {2 * size + 1} (char {2 * size + 2})" and error.lineno == 2
    large = OSError(5, "x" * size)
    large.data, large.array, large.code = b"x" * size, np.zeros(size), 7
    error = record(raising(large))
    assert error.errno == 5 and error.code == 7 and len(pickle.dumps(error)) < 20_000
    ring = []
    ring.append(ring)
    assert len(pickle.dumps(record(raising(ValueError(ring, [ring] * 100, {1: "x" * size}))))) < 20_000


def test_a_record_is_of_the_errors_type():
    class Two(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a}-{b}")
            self.a = a

    class Both(KeyError, AttributeError):
        pass

    error = record(raising(Two(1, 2)))
    assert type(error) is Two and str(error) == "1-2" and error.a == 1
    error = record(raising(Both("x")))
    assert type(error) is Both and error.args == ("x",)
    error = record(lambda: os.stat("/no/such/file"))
    assert type(error) is FileNotFoundError and error.filename == "/no/such/file" and "/no/such/file" in str(error)
    inner = ValueError(1)
    inner.add_note("a note")
    error = record(raising(ExceptionGroup("several", [inner, Two(3, 4)])))
    assert type(error) is ExceptionGroup and [type(each) for each in error.exceptions] == [ValueError, Two]
    assert error.exceptions[0].__notes__ == ["a note"] and error.exceptions[0].__traceback__ is None
    error = record(lambda: compile("1 +", "name", "eval"))
    assert type(error) is SyntaxError and error.filename == "name" and "invalid syntax" in str(error)


def test_no_fraction_is_no_failure():
    with pytest.raises(TooManyFailures, match="1 items failed, and 0 may"):
        guard(smap(Flaky([1]), range(3)), default=0, budget=0.0)[1]


def test_what_is_refused_of_errors_and_on_error():
    for errors in (EvaluationError, (OSError, EvaluationError)):
        with pytest.raises(ValueError, match="guard: errors must be what your functions raise, and not the Evaluat"):
            guard([], errors=errors)
    guard([], errors=WorkerDiedError)  # which is no error of a function
    with pytest.raises(ValueError, match="guard: on_error must be 'raise', 'default' or 'neighbour', got array"):
        guard([], on_error=np.array(["raise", "default"]))
