"""gather, take, arange, cycle, repeat, interleave, switch, case, uniter."""

import sys
import threading
import tracemalloc

import numpy as np
import pytest

from lazyseq import (
    EvaluationError,
    arange,
    case,
    cycle,
    gather,
    interleave,
    repeat,
    smap,
    switch,
    take,
    uniter,
)


def test_gather_orders_and_repeats():
    assert list(gather("abc", [2, 0, 0, -1])) == ["c", "a", "a", "c"]
    assert list(take("abc", (1,))) == ["b"]


def test_gather_copies_lists_and_arrays_of_indices():
    for indexes in ([0, 1], np.array([0, 1])):
        view = gather("abc", indexes)
        indexes[0] = 2
        assert list(view) == ["a", "b"]


def test_gather_keeps_ranges_and_lazy_indices():
    asked = []
    view = gather(range(10**12), range(10**12 - 1, -1, -1))
    assert sys.getsizeof(view) < 1000 and view[0] == 10**12 - 1
    view = gather("abc", smap(lambda i: asked.append(i) or i, [2, 1]))
    assert asked == []
    assert view[0] == "c" and asked == [2]


def test_a_shuffled_gather_takes_eight_bytes_an_index():
    order = np.random.default_rng(0).permutation(1000)
    assert gather(range(1000), order).indexes == order.tolist()
    assert gather(range(10), [3, -1]).indexes == [3, -1]


def test_an_index_that_the_source_does_not_have():
    for index in (3, -4, 10**18):
        with pytest.raises(IndexError, match=f"index {index} is out of range for the 3 items of its source"):
            gather("abc", [0, index])[1]
    source = [1, 2, 3]
    view = gather(source, [2])
    del source[1:]
    with pytest.raises(IndexError):
        view[0]
    with pytest.raises(IndexError):
        list(view)


def test_assignment_reaches_the_source():
    source = list(range(6))
    view = gather(source, [5, 0, -2])
    view[0] = "a"
    view[-1] = "b"
    assert source == [0, 1, 2, 3, "b", "a"]
    view[:2] = ["x", "y"]
    assert source == ["y", 1, 2, 3, "b", "x"]
    view[[2, 0]] = [7, 8]
    assert source == ["y", 1, 2, 3, 7, 8]
    gather(source, range(3))[::-1][0] = "z"
    assert source[2] == "z"
    gather(source, smap(int, "01"))[1] = "lazy"
    assert source[1] == "lazy"


def test_assignment_through_views_that_cannot_be_inverted():
    view = gather(smap(abs, [1, 2]), [1, 0])
    with pytest.raises(TypeError, match="smap.abs. does not support item assignment"):
        view[0] = 1


def test_slicing_a_gather_copies_nothing():
    view = gather(range(10**6), np.arange(10**6))
    tracemalloc.start()
    part = view[10 : 10**5 : 3][::-1]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 10_000
    assert part[-6] == 25 and part.indexes == list(range(10, 10**5, 3))[::-1]


# ---- arange, cycle, repeat


@pytest.mark.parametrize("arguments", [(10,), (0,), (2, 9), (0, -10, 1), (10, -10, -3), (-5, 10, 4)])
def test_arange_is_range(arguments):
    expected = range(*arguments)
    view = arange(*arguments)
    assert list(view) == list(expected) and len(view) == len(expected)
    assert [n in view for n in range(-12, 12)] == [n in expected for n in range(-12, 12)]
    assert list(view[::-2]) == list(expected)[::-2]


def test_arange_searches_without_counting():
    view = arange(0, 10**15, 3)
    assert 3 * 10**14 in view and 10**14 not in view
    assert view.count(9) == 1 and view.index(9 * 10**10) == 3 * 10**10


def test_cycle_wraps_and_assigns():
    source = [1, 2, 3]
    view = cycle(source, 8)
    view[4] = "b"
    assert source == [1, "b", 3] and list(view) == [1, "b", 3, 1, "b", 3, 1, "b"]
    endless = cycle(source)
    endless[10**12] = "c"  # 10**12 % 3 == 1
    assert source[1] == "c"
    source.append(4)
    assert [endless[i] for i in range(5)] == [1, "c", 3, 4, 1]
    source.clear()
    with pytest.raises(IndexError, match="has become empty"):
        view[0]


def test_repeat_is_one_value():
    value = object()
    assert all(x is value for x in repeat(value, 5)) and len(repeat(value, 5)) == 5
    view = repeat(1, 4)
    view[-2] = 7
    assert list(view) == [7] * 4
    view[1:3] = [8, 9]
    assert list(view) == [9] * 4


# ---- interleave, switch, case


def test_interleave_takes_turns():
    a, b, c = [1, 2, 3, 4, 5], ["a", "b", "c"], [0.1, 0.2, 0.3, 0.4]
    view = interleave(a, b, c)
    expected = [1, "a", 0.1, 2, "b", 0.2, 3, "c", 0.3, 4, 0.4, 5]
    assert list(view) == [view[i] for i in range(12)] == expected
    view[3], view[-1] = "second", "last"
    assert a == [1, "second", 3, 4, "last"]
    assert list(interleave()) == [] and list(interleave([], [])) == []


def test_interleave_of_many_parts_of_all_lengths():
    parts = [[(k, row) for row in range((7 * k) % 23)] for k in range(40)]
    expected = [part[row] for row in range(23) for part in parts if row < len(part)]
    view = interleave(*parts)
    assert list(view) == [view[i] for i in range(len(view))] == expected


def test_interleave_of_unbounded_sequences():
    view = interleave(cycle("abc"), [1, 2], repeat(0))
    assert "".join(map(str, view[:10])) == "a10b20c0a0"
    assert [view[10**12 + k] for k in range(2)] == list(view[10**12 : 10**12 + 2])


def test_switch_takes_any_truth():
    view = switch([1, 0, "", "x", None], range(5), range(10, 15))
    assert list(view) == [0, 11, 12, 3, 14]
    x, y = [1, 2], [3, 4]
    switch(np.array([True, False]), x, y)[:] = ["x", "y"]
    assert (x, y) == (["x", 2], [3, "y"])


def test_case_names_a_bad_selector():
    view = case([0, 3, "a", -1], "abcd", "efgh")
    assert view[0] == "a" and view[3] == "h"
    for i, given in ((1, "3"), (2, "'a'")):
        with pytest.raises(EvaluationError) as caught:
            view[i]
        assert (
            str(caught.value.__cause__) == f"case: selector[{i}] must be the index of one of 2 sequences, got {given}"
        )
    x, y = [1, 2], [3, 4]
    case([1, 0], x, y)[0] = "y"
    assert (x, y) == ([1, 2], ["y", 4])


# ---- uniter


class Counted:
    """An iterable that counts its passes and its steps."""

    def __init__(self, n):
        self.n, self.passes, self.steps = n, 0, 0

    def __iter__(self):
        self.passes += 1
        for i in range(self.n):
            self.steps += 1
            yield i


def test_uniter_goes_on_and_starts_again():
    source = Counted(100)
    view = uniter(source, cache_size=10)
    assert (source.passes, view[20], view[15], view[11]) == (0, 20, 15, 11)
    assert (source.passes, source.steps) == (1, 21)
    assert view[50] == 50 and source.steps == 51
    assert view[3] == 3 and source.passes == 2
    assert list(uniter(source, size=100)) == list(range(100))


def test_uniter_keeps_several_passes():
    source = Counted(1000)
    view = uniter(source, n_parallel=2, size=1000)
    for i in range(400):
        assert view[i] == i and view[i + 500] == i + 500
    assert source.passes == 2 and source.steps <= 1400


def test_uniter_of_unknown_size():
    view = uniter(Counted(5))
    assert list(view) == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError, match="out of range for 5 items"):
        view[7]
    with pytest.raises(TypeError):
        len(view)
    with pytest.raises(IndexError):
        view[-1]
    assert list(smap(str, view)) == list("01234")


def test_uniter_of_an_iterator_says_that_it_cannot_start_again():
    view = uniter(iter(range(10)), cache_size=2)
    assert [view[3], view[4], view[3]] == [3, 4, 3]
    with pytest.raises(RuntimeError, match="an iterator cannot start again"):
        view[0]
    assert view[5] == 5


def test_uniter_of_an_iterable_that_ends_before_its_size_or_fails():
    with pytest.raises(EvaluationError) as caught:
        uniter(Counted(3), size=5)[4]
    assert str(caught.value.__cause__) == "uniter: the iterable has ended after 3 items, its size being 5"

    class Fails:
        def __iter__(self):
            yield 0
            raise OSError("torn")

    view = uniter(Fails())
    assert view[0] == 0
    for _ in range(2):
        with pytest.raises(EvaluationError, match="failed to evaluate item 1 of uniter") as caught:
            view[1]
        assert str(caught.value.__cause__) == "torn"
    assert view[0] == 0


def test_threads_share_a_uniter():
    view = uniter(Counted(300), cache_size=5, n_parallel=3, size=300)
    results = []
    readers = [threading.Thread(target=lambda: results.append(list(view))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert results == [list(range(300))] * 4


def test_uniter_does_not_go_on_with_an_iterator_that_has_failed():
    def numbers():
        yield 0
        raise OSError("no disk")

    view = uniter(numbers(), cache_size=2)
    assert view[0] == 0
    with pytest.raises(EvaluationError) as caught:
        view[1]
    assert isinstance(caught.value.__cause__, OSError)
    for i in (0, 1):
        with pytest.raises(RuntimeError, match="an iterator cannot start again, as it must after an error"):
            view[i]


def test_uniter_names_an_iterable_that_does_not_start():
    class Sick:
        def __iter__(self):
            raise OSError("no disk")

    with pytest.raises(EvaluationError, match="failed to evaluate item 3 of uniter"):
        uniter(Sick())[3]


def test_case_passes_on_what_a_selector_raises():
    class Index:
        def __index__(self):
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "?")

    with pytest.raises(EvaluationError) as caught:
        case([Index()], [1])[0]
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)
