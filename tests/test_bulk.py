"""Reads of many items at once: the same items, by fewer and larger reads of the sources."""

import array
import os
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyseq import (
    EvaluationError,
    arange,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    guard,
    interleave,
    prefetch,
    seterr,
    smap,
    split,
    starmap,
    switch,
    unbatch,
    uniter,
)
from lazyseq.instrument import debug, monitor_throughput


class Many:
    """A source that gives many items in one call, and notes what it was asked for."""

    def __init__(self, items, answer=lambda items: items):
        self.items, self.answer, self.asked = list(items), answer, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.items[i]

    def __getitems__(self, indices):
        self.asked.append(indices)
        return self.answer([self.items[i] for i in indices])


class InFile:
    """An array as h5py has them: slices, and indices that increase."""

    def __init__(self, data):
        self.data, self.asked = data, []

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)

    def __len__(self):
        return len(self.data)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole array is never asked for")

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            assert (np.diff(key) > 0).all()
            self.asked.append(key.tolist())
        else:
            self.asked.append((key.start, key.stop) if isinstance(key, slice) else key)
        return self.data[key].copy()


# ---- __getitems__


def test_getitems_takes_what_brackets_take():
    view = smap(str, range(5))
    assert view.__getitems__([4, -5, 4]) == ["4", "0", "4"]
    assert view.__getitems__(np.array([1, 2], np.uint8)) == ["1", "2"]
    assert view.__getitems__(np.array([True, False, False, False, True])) == ["0", "4"]
    assert view.__getitems__(range(1, 3)) == ["1", "2"]
    assert view.__getitems__([]) == []


@pytest.mark.parametrize(
    ("indices", "error", "text"),
    [
        ([0, 5], IndexError, r"smap\(str\) index 5 is out of range for 5 items"),
        ([-6], IndexError, r"smap\(str\) index -6 is out of range for 5 items"),
        ([2**70], IndexError, rf"{2**70} is out of range of the <lazyseq smap\(str\) of 5 items>"),
        ([2**63], IndexError, rf"{2**63} is out of range of the <lazyseq smap\(str\) of 5 items>"),
        ([[1], [1, 2]], TypeError, r"smap\(str\) indices must be integers, got sequences of different lengths"),
        ([0.5], TypeError, r"smap\(str\) indices must be integers, got float64 values: \[0.5\]"),
        (np.zeros((2, 2), int), TypeError, r"must have one dimension, got an array of shape \(2, 2\)"),
        (np.ones(4, bool), IndexError, r"a mask of 4 values does not fit the <lazyseq smap\(str\) of 5 items>"),
        ("01", TypeError, "must be integers, got a string"),
        (3, TypeError, "must be integers, slices, index arrays or boolean masks"),
        (None, TypeError, "must be integers, slices, index arrays or boolean masks"),
    ],
)
def test_wrong_indices(indices, error, text):
    with pytest.raises(error, match=text):
        smap(str, range(5)).__getitems__(indices)


# ---- Items, together

OVER_MANY = {  # view of a source of 12 items; what it asks for when items 1, 0 and 3 are read together
    "smap": (lambda xs: smap(str, xs), [[1, 0, 3]]),
    "smap of two": (lambda xs: smap(max, xs, range(12)), [[1, 0, 3]]),
    "starmap": (lambda xs: starmap(str, smap(lambda x: (x,), xs)), [[1, 0, 3]]),
    "collate": (lambda xs: collate([xs, xs]), [[1, 0, 3], [1, 0, 3]]),
    "slice": (lambda xs: smap(str, xs)[10:2:-2], [[8, 10, 4]]),
    "gather": (lambda xs: gather(xs, [5, -1, 5, 6]), [[11, 5, 6]]),
    "lazy gather": (lambda xs: gather(xs, smap(abs, [-5, 11, -5, 6])), [[11, 5, 6]]),
    "gather by it": (lambda xs: gather(list(range(20)), xs), [[1, 0, 3]]),
    "concatenate": (lambda xs: concatenate([[7], xs, xs]), [[0, 2]]),
    "interleave": (lambda xs: interleave(xs, [9] * 12), [[0]]),
    "cycle": (lambda xs: cycle(xs), [[1, 0, 3]]),
    "switch": (lambda xs: switch([1, 0] * 6, xs, ["no"] * 12), [[0]]),
    "case": (lambda xs: case([1, 0] * 6, ["no"] * 12, xs), [[0]]),
    "batch": (lambda xs: batch(xs, 3), [[3, 4, 5, 0, 1, 2, 9, 10, 11]]),
    "unbatch of plain": (lambda xs: unbatch(batch(xs, 3), 3), [[1, 0, 3]]),
    "unbatch": (lambda xs: unbatch(smap(lambda x: [x, -x], xs), 2), [[0, 1]]),
    "debug": (lambda xs: debug(xs, lambda i, x: None), [[1, 0, 3]]),
    "monitor": (lambda xs: monitor_throughput(xs), [[1, 0, 3]]),
    "smap of gather of smap": (lambda xs: smap(str, gather(smap(abs, xs), range(12))), [[1, 0, 3]]),
}


@pytest.mark.parametrize("name", OVER_MANY)
def test_a_source_with_getitems_gets_one_call(name):
    make, asked = OVER_MANY[name]
    source = Many(range(12))
    view = make(source)
    expected = [make(range(12))[i] for i in (1, 0, 3)]
    assert view.bulk == "items"
    assert view.__getitems__([1, 0, 3]) == expected
    assert source.asked == asked
    source.asked.clear()
    assert batch(gather(view, [1, 0, 3]), 3)[0] == expected and source.asked == asked
    source.asked.clear()
    assert list(batch(gather(view, [1, 0, 3]), 3)) == [expected] and source.asked == asked


def test_one_item_is_read_by_itself():
    source = Many(range(12))
    assert smap(str, source)[3] == "3" and list(gather(source, [5, 4])) == [5, 4]
    assert source.asked == [3, 5, 4]


def test_batches_of_an_unbatch_read_each_batch_once():
    calls = []

    def load(i):
        calls.append(i)
        return [10 * i, 10 * i + 1, 10 * i + 2]

    items = unbatch(smap(load, range(5)), 3)
    shuffled = smap(str, gather(items, [14, 0, 7, 1, 8, 13]))
    assert shuffled.__getitems__(range(6)) == ["42", "0", "21", "1", "22", "41"] and calls == [4, 0, 2]
    calls.clear()
    assert batch(shuffled, 4)[0] == ["42", "0", "21", "1"] and calls == [4, 0, 2]
    calls.clear()
    assert list(batch(items, 6)) == [[0, 1, 2, 10, 11, 12], [20, 21, 22, 30, 31, 32], [40, 41, 42]]
    assert calls == [0, 1, 2, 3, 4]


def test_without_shared_work_items_are_read_one_after_the_other():
    calls = []
    first = smap(lambda x: calls.append(("first", x)) or x, [0, 1, 2])
    second = smap(lambda x: calls.append(("second", x)) or x, first)
    assert second.bulk is None and batch(second, 2)[0] == [0, 1]
    assert calls == [("first", 0), ("second", 0), ("first", 1), ("second", 1)]


@pytest.mark.parametrize("make", [lambda xs: uniter(xs, 9, 1, 9), lambda xs: prefetch(xs, 0)])
def test_what_looks_for_each_item_by_itself_shares_nothing(make):
    assert make(Many(range(9))).bulk is None and batch(make(Many(range(9))), 4)[1] == [4, 5, 6, 7]


@pytest.mark.parametrize("read", [lambda p, wanted: p.__getitems__(wanted), lambda p, wanted: list(p[wanted]),
                                  lambda p, wanted: batch(gather(p, wanted), 6)[0]])  # fmt: skip
@pytest.mark.parametrize("wanted", [[7, 3, 1, 9, 3, 0], [2, 3, 4, 5, 6, 7]])
def test_a_bulk_read_of_a_prefetch_is_evaluated_by_its_workers_side_by_side(read, wanted):
    together = threading.Barrier(2, timeout=20)
    with prefetch(smap(lambda x: (together.wait(), x)[1], range(10)), 2, max_buffered=6) as p:
        assert p.bulk == "items"
        assert read(p, wanted) == wanted


def test_each_batch_of_any_source_is_read_once():
    source = Many([[1, 2], [3, 4], [5, 6]])
    assert unbatch(source, 2).__getitems__([0, 1, 4, 3]) == [1, 2, 5, 4] and source.asked == [[0, 2, 1]]
    loads = []

    class Shards:
        def __len__(self):
            return 2

        def __getitem__(self, i):
            loads.append(i)
            return list(range(10 * i, 10 * i + 10))

    assert batch(unbatch(Shards(), 10), 10)[1] == list(range(10, 20)) and loads == [1]
    assert unbatch([[1, 2], [3, 4]], 2).bulk is None


DEEP = {
    "smap": lambda xs: smap(abs, xs),
    "smap of two": lambda xs: smap(max, xs, range(10)),
    "starmap": lambda xs: starmap(abs, collate([xs])),
    "debug": lambda xs: debug(xs, lambda i, x: None),
    "collate": lambda xs: smap(sum, collate([xs])),
    "gather": lambda xs: monitor_throughput(gather(xs, [*range(10)])),  # a gather of a gather is one
    "lazy gather": lambda xs: gather(xs, LAZY),
    "gather by it": lambda xs: gather(range(10), xs),
    "slice": lambda xs: cycle(xs)[:10],
    "cycle": lambda xs: cycle(xs, 10),
    "concatenate": lambda xs: monitor_throughput(concatenate([xs, xs])[:10]),
    "interleave": lambda xs: interleave(xs),
    "switch": lambda xs: switch([1] * 10, xs, range(10)),
    "condition": lambda xs: switch(xs, range(10), range(10)),
    "case": lambda xs: case([0] * 10, xs),
    "selector": lambda xs: gather(range(10), case(gather([0], cycle([0], 10)), xs)),
    "batch": lambda xs: unbatch(batch(xs, 5, collate_fn=tuple), 5),
    "unbatch of plain": lambda xs: unbatch(batch(xs, 5), 5),
    "monitor": lambda xs: monitor_throughput(xs),
    "guard": lambda xs: guard(xs),
}
LAZY = smap(int, range(10))
STACK = 512 * 1024 if "asan" not in os.environ.get("LD_PRELOAD", "") else 64 * 1024**2  # frames are larger there


def deep(make, view):
    while True:
        try:
            view = make(view)
        except RecursionError:  # more than 1000
            return view


def in_small_thread(function):
    found = []
    before = threading.stack_size(STACK)
    try:
        thread = threading.Thread(target=lambda: found.append(function()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return found[0]


@pytest.mark.parametrize("name", DEEP)
def test_bulk_reads_go_as_deep_as_views_do(name):
    source = Many(range(10))
    view = deep(DEEP[name], source)
    assert view.bulk == "items"
    assert in_small_thread(lambda: view.__getitems__([1, 0, 3])) == [1, 0, 3]
    assert source.asked and all(isinstance(indices, list) for indices in source.asked)


@pytest.mark.parametrize(
    "name", ["gather", "slice", "cycle", "concatenate", "interleave", "unbatch of plain", "monitor"]
)
def test_blocks_come_from_as_deep_as_views_go(name):
    rows = np.arange(20.0).reshape(10, 2)
    view = deep(DEEP[name], rows)
    assert view.bulk == "block"
    same(in_small_thread(lambda: np.asarray(view)), rows)


# ---- Errors


def test_functions_see_each_item_go_the_whole_way_before_the_next():
    seen = []

    def note(name, fails=()):
        def function(x, *_):
            seen.append((name, x))
            if x in fails:
                raise KeyError(x)
            return x

        return function

    view = smap(note("last", [2]), debug(starmap(note("first"), smap(lambda x: (x,), Many(range(6)))), print_none))
    with pytest.raises(EvaluationError, match=r"item 2 of smap\(function\)") as alone:
        batch([view[i] for i in range(4)], 4)
    alone_saw = seen.copy()
    seen.clear()
    with pytest.raises(EvaluationError, match=r"item 2 of smap\(function\)"):
        view.__getitems__(range(4))
    assert seen == alone_saw == [(name, x) for x in range(3) for name in ("first", "last")]
    outer = smap(abs, smap(abs, smap(note("inner", [1]), Many(range(6)))))
    with pytest.raises(EvaluationError) as alone:
        outer[1]
    with pytest.raises(EvaluationError) as together:
        outer.__getitems__([0, 1])
    assert str(together.value) == str(alone.value) and together.value.__notes__ == alone.value.__notes__


def print_none(i, value):
    pass


def test_one_intermediate_item_is_alive_at_a_time():
    class Heavy:
        alive = most = 0

        def __init__(self, x):
            Heavy.alive += 1
            Heavy.most = max(Heavy.most, Heavy.alive)

        def __del__(self):
            Heavy.alive -= 1

    assert smap(lambda heavy: 0, smap(Heavy, Many(range(20)))).__getitems__(range(20)) == [0] * 20
    assert Heavy.most <= 2


def test_an_index_beyond_the_last_batch_shows_functions_no_more_items():
    seen = []
    view = unbatch(batch(smap(lambda x: seen.append(x) or x, Many(range(6))), 4), 4)
    with pytest.raises(EvaluationError, match="item 6 of unbatch"):
        view.__getitems__([0, 6, 1])
    assert seen == [0, 4, 5]  # the last two are the batch of item 6


def failing_in_file(fails, error):
    class Failing(InFile):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            if isinstance(key, slice):
                key = range(*key.indices(len(self)))
            if fails in (key if hasattr(key, "__len__") else [key]):
                raise error("no such block")
            return found

    return Failing(ROWS)


@pytest.mark.parametrize("collate_fn", [None, np.stack])
def test_a_read_of_a_file_that_fails_is_made_once(collate_fn):
    source = failing_in_file(7, OSError)
    with pytest.raises(EvaluationError, match="failed to evaluate item 0 of gather") as caught:
        batch(gather(source, [3, 9, 7, 1]), 4, collate_fn=collate_fn)[0]
    assert source.asked == [[1, 3, 7, 9]] and isinstance(caught.value.__cause__, OSError)
    assert "in a read of 4 items together" in caught.value.__notes__[0]


@pytest.mark.parametrize("collate_fn", [None, np.stack])
def test_an_error_that_may_refuse_the_indices_is_told_by_the_items(collate_fn):
    source = failing_in_file(7, ValueError)
    with pytest.raises(EvaluationError, match="failed to evaluate item 2 of gather"):
        batch(gather(source, [3, 9, 7, 1]), 4, collate_fn=collate_fn)[0]


def test_a_function_that_fails_in_a_bulk_read_is_called_once_for_each_item():
    calls = []

    def fail_at_two(x):
        calls.append(x)
        if x == 2:
            raise KeyError(x)
        return x

    view = batch(smap(fail_at_two, Many(range(8))), 4)
    with pytest.raises(EvaluationError, match=r"failed to evaluate item 2 of smap\(fail_at_two\)") as caught:
        view[0]
    assert calls == [0, 1, 2] and caught.value.index == 2 and isinstance(caught.value.__cause__, KeyError)
    batches = iter(view)
    with pytest.raises(EvaluationError):
        next(batches)
    assert list(batches) == [[4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("answer", "cause", "text"),
    [
        (lambda items: items[:-1], ValueError, "Many.__getitems__ must return 3 items, got 2"),
        (lambda items: items * 2, ValueError, "Many.__getitems__ must return 3 items, got 6"),
        (lambda items: None, TypeError, "Many.__getitems__ must return 3 items, got NoneType"),
        (lambda items: iter(items), TypeError, "Many.__getitems__ must return 3 items, got list_iterator"),
        (lambda items: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)
def test_a_source_that_answers_wrongly(answer, cause, text):
    view = smap(str, gather(Many(range(9), answer), [4, 5, 6]))
    with pytest.raises(EvaluationError, match="failed to evaluate item 0 of gather") as caught:
        batch(view, 3)[0]
    assert isinstance(caught.value.__cause__, cause) and text in str(caught.value.__cause__)
    assert any("in a read of 3 items together" in note for note in caught.value.__notes__)
    seterr("passthrough")
    try:
        with pytest.raises(cause, match=text):
            view.__getitems__([0, 1, 2])
    finally:
        seterr("wrap")


def test_a_source_that_has_shrunk_is_an_index_error():
    source = Many(range(6))
    view = smap(str, gather(source, [0, 5]))
    del source.items[3:]
    with pytest.raises(IndexError):
        view.__getitems__([0, 1])
    rows = np.arange(10.0).reshape(5, 2)
    holder = InFile(rows)
    view = batch(concatenate([holder, holder]), 4, collate_fn=np.stack)
    holder.data = rows[:3]
    with pytest.raises((IndexError, EvaluationError)):
        view[0]


# ---- Blocks

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)
ARRAYS = {
    "rows": ROWS,
    "numbers": np.arange(20, dtype=np.int16),
    "read-only": np.frombuffer(ROWS.tobytes(), np.float32).reshape(20, 3),
    "strided": np.arange(240, dtype=np.int8).reshape(40, 6)[::2, ::-2],
    "columns first": np.asfortranarray(np.arange(120).reshape(20, 2, 3)),
    "bool": np.arange(20) % 3 == 0,
    "complex": np.arange(20) * 1j,
    "dates": np.arange(20).astype("M8[ms]"),
    "no columns": np.zeros((20, 0)),
    "array.array of ints": array.array("i", range(20)),
    "array.array of bytes": array.array("B", range(20)),
    "array.array of floats": array.array("f", range(20)),
    "bytes": bytes(range(20)),
    "bytearray": bytearray(range(20)),
    "memoryview": memoryview(array.array("h", range(20))),
    "in a file": InFile(ROWS),
    "numbers in a file": InFile(np.arange(20)),
}


def h5py_dataset(data):
    file = pytest.importorskip("h5py").File(f"{id(data)}", "w", driver="core", backing_store=False)
    return file.create_dataset("data", data=data)


def tensor(data):
    return pytest.importorskip("torch").from_numpy(data)


OF_LIBRARIES = {  # of the extra `interop`
    "h5py": lambda: h5py_dataset(ROWS),
    "numbers of h5py": lambda: h5py_dataset(np.arange(20)),
    "torch": lambda: tensor(ROWS.copy()),
    "numbers of torch": lambda: tensor(np.arange(20)),
}
NO_BLOCKS = {  # what numpy.stack makes of their items depends on the values, or is of another type
    "other byte order": ROWS.astype(">f4"),
    "texts": np.array([str(i) for i in range(20)]),
    "objects": np.array([[i] for i in range(20)], object),
    "records": np.zeros(20, [("a", "i4"), ("b", "f8")]),
    "masked": np.ma.masked_array(np.arange(20), np.arange(20) % 2),
    "unsigned": array.array("Q", range(2**63 - 3, 2**63 + 17)),
    "list": [np.ones(3)] * 20,
    "in a file, texts": InFile(np.array([str(i).encode() for i in range(20)])),
}
INDEX_ONLY = {
    "itself": lambda xs: xs,
    "gather": lambda xs: gather(xs, [3, -1, 3, 0, 19, -20, 7]),
    "gather of a range": lambda xs: gather(xs, range(18, 3, -2)),
    "gather of neighbours": lambda xs: gather(xs, range(4, 17)),
    "gather of gather": lambda xs: gather(gather(xs, [5, 4, 3, 2, 1]), [-1, 0, 2, 2, 4]),
    "slice of gather": lambda xs: gather(xs, np.arange(20)[::-1])[3:15:4],
    "slice": lambda xs: gather(xs, range(20))[4:18],
    "slice of cycle": lambda xs: cycle(xs)[7:55:3],
    "concatenate": lambda xs: concatenate([xs, gather(xs, [1, 2, 3]), xs]),
    "interleave": lambda xs: interleave(xs, gather(xs, [9, 8]), xs),
    "cycle": lambda xs: cycle(xs, 47),
    "unbatch": lambda xs: unbatch(batch(xs, 6), 6, 2),
    "monitor": lambda xs: monitor_throughput(xs),
    "all of them": lambda xs: interleave(cycle(concatenate([xs, gather(xs, [-1, 4])[::-1]]), 50)[2:], xs),
}


def same(found, expected):
    assert type(found) is type(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found.flags.writeable == expected.flags.writeable
    assert found.flags.c_contiguous  # also where NumPy would keep another order of the items
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stack", [np.stack, np.array, np.asarray])
@pytest.mark.parametrize("name", INDEX_ONLY)
@pytest.mark.parametrize("kind", [*ARRAYS, *OF_LIBRARIES])
def test_a_block_is_what_the_function_makes_of_the_items(kind, name, stack):
    source = ARRAYS[kind] if kind in ARRAYS else OF_LIBRARIES[kind]()
    view = INDEX_ONLY[name](source)
    batches = batch(view, 4, collate_fn=stack)
    assert batches.bulk == "block" and (view is source or view.bulk == "block")
    items = [view[i] for i in range(len(view))]
    expected = [stack(items[j : j + 4]) for j in range(0, len(items), 4)]
    if isinstance(source, InFile):
        source.asked.clear()
    for found in (list(batches), [batches[i] for i in range(len(batches))], batches.__getitems__(range(len(batches)))):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
            if isinstance(source, np.ndarray):
                assert not np.shares_memory(one, source)
    if isinstance(source, InFile):
        assert all(isinstance(key, (tuple, list)) for key in source.asked)  # never an item by itself
    if view is not source:
        same(np.asarray(view), np.array(items))
        assert np.asarray(view, dtype="c16").dtype == np.complex128 if "dates" not in kind else True


@pytest.mark.parametrize("rows", [range(4, 9), [7, 3, 3, 0, 9]])
@pytest.mark.parametrize(
    "source",
    [
        np.zeros((200_000, 8))[::2],
        np.zeros((100_000, 8), order="F"),
        np.zeros(100_001 * 8 + 1, np.uint8)[1:-8].view(float).reshape(-1, 8),  # not aligned
        np.lib.stride_tricks.sliding_window_view(np.zeros(10**6), 10**5),
        np.broadcast_to(np.zeros(8), (10**12, 8)),
    ],
    ids=["strided", "columns first", "not aligned", "windows", "broadcast"],
)
def test_a_block_takes_the_memory_of_its_rows(source, rows):
    view = batch(gather(source, rows), 5, collate_fn=np.stack)
    view[0]
    tracemalloc.start()
    found = view[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (5, *source.shape[1:]) and found.flags.c_contiguous
    assert peak < 3 * found.nbytes + 10_000


@pytest.mark.parametrize("name", INDEX_ONLY)
@pytest.mark.parametrize("kind", NO_BLOCKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_other_arrays_are_stacked_item_by_item(kind, name):
    source = NO_BLOCKS[kind]
    view = INDEX_ONLY[name](source)
    items = [view[i] for i in range(len(view))]
    batches = batch(view, 4, collate_fn=np.stack)
    for i in range(len(batches)):
        same(batches[i], np.stack(items[4 * i : 4 * i + 4]))


def test_neighbours_in_a_file_are_one_slice_and_others_are_asked_for_in_order():
    source = InFile(ROWS)
    assert batch(gather(source, range(5, 15)), 5, collate_fn=np.stack)[1].tolist() == ROWS[10:15].tolist()
    assert source.asked == [(10, 15)]
    source.asked.clear()
    assert batch(gather(source, [9, 2, 9, 5]), 4, collate_fn=np.stack)[0].tolist() == ROWS[[9, 2, 9, 5]].tolist()
    assert source.asked == [[2, 5, 9]]
    source.asked.clear()
    assert [row.tolist() for row in smap(abs, source).__getitems__([3, 2, 2])] == ROWS[[3, 2, 2]].tolist()
    assert source.asked == [(2, 4)]


def test_evenly_spaced_rows_of_a_file_are_one_slice():
    class Spaced(InFile):
        def __getitem__(self, key):
            self.keys.append(key)
            return super().__getitem__(key)

    source = Spaced(ROWS)
    source.keys = []
    for indices in (range(3, 18, 5), range(18, 2, -5), [13, 3, 8, 3]):
        same(batch(gather(source, indices), 4, collate_fn=np.stack)[0], ROWS[list(indices)])
    assert source.keys == [slice(3, 14, 5), slice(3, 19, 5), slice(3, 14, 5)]


def test_rows_of_a_file_keep_no_others_alive():
    rows = smap(lambda row: row, InFile(ROWS)).__getitems__([3, 4, 9])
    assert all(row.base is None and row.flags.writeable for row in rows)


def test_what_comes_to_no_block_is_not_tried_again():
    class Masked(InFile):
        def __getitem__(self, key):
            return np.ma.masked_array(super().__getitem__(key))

    source = Masked(np.arange(20))
    batches = batch(gather(source, [3, 1, 7, 9, 8, 2]), 3, collate_fn=np.array)
    assert batches.bulk == "block"
    assert [found.tolist() for found in batches] == [[3, 1, 7], [9, 8, 2]]
    assert batches.bulk == "items" and source.asked == [[1, 3, 7], [1, 3, 7], [2, 8, 9]]


def test_an_index_that_is_out_of_range_ends_no_blocks():
    batches = batch(gather(ROWS, [1, 99, 2, 3]), 2, collate_fn=np.stack)
    with pytest.raises(IndexError):
        batches[0]
    assert batches.bulk == "block" and batches[1].tolist() == ROWS[2:4].tolist()


def test_parts_that_differ_say_that_there_are_no_blocks():
    for other in (np.zeros(3), np.zeros((3, 2), np.int64), InFile(np.zeros(3)), array.array("f", [1])):
        parts = [np.arange(3), gather(cycle(other), [0, 1])]
        assert concatenate(parts).bulk != "block" != interleave(*parts).bulk
    assert concatenate([np.arange(3), array.array("b", [1]), InFile(np.arange(9))[:0:1]]).bulk == "block"


def test_blocks_of_endless_views():
    endless = cycle(ROWS)
    for view in (gather(endless, [45, 3]), gather(endless, range(45, 2, -42)), concatenate([ROWS, endless])[[45, 3]]):
        assert view.bulk == "block"
        batches = batch(view, 2, collate_fn=np.stack)
        same(batches[0], ROWS[[5, 3]])
        assert batches.bulk == "block"
    same(batch(gather(ROWS, range(-2, 3)), 5, collate_fn=np.stack)[0], ROWS[[-2, -1, 0, 1, 2]])


def test_a_batch_of_unknown_length_is_read_item_by_item():
    view = batch(smap(str, concatenate([Many(range(3)), uniter(range(3))])), 2)
    assert view.bulk is None and list(view) == [["0", "1"], ["2", "0"], ["1", "2"]]


def test_batches_that_cut_no_evaluation_are_each_one_read():
    source = Many(range(16))
    view = batch(collate([unbatch(smap(lambda i: [i] * 4, range(4)), 4), source]), 8)
    assert sum(view, []) == [(i // 4, i) for i in range(16)]
    assert source.asked == [list(range(8)), list(range(8, 16))]


def test_an_array_of_a_view_casts_as_its_items_do():
    with pytest.raises(OverflowError):
        np.asarray(gather(array.array("i", [300]), [0]), dtype=np.uint8)
    with pytest.raises(ValueError, match="NaN"):
        np.asarray(gather(np.array([np.nan]), [0]), dtype=np.int64)
    assert np.asarray(gather(ROWS, [0]), dtype=np.float16).dtype == np.float16


def test_a_split_reads_nothing():
    assert split(Many(range(6)), 2).bulk is None


def test_ranges_are_sliced_and_arange_is_one():
    view = gather(ROWS, range(18, 0, -2))
    assert view[2:5].indexes == [14, 12, 10] and view[2:5].children[0] is ROWS and view[::-3].indexes == [2, 8, 14]
    assert gather(ROWS, arange(5)).bulk == "block" and gather(ROWS, arange(5)).indexes == [0, 1, 2, 3, 4]


def test_a_view_with_a_function_has_no_blocks():
    calls = []
    view = smap(lambda row: calls.append(1) or row, ROWS)
    assert view.bulk is None
    same(batch(view, 4, collate_fn=np.stack)[1], ROWS[4:8])
    assert len(calls) == 4


def test_the_last_batch():
    view = gather(ROWS, range(7))
    assert batch(view, 4, collate_fn=np.stack)[1].shape == (3, 3)
    assert len(batch(view, 4, drop_last=True, collate_fn=np.stack)) == 1
    padded = batch(view, 4, pad=ROWS[0], collate_fn=np.stack)
    assert padded[1].tolist() == [*ROWS[4:7].tolist(), ROWS[0].tolist()] and padded[0].tolist() == ROWS[:4].tolist()


def test_blocks_of_arrays_that_differ_are_what_numpy_makes_of_them():
    view = concatenate([np.arange(3, dtype=np.int8), np.arange(3.0)])
    same(batch(view, 6, collate_fn=np.stack)[0], np.array([0.0, 1, 2, 0, 1, 2]))
    with pytest.raises(EvaluationError):
        batch(concatenate([np.zeros((2, 3)), np.zeros((2, 4))]), 4, collate_fn=np.stack)[0]


def test_blocks_follow_their_source():
    rows = np.zeros((4, 2))
    view = batch(gather(rows, [1, 2]), 2, collate_fn=np.stack)
    rows[1] = 5
    assert view[0].tolist() == [[5, 5], [0, 0]]
    numbers = array.array("i", [1, 2, 3])
    view = batch(cycle(numbers), 4, collate_fn=np.stack)
    numbers.append(4)
    assert view[0].tolist() == [1, 2, 3, 4]


def test_torch_tensors_give_blocks():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).reshape(6, 2)
    view = batch(gather(tensor, [5, 0, 5]), 3, collate_fn=np.stack)
    same(view[0], np.stack([tensor[5], tensor[0], tensor[5]]))
    assert gather(tensor, [1]).bulk == "block"
    flags = torch.arange(6) % 2 == 0
    same(batch(gather(flags, range(6)), 4, collate_fn=np.array)[0], np.array([flags[i] for i in range(4)]))
    with pytest.raises(EvaluationError, match="item 0 of batch") as caught:
        batch(gather(tensor.clone().requires_grad_(), [0, 1]), 2, collate_fn=np.stack)[0]
    assert "requires grad" in str(caught.value.__cause__)


def deeper(draw, view, source):
    """Another view over the view."""
    n = len(view)
    indices, ends = st.lists(st.integers(-n, n - 1), min_size=1), st.integers(-n, n)
    kind = draw(st.sampled_from(["gather", "slice", "concatenate", "interleave", "cycle", "unbatch"]))
    return {
        "gather": lambda: gather(view, draw(indices)),
        "slice": lambda: view[draw(ends) : draw(ends) : draw(st.sampled_from([1, 2, -1]))],
        "concatenate": lambda: concatenate([view, source, view]),
        "interleave": lambda: interleave(view, source),
        "cycle": lambda: cycle(view, n + draw(st.integers(0, 9))),
        "unbatch": lambda: unbatch(batch(view, 3), 3, n % 3),
    }[kind]()


@settings(deadline=None)
@given(st.data())
def test_random_pipelines_over_arrays(data):
    source = data.draw(st.sampled_from([ROWS, ROWS[::-2], np.arange(5), InFile(ROWS), array.array("h", range(9))]))
    view = gather(source, range(len(source)))
    for _ in range(data.draw(st.integers(0, 4))):
        view = deeper(data.draw, view, source)
        if len(view) == 0:
            return
    assert view.bulk == "block"
    k = data.draw(st.integers(1, 9))
    items = [view[i] for i in range(len(view))]
    for i, found in enumerate(batch(view, k, collate_fn=np.stack)):
        same(found, np.stack(items[i * k : i * k + k]))


# ---- Fusion


def test_a_gather_of_a_gather_is_one():
    xs = list("abcdef")
    view = gather(gather(xs, [5, 4, 3]), [-1, 0, 0])
    assert view.children == (xs,) and view.indexes == [3, 5, 5] and list(view) == ["d", "f", "f"]
    view[0] = "D"
    assert xs[3] == "D"


def test_an_index_that_is_out_of_range_of_the_inner_gather_stays_an_error_of_its_own():
    view = gather(gather([1, 2, 3, 4], [0, 1]), [0, 3, 1])
    assert view[0] == 1 and view[2] == 2
    with pytest.raises(IndexError, match="index 3 is out of range for the 2 items"):
        view[1]


def test_a_nested_concatenation_that_has_changed_stays_as_it_is():
    xs = [1, 2]
    inner = concatenate([xs, [3]])
    assert concatenate([inner, [4]]).sequences == [xs, [3], [4]]
    xs.append(9)
    outer = concatenate([inner, [4]])
    assert list(inner) == [1, 2, 3] and list(outer) == [1, 2, 3, 4]


def test_an_unbatch_of_plain_batches_reads_the_item_alone():
    calls = []
    view = unbatch(batch(smap(lambda x: calls.append(x) or x, list(range(10))), 4), 4, 2)
    assert view[9] == 9 and view[-3] == 7 and calls == [9, 7]
    xs = list(range(6))
    view = unbatch(batch(xs, 4), 4)
    view[5] = "five"
    assert xs[5] == "five" and len(view) == 8
    with pytest.raises(EvaluationError, match="item 6 of unbatch"):
        view[6]
    xs += [6, 7]
    assert view[6] == 6


@pytest.mark.parametrize("options", [{"pad": 0}, {"drop_last": True}, {"collate_fn": tuple}])
def test_other_batches_are_read_as_they_are(options):
    calls = []
    view = unbatch(batch(smap(lambda x: calls.append(x) or x, list(range(8))), 4, **options), 4)
    assert view[5] == 5 and calls == [4, 5, 6, 7]


def test_numbers_of_arange_stay_numbers():
    same(batch(arange(0, 30, 3), 4, collate_fn=np.stack)[1], np.array([12, 15, 18, 21]))


# ---- What a reviewer found


def shards(n, size):
    calls = []

    def load(i):
        calls.append(i)
        return [size * i + k for k in range(size)]

    return unbatch(smap(load, list(range(n))), size), calls


def test_iterating_batches_that_do_not_fit_the_shards_reads_each_shard_once():
    items, calls = shards(5, 100)
    batches = list(batch(items, 32))
    assert sum(batches, []) == list(range(500)) and calls == [0, 1, 2, 3, 4]


def test_batches_of_an_endless_view_are_read_together():
    items, calls = shards(2, 10)
    assert batch(cycle(items), 5)[1] == [5, 6, 7, 8, 9] and calls == [0]
    source = Many(range(6))
    assert batch(cycle(source), 4)[1] == [4, 5, 0, 1] and source.asked == [[4, 5, 0, 1]]


def test_a_flat_unbatch_iterates_as_it_reads():
    calls = []

    def fail_at_five(x):
        calls.append(x)
        if x == 5:
            raise KeyError(x)
        return x

    view = unbatch(batch(smap(fail_at_five, range(8)), 4), 4)
    items, found = iter(view), []
    for _ in range(8):
        try:
            found.append(next(items))
        except EvaluationError:
            found.append(None)
    assert found == [0, 1, 2, 3, 4, None, 6, 7] and calls == list(range(8))
    assert list(items) == []
    calls.clear()
    assert next(iter(view)) == 0 and calls == [0]


def test_a_subclass_with_items_of_its_own_has_no_blocks():
    torch = pytest.importorskip("torch")

    class Tenfold(torch.Tensor):
        def __getitem__(self, i):
            return super().__getitem__(i) * 10

    view = gather(torch.arange(3.0).as_subclass(Tenfold), range(3))
    assert view.bulk is None and batch(view, 3, collate_fn=np.stack)[0].tolist() == [0, 10, 20]


def test_sources_that_take_no_index_arrays_are_read_item_by_item():
    class Frames(InFile):
        def __getitem__(self, key):
            if not isinstance(key, int):
                raise ValueError("Cannot handle fancy indexing!")
            return self.data[key].copy()

    view = gather(Frames(ROWS), [3, 1, 6])
    same(batch(view, 3, collate_fn=np.stack)[0], ROWS[[3, 1, 6]])
    assert [row.tolist() for row in batch(view, 2)[0]] == ROWS[[3, 1]].tolist()


def test_a_block_is_the_readers_own():
    class Cached(InFile):
        def __getitem__(self, key):
            return self.data[key] if not isinstance(key, slice) or key != slice(0, 4) else self.chunk

    source = Cached(ROWS)
    source.chunk = ROWS[:4].copy()
    found = batch(gather(source, range(4)), 4, collate_fn=np.stack)[0]
    found[:] = 99
    assert source.chunk.tolist() == ROWS[:4].tolist()


def test_blocks_of_a_memmap_are_plain_arrays(tmp_path):
    data = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(20, 3))
    data[:] = ROWS
    for order in (range(5, 9), [7, 3, 3, 0]):
        same(batch(gather(data, order), 4, collate_fn=np.stack)[0], np.stack([data[i] for i in order]))


def test_ranges_beyond_64_bits_are_no_blocks():
    view = gather(ROWS, range(0, 2**65, 2**62))
    with pytest.raises(IndexError):
        batch(view, 1, collate_fn=np.stack)[4]
    with pytest.raises(IndexError):
        batch(gather(ROWS, range(2**70, 2**70 + 3)), 3, collate_fn=np.stack)[0]


def test_a_cycle_through_getitems_ends():
    source = Many(range(3))
    view = gather(smap(abs, source), [0, 1, 2])
    source.__class__ = type("Loop", (Many,), {"__getitems__": staticmethod(view.__getitems__)})
    with pytest.raises((RecursionError, EvaluationError)):
        view.__getitems__([0, 1])


def test_many_parts_are_one_block():
    parts = [np.full((2, 3), k) for k in range(500)]
    order = np.random.default_rng(0).permutation(1000)
    same(batch(gather(concatenate(parts), order), 1000, collate_fn=np.stack)[0], np.concatenate(parts)[order])
    same(np.asarray(concatenate(parts)), np.concatenate(parts))


def test_an_index_array_of_neighbours_is_read_as_a_slice():
    source = InFile(ROWS)
    same(batch(gather(source, [4, 5, 6, 7, 0, 1]), 4, collate_fn=np.stack)[0], ROWS[4:8])
    assert source.asked == [(4, 8)]
    same(batch(gather(ROWS, np.arange(3, 20)), 8, collate_fn=np.stack)[1], ROWS[11:19])
    same(batch(gather(ROWS, [4, 6, 6, 7]), 4, collate_fn=np.stack)[0], ROWS[[4, 6, 6, 7]])  # as far apart as neighbours


class Lending:
    """Rows by DLPack, of a source that answers with a copy unless it is told not to."""

    def __init__(self, rows):
        self.rows, self.copies = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    def __dlpack_device__(self):
        return self.rows.__dlpack_device__()

    def __dlpack__(self, *, copy=None, **options):
        self.copies += copy is not False
        return (self.rows if copy is False else self.rows.copy()).__dlpack__(**options)


class OlderLending(Lending):
    """The same, of the time before there was a word for it."""

    def __dlpack__(self, stream=None):
        return self.rows.__dlpack__()


class Copying(Lending):
    def __dlpack__(self, stream=None):
        return self.rows.copy().__dlpack__()


class Boxing(OlderLending):
    """One whose items are objects of its own, as pyarrow's are."""

    def __getitem__(self, i):
        return [self.rows[i]]


class Tenfold(OlderLending):
    def __getitem__(self, i):
        return self.rows[i] * 10


def test_memory_is_lent_by_an_older_protocol_too():
    source = OlderLending(np.arange(6.0) + 1)
    view = gather(source, [3, 0])
    assert view.bulk == "block"
    same(batch(view, 2, collate_fn=np.stack)[0], np.array([4.0, 1]))


@pytest.mark.parametrize("kind", [Copying, Boxing, Tenfold])
def test_items_that_are_no_rows_of_lent_memory_are_read(kind):
    source = kind(np.arange(6.0) + 1)
    view = gather(source, [3, 0])
    assert view.bulk is None
    same(batch(view, 2, collate_fn=np.stack)[0], np.stack([source[3], source[0]]))


def test_items_of_pyarrow_are_objects():
    numbers = pytest.importorskip("pyarrow").array([1, 2, 3])
    view = gather(numbers, [2, 0])
    assert view.bulk is None
    assert batch(view, 2, collate_fn=np.stack)[0].tolist() == [numbers[2], numbers[0]]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy asks for no copies since 2.1")
def test_memory_is_lent_without_a_copy():
    source = Lending(ROWS.copy())
    same(batch(gather(source, [3, 0]), 2, collate_fn=np.stack)[0], ROWS[[3, 0]])
    assert source.copies == 0


def test_sources_that_never_give_a_block_say_so():
    for source in (array.array("Q", [1]), memoryview(bytes(4)).cast("b", (2, 2)), memoryview(b"ab").cast("c")):
        assert gather(source, [0]).bulk is None
    torch = pytest.importorskip("torch")
    assert gather(torch.zeros(3, requires_grad=True), [0]).bulk is None


def test_a_dtype_that_cannot_be_had_is_the_items_concern():
    class Closed(InFile):
        @property
        def dtype(self):
            raise OSError("closed")

    source = Closed(ROWS)
    view = batch(gather(source, [1, 2]), 2, collate_fn=np.stack)
    same(view[0], ROWS[1:3])


def test_an_array_of_a_view_is_copied_once():
    rows = np.zeros((1000, 1000))
    view = gather(rows, np.arange(1000))
    tracemalloc.start()
    np.asarray(view)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * rows.nbytes


def test_getitems_of_endless_indices():
    with pytest.raises(TypeError, match="no length"):
        arange(9)[::2].__getitems__(cycle([1, 2]))
