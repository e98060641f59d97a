"""Any nesting of views behaves as the list that the same formulas give by hand; Hypothesis looks for exceptions."""

import pickle
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


class Source(Sequence):
    """A source of a user's."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[range(len(self.items))[i]]


class Many(Source):
    """One that gives many items in one call."""

    def __getitems__(self, indices):
        return [self.items[i] for i in indices]


calls = []  # what the functions saw


def pair(x):
    calls.append(x)
    return (x, str(x))


def second(*xs):
    return xs[1]


def probe(i, value):
    pass


numbers = st.lists(st.integers(-3, 9), max_size=8)
sources = st.one_of(
    numbers.map(lambda xs: (xs, xs)),
    numbers.map(lambda xs: (tuple(xs), xs)),
    numbers.map(lambda xs: (Source(xs), xs)),
    numbers.map(lambda xs: (Many(xs), xs)),
    numbers.map(lambda xs: (smap(int, np.array(xs, int)), xs)),  # numpy's numbers compare oddly with tuples
    st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([1, 2, -1, -3])).map(
        lambda r: (r, list(r))
    ),
    st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([1, 3, -2])).map(
        lambda r: (arange(r.start, r.stop, r.step), list(r))
    ),
    st.integers(0, 5).map(lambda n: (repeat("x", n), ["x"] * n)),
)


def turns(*lists):
    """What interleave gives."""
    return [xs[row] for row in range(max(map(len, lists))) for xs in lists if row < len(xs)]


@st.composite
def over_one(draw, below):
    """A view of one sequence, and the list of its items."""
    xs, items = draw(below)
    n = len(items)
    kind = draw(st.sampled_from(ONE))
    if kind in ("gather", "take", "lazy gather"):
        order = draw(st.lists(st.integers(-n, n - 1), max_size=8)) if n else []
        chosen = [items[i] for i in order]
        if kind == "gather":
            return gather(xs, order), chosen
        return (take(xs, np.array(order, int)) if kind == "take" else gather(xs, smap(int, order))), chosen
    if kind == "slice":
        key = draw(slices(n))
        return smap(second, xs, xs)[key], items[key]
    if kind in ("batch", "padded", "dropped", "unbatch"):
        k = draw(st.integers(1, 5))
        groups = [items[j : j + k] for j in range(0, n, k)]
        if kind == "padded":
            return batch(xs, k, pad=0), [group + [0] * (k - len(group)) for group in groups]
        if kind == "dropped":
            return batch(xs, k, drop_last=True), [group for group in groups if len(group) == k]
        return (batch(xs, k), groups) if kind == "batch" else (unbatch(batch(xs, k), k, n % k), items)
    if kind == "cycle":
        limit = draw(st.integers(0, 20)) if n else 0
        return cycle(xs, limit), [items[i % n] for i in range(limit)]
    if kind == "split":
        cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
        return concatenate(list(split(xs, cuts))), items
    simple = {
        "smap": lambda: (smap(pair, xs), [pair(x) for x in items]),
        "starmap": lambda: (starmap(second, smap(pair, xs)), [str(x) for x in items]),
        "cache": lambda: (add_cache(xs, draw(st.integers(0, 4))), items),
        "mapping": lambda: (add_cache(xs, cache={}), items),
        "debug": lambda: (debug(xs, probe, max_calls=2), items),
        "monitor": lambda: (monitor_throughput(xs), items),
        "uniter": lambda: (uniter(items, draw(st.integers(0, 3)), draw(st.integers(1, 2)), n), items),
        "prefetch": lambda: (prefetch(xs, draw(st.integers(0, 2)), max_buffered=draw(st.integers(1, 5))), items),
    }
    return simple[kind]()


ONE = ["smap", "starmap", "gather", "take", "lazy gather", "slice", "batch", "padded", "dropped", "unbatch", "cycle"]
ONE += ["split", "cache", "mapping", "debug", "monitor", "uniter", "prefetch"]


@st.composite
def over_two(draw, below):
    """A view of two sequences, and the list of its items."""
    (xs, a), (ys, b) = draw(below), draw(below)
    kind = draw(st.sampled_from(["concatenate", "interleave", "collate", "smap", "switch", "case"]))
    if kind == "concatenate":
        return concatenate([xs, ys, xs]), a + b + a
    if kind == "interleave":
        return interleave(xs, ys, [1], xs), turns(a, b, [1], a)
    n = min(len(a), len(b))
    xs, ys, a, b = smap(second, xs, xs)[:n], gather(ys, range(n)), a[:n], b[:n]
    if kind == "collate":
        return collate([xs, ys]), list(zip(a, b, strict=True))
    if kind == "smap":
        return smap(second, xs, ys), b
    choice = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    chosen = [(x, y)[c] for c, x, y in zip(choice, a, b, strict=True)]
    return (switch(choice, ys, xs) if kind == "switch" else case(choice, xs, ys)), chosen


def slices(n):
    ends = st.one_of(st.none(), st.integers(-n - 2, n + 2))
    return st.builds(slice, ends, ends, st.sampled_from([None, 1, 2, 3, -1, -2, 100, -100]))


views = st.recursive(sources, lambda below: st.one_of(over_one(below), over_two(below)), max_leaves=6)
pipelines = st.one_of(over_one(views), over_two(views))


def check(view, expected):
    n = len(expected)
    assert isinstance(view, Sequence)
    assert len(view) == n
    assert list(view) == expected
    assert [view[i] for i in range(-n, n)] == expected + expected
    for i in (n, -n - 1):
        with pytest.raises(IndexError):
            view[i]
    assert list(reversed(view)) == expected[::-1]


COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))


@COMMON
@given(pipelines)
def test_any_nesting_is_its_list(pipeline):
    check(*pipeline)


@COMMON
@given(pipelines, st.data())
def test_any_slice_of_any_slice(pipeline, data):
    view, expected = pipeline
    for _ in range(3):
        key = data.draw(slices(len(expected)))
        view, expected = view[key], expected[key]
    check(view, expected)


@COMMON
@given(pipelines, st.data())
def test_index_arrays_and_masks(pipeline, data):
    view, expected = pipeline
    n = len(expected)
    order = data.draw(st.lists(st.integers(-n, n - 1), max_size=6)) if n else []
    check(view[order], [expected[i] for i in order])
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    check(view[np.array(mask, bool)], [x for x, chosen in zip(expected, mask, strict=True) if chosen])


def stages(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from stages(child)


@COMMON
@given(pipelines, st.data())
def test_reads_of_many_items_are_reads_of_each(pipeline, data):
    """The same items; and functions see what they would see, never more, except through what keeps or runs ahead."""
    view, expected = pipeline
    n = len(expected)
    order = data.draw(st.lists(st.integers(-n, n - 1), max_size=9)) if n else []
    wanted = [expected[i] for i in order]
    calls.clear()
    assert view.__getitems__(order) == wanted
    together = Counter(map(repr, calls))
    k = data.draw(st.integers(1, 5))
    assert list(batch(gather(view, order), k)) == [wanted[j : j + k] for j in range(0, len(wanted), k)]
    assert batch(view, k).__getitems__(range(-(-n // k))) == [expected[j : j + k] for j in range(0, n, k)]
    calls.clear()
    assert [view[i] for i in order] == wanted
    if not any(re.match("<lazyseq (cache|prefetch)", repr(stage)) for stage in stages(view)):
        assert together <= Counter(map(repr, calls))


@COMMON
@given(pipelines, st.data())
def test_searching(pipeline, data):
    view, expected = pipeline
    value = data.draw(st.sampled_from([*expected, "absent"]))
    assert (value in view) == (value in expected)
    assert view.count(value) == expected.count(value)
    start, stop = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    try:
        found = expected.index(value, start, stop)
    except ValueError:
        with pytest.raises(ValueError, match="is not in"):
            view.index(value, start, stop)
    else:
        assert view.index(value, start, stop) == found


@COMMON
@given(pipelines)
def test_pickling_and_back(pipeline):
    view, expected = pipeline
    check(pickle.loads(pickle.dumps(view)), expected)
