"""gather, take."""

import sys
import tracemalloc

import numpy as np
import pytest

from lazyseq import gather, smap, take


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
