"""Every view behaves as the list of its items does: the list's answer is the oracle."""

import array
import itertools
import operator
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from lazyseq import (
    add_cache,
    arange,
    batch,
    case,
    collate,
    concatenate,
    cycle,
    gather,
    interleave,
    prefetch,
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


def ignore(i, value):
    """A probe that pickles."""


class Squares(Sequence):
    """A source of a user's."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return i * i


SOURCES = {
    "list": [3, 1, 4, 1, 5, 9],
    "tuple": (3, 1, 4, 1, 5, 9),
    "range": range(6),
    "numpy": np.array([3, 1, 4, 1, 5, 9]),
    "array": array.array("i", [3, 1, 4, 1, 5, 9]),
    "user": Squares(6),
    "empty": [],
}
VIEWS = {
    "smap": lambda xs: smap(operator.neg, xs),
    "smap of two": lambda xs: smap(operator.add, xs, xs),
    "starmap": lambda xs: starmap(operator.sub, collate([xs, xs])),
    "collate": lambda xs: collate([xs, xs]),
    "concatenate": lambda xs: concatenate([xs, [], [7, 8], xs]),
    "gather": lambda xs: gather(xs, [-1, 0, 2, 2] if len(xs) else []),
    "gather a range": lambda xs: gather(xs, range(0, len(xs), 2)),
    "gather a view": lambda xs: gather(xs, smap(operator.neg, range(1, len(xs)))),
    "take": lambda xs: take(xs, np.arange(len(xs))[::-1]),
    "batch": lambda xs: batch(xs, 4),
    "batch, pad": lambda xs: batch(xs, 4, pad=0),
    "batch, drop_last": lambda xs: batch(xs, 4, drop_last=True),
    "batch, collate_fn": lambda xs: batch(xs, 2, collate_fn=tuple),
    "unbatch": lambda xs: unbatch(batch(xs, 4), 4, len(xs) % 4),
    "unbatch of views": lambda xs: unbatch([smap(operator.neg, xs), xs], max(1, len(xs))) if len(xs) else smap(abs, xs),
    "cache": lambda xs: add_cache(xs, 2),
    "cache of a mapping": lambda xs: add_cache(smap(operator.neg, xs), cache={}),
    "arange": lambda xs: arange(-3, 2 * len(xs), 2),
    "cycle": lambda xs: cycle(xs, 2 * len(xs) + len(xs) // 2),
    "repeat": lambda xs: repeat(7, len(xs)),
    "interleave": lambda xs: interleave(xs, [], [5, 6], smap(operator.neg, xs), xs, range(3)),
    "switch": lambda xs: switch(smap(bool, range(len(xs))), xs, smap(operator.neg, xs)),
    "case": lambda xs: case([k % 3 for k in range(len(xs))], xs, smap(operator.neg, xs), repeat(0)),
    "split": lambda xs: smap(tuple, split(xs, [2, 2, 5])),
    "uniter": lambda xs: uniter(xs, 3, 2, len(xs)),
    "debug": lambda xs: debug(xs, ignore),
    "monitor": lambda xs: monitor_throughput(smap(operator.neg, xs)),
    "slice": lambda xs: smap(operator.neg, xs)[1:5],
    "slice of slice": lambda xs: smap(operator.neg, xs)[::-1][::2],
    "prefetch": lambda xs: prefetch(smap(operator.neg, xs), 2, max_buffered=3),
    "deep": lambda xs: smap(str, unbatch(batch(concatenate([gather(xs, range(len(xs))), smap(abs, xs)]), 3), 3)[::-1]),
}
CASES = [pytest.param(make, xs, id=f"{v}-{s}") for v, make in VIEWS.items() for s, xs in SOURCES.items()]


def same(a, b):
    return a == b and type(a) is type(b)


def picks(n):
    """Starts, stops and steps that reach around both ends."""
    return [None, 0, 1, 2, n - 1, n, n + 3, -1, -2, -n, -n - 2]


@pytest.mark.parametrize(("make", "xs"), CASES)
def test_a_view_is_a_sequence_of_its_items(make, xs):
    view = make(xs)
    oracle = list(view)
    n = len(oracle)
    assert isinstance(view, Sequence)
    assert len(view) == n
    assert list(view) == oracle, "a second pass"
    for i in range(-n, n):
        assert same(view[i], oracle[i]), i
        assert same(view[np.int64(i)], oracle[i]), i
    for i in (n, n + 1, -n - 1, -n - 2, 10**25, -(10**25)):
        with pytest.raises(IndexError):
            view[i]
    assert list(reversed(view)) == oracle[::-1]


@pytest.mark.parametrize(("make", "xs"), CASES)
def test_slices_of_slices(make, xs):
    view = make(xs)
    oracle = list(view)
    n = len(oracle)
    for start, stop, step in itertools.product(picks(n), picks(n), (None, 1, 2, n + 1, -1, -3)):
        key = slice(start, stop, step)
        part = view[key]
        expected = oracle[key]
        assert len(part) == len(expected), key
        if step in (None, 2, -1, -3) and start in (None, 1, -2):
            assert list(part) == expected, key
            again = slice(-3, None, step)
            assert list(part[again]) == expected[again], (key, again)
            assert list(part[1:-1:2]) == expected[1:-1:2], key


@pytest.mark.parametrize(("make", "xs"), CASES)
def test_index_arrays_and_masks(make, xs):
    view = make(xs)
    oracle = list(view)
    n = len(oracle)
    indices = [i for k in range(n) for i in (k, -k - 1)]
    expected = [oracle[i] for i in indices]
    for form in (list, np.array, lambda x: np.array(x, np.int8), lambda x: array.array("i", x), lambda x: smap(int, x)):
        assert list(view[form(indices)]) == expected
    mask = [k % 3 == 1 for k in range(n)]
    if n:
        for form in (list, np.array):
            assert list(view[form(mask)]) == [x for x, chosen in zip(oracle, mask, strict=True) if chosen]
    for wrong in ([True] * (n + 1), np.zeros(n + 2, bool)):
        with pytest.raises(IndexError, match="mask"):
            view[wrong]


@pytest.mark.parametrize(("make", "xs"), CASES)
def test_searching(make, xs):
    view = make(xs)
    oracle = list(view)
    for value in [*oracle, "absent"]:
        assert (value in view) == (value in oracle)
        assert view.count(value) == oracle.count(value)
        for bounds in [(), (1,), (-2,), (1, -1), (0, 100)]:
            try:
                expected = oracle.index(value, *bounds)
            except ValueError:
                with pytest.raises(ValueError, match="is not in"):
                    view.index(value, *bounds)
            else:
                assert view.index(value, *bounds) == expected


@pytest.mark.parametrize(("make", "xs"), CASES)
def test_the_rest(make, xs):
    view = make(xs)
    assert view == view and view != make(xs), "equality is identity"
    assert hash(view) == hash(view)
    assert repr(view).count("\n") == 0 and repr(view).startswith("<lazyseq ")
    with pytest.raises(TypeError):
        del view[0]
    copy = pickle.loads(pickle.dumps(view))
    assert type(copy) is type(view)
    assert list(copy) == list(view)
    if len({len(x) if isinstance(x, (list, tuple)) else 0 for x in view}) == 1:
        assert np.array_equal(np.asarray(view), np.array(list(view)))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in VIEWS.items()])
def test_a_repr_and_a_slice_evaluate_nothing(make):
    class Sealed(Squares):
        def __getitem__(self, i):
            raise AssertionError("evaluated")

    view = make(Sealed(6))
    repr(view), len(view), view[1:3], view[::-1][0:2], view[[0, 1]], iter(view), reversed(view), view.children


# ---- Without a length -----------------------------------------------------------------------------------------------


class Unsized:
    def __init__(self, end=None):
        self.end = end

    def __getitem__(self, i):
        if self.end is not None and i >= self.end:
            raise IndexError(i)
        return i


UNSIZED = {
    "smap": lambda xs: smap(operator.neg, xs),
    "smap of two": lambda xs: smap(operator.add, xs, xs),
    "starmap": lambda xs: starmap(operator.sub, collate([xs, xs])),
    "collate": lambda xs: collate([xs, xs]),
    "concatenate": lambda xs: concatenate([[5, 6], xs]),
    "gather": lambda xs: gather(xs, xs),
    "batch": lambda xs: batch(xs, 4),
    "batch, drop_last": lambda xs: batch(xs, 4, drop_last=True),
    "unbatch": lambda xs: unbatch(batch(xs, 4), 4),
    "cache": lambda xs: add_cache(xs, 3),
    "interleave": lambda xs: interleave(xs, xs),
    "switch": lambda xs: switch(xs, xs, smap(operator.neg, xs)),
    "case": lambda xs: case(repeat(1), repeat(0), xs),
    "debug": lambda xs: debug(xs, ignore),
    "monitor": lambda xs: monitor_throughput(xs),
    "slice": lambda xs: smap(operator.neg, xs)[2:],
    "prefetch": lambda xs: prefetch(xs, 2, max_buffered=3),
}


@pytest.mark.parametrize("end", [0, 1, 6, 8, 9])
@pytest.mark.parametrize("name", UNSIZED)
def test_a_source_without_a_length_gives_the_same_items(name, end):
    view = UNSIZED[name](Unsized(end))
    expected = list(range(end)) if name == "unbatch" else list(UNSIZED[name](list(range(end))))
    assert list(view) == expected
    assert [view[i] for i in range(len(expected))] == expected
    assert list(view[1 : len(expected) : 2]) == expected[1::2]
    for i in (len(expected), len(expected) + 5):
        with pytest.raises(IndexError):
            view[i]
    with pytest.raises(TypeError, match="no length"):
        len(view)
    with pytest.raises(IndexError, match="length is unknown"):
        view[-1]
    with pytest.raises(IndexError, match="length is unknown"):
        view[:-1]
    assert "unknown length" in repr(view)


@pytest.mark.parametrize("name", UNSIZED)
def test_an_unbounded_source_can_be_read_anywhere(name):
    view = UNSIZED[name](Unsized())
    far = 10**12
    assert list(view[far : far + 3]) == [view[far + k] for k in range(3)]
    assert list(itertools.islice(view[5:], 4)) == [view[5 + k] for k in range(4)]
    assert next(iter(view[7::2][3::5])) == view[13]
    assert view[4] in view


def test_an_unbounded_source_beside_a_finite_one_gives_a_finite_view():
    assert list(collate([Unsized(), "abc"])) == [(0, "a"), (1, "b"), (2, "c")]
    assert len(smap(operator.add, [1, 2], Unsized())) == 2


VIRTUAL = {
    "smap": lambda xs: smap(operator.neg, xs),
    "collate": lambda xs: collate([xs, xs]),
    "concatenate": lambda xs: concatenate([xs, xs, xs]),
    "gather": lambda xs: gather(xs, xs),
    "gather a range": lambda xs: gather(xs, range(len(xs) - 1, -1, -1)),
    "batch": lambda xs: batch(xs, 3),
    "unbatch": lambda xs: unbatch(smap(lambda i: (i, -i), xs), 2),
    "cache": lambda xs: add_cache(xs, 3),
    "arange": lambda xs: arange(0, len(xs), 2),
    "cycle": lambda xs: cycle("abc", len(xs)),
    "repeat": lambda xs: repeat("abc", len(xs)),
    "interleave": lambda xs: interleave(xs, range(5), xs),
    "switch": lambda xs: switch(cycle([0, 1], len(xs)), xs, xs),
    "case": lambda xs: case(cycle([0, 1]), xs, xs),
    "slice": lambda xs: smap(operator.neg, xs)[::-3],
    "prefetch": lambda xs: prefetch(xs, 2),
}


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_sequences(name):
    view = VIRTUAL[name](range(10**15))
    n = len(view)
    assert n >= 3 * 10**14
    assert view[n - 1] == view[-1]
    assert list(view[n // 2 : n // 2 + 2]) == [view[n // 2], view[n // 2 + 1]]
    with pytest.raises(IndexError):
        view[n]
