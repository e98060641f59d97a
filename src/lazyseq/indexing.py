"""Choose items by their indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from . import _checks, _core

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._core import Arange, Case, Cycle, Gather, Interleave, LazyGather, Repeat, Switch, Uniter
    from ._types import A, B, Source, T

__all__ = ["arange", "case", "cycle", "gather", "interleave", "repeat", "switch", "take", "uniter"]


def arange(start: SupportsIndex, stop: SupportsIndex | None = None, step: SupportsIndex | None = None) -> Arange:
    """Return a view of evenly spaced integers, as :class:`range` gives them.

    ``arange(start, stop, step)[i] == start + i * step``.

    Args:
        start (int): the first number; with no other argument, the end, and 0 is the first.
        stop (int or None): the first number that is left out.
        step (int or None): from each number to the next, not 0; None is 1.

    Returns:
        View: as long as the range.

    Raises:
        TypeError: if an argument is no int.
        ValueError: if step is 0.
        OverflowError: for numbers, or more of them, than 64 bits hold.

    >>> list(arange(10, 0, -3))
    [10, 7, 4, 1]
    >>> arange(10**12)[-1]
    999999999999
    """
    if stop is None:
        start, stop = 0, start
    ends = {"start": start, "stop": stop, "step": 1 if step is None else step}
    return _core.Arange(range(*(_checks.integer(value, "arange", name) for name, value in ends.items())))


def cycle(sequence: Source[T], limit: SupportsIndex | None = None) -> Cycle[T]:
    """Return a view that repeats a sequence over and over.

    ``cycle(xs)[i] == xs[i % len(xs)]``. Items can be assigned: the sequence gets them.

    Args:
        sequence (Sequence): what to repeat, of known length and not empty.
        limit (int or None): how many items the view has; None for an unbounded view.

    Returns:
        View: of limit items, or unbounded: ``len`` raises TypeError, and negative indices IndexError.

    Raises:
        TypeError: if the sequence cannot be indexed or has no length, or limit is no int.
        ValueError: if the sequence is empty and limit not 0, or limit is below 0.

    >>> cycle("abc")[10**9]
    'b'
    >>> list(cycle("abc", 5))
    ['a', 'b', 'c', 'a', 'b']
    """
    _checks.source(sequence, "cycle", "sequence")
    limit = _core.unbounded if limit is None else _checks.count(limit, "cycle", "limit", least=0)
    size = _core.length(sequence)
    if size is None:
        raise _checks.wrong(TypeError, "cycle", "sequence", "of known length", sequence)
    if size == 0 and limit != 0:
        raise _checks.wrong(ValueError, "cycle", "sequence", "not empty", sequence)
    return _core.Cycle(sequence, limit)


def interleave(*sequences: Source[T]) -> Interleave[T]:
    """Return a view that takes an item of each sequence in turn.

    ``interleave(xs, ys)[i] == (xs, ys)[i % 2][i // 2]`` while both last; a sequence that has ended is passed
    over. Where item i lies is found by bisection. Lengths are taken now. Items can be assigned.

    Args:
        *sequences (Sequence): of any lengths; unknown ones count as unbounded.

    Returns:
        View: as long as all sequences together.

    Raises:
        TypeError: if a sequence cannot be indexed.
        OverflowError: for more than 2**63 - 1 items.

    >>> "".join(interleave("aaaaa", "bb", "ccc"))
    'abcabcacaa'
    """
    return _core.Interleave(_checks.sources(sequences, "interleave"))


def repeat(value: T, times: SupportsIndex | None = None) -> Repeat[T]:
    """Return a view whose items are all the same value.

    ``repeat(value)[i] is value``. An assignment to any item replaces the value of all.

    Args:
        value (Any): the value.
        times (int or None): how many items the view has; None for an unbounded view.

    Returns:
        View: of times items, or unbounded.

    Raises:
        TypeError: if times is no int.
        ValueError: if times is below 0.

    >>> list(repeat("x", 3))
    ['x', 'x', 'x']
    >>> repeat(0)[10**15]
    0
    """
    times = _core.unbounded if times is None else _checks.count(times, "repeat", "times", least=0)
    return _core.Repeat(value, times)


def switch(condition: Source[object], x: Source[A], y: Source[B]) -> Switch[A | B]:
    """Return a view of the items of one sequence where a condition holds, and of another where not.

    ``switch(c, x, y)[i] == (x[i] if c[i] else y[i])``. Items can be assigned.

    Args:
        condition (Sequence): true or false, for each item.
        x (Sequence): the items where it is true.
        y (Sequence): the items where it is false, as many.

    Returns:
        View: as long as the sequences.

    Raises:
        TypeError: if a sequence cannot be indexed.
        ValueError: if their lengths differ.

    >>> list(switch([True, False, True], "abc", "xyz"))
    ['a', 'y', 'c']
    """
    for name, value in (("condition", condition), ("x", x), ("y", y)):
        _checks.source(value, "switch", name)
    return _core.Switch(_checks.same_length((condition, x, y), "switch"))


def case(selector: Source[SupportsIndex], *values: Source[T]) -> Case[T]:
    """Return a view that takes each item from the sequence that a selector names.

    ``case(selector, xs, ys, zs)[i] == (xs, ys, zs)[selector[i]][i]``. Items can be assigned.

    Args:
        selector (Sequence[int]): for each item, the index of its sequence.
        *values (Sequence): one or more sequences, as long as the selector.

    Returns:
        View: as long as the selector.

    Raises:
        TypeError: if a sequence cannot be indexed.
        ValueError: without a sequence, or if the lengths differ.
        EvaluationError: on reading, where the selector names none of the sequences.

    >>> list(case([2, 0, 1], "abc", "ijk", "xyz"))
    ['x', 'b', 'k']
    """
    _checks.source(selector, "case", "selector")
    values = _checks.sources(values, "case", "values")
    if not values:
        raise ValueError("case: at least one sequence must be given")
    return _core.Case(_checks.same_length((selector, *values), "case"))


def uniter(
    iterable: Iterable[T] | Source[T],
    cache_size: SupportsIndex = 0,
    n_parallel: SupportsIndex = 1,
    size: SupportsIndex | None = None,
) -> Uniter[T]:
    """Return a view of the items of an iterable, which is gone through as far as needed.

    ``uniter(iterable)[i]`` is the item that comes after i others. A read further on continues a pass over the
    iterable, one further back than the cache starts a new one. A thread at a time uses the iterable.

    Args:
        iterable (Iterable): gives the same items each time it is gone through. An iterator works for reads
            that do not go back further than the cache.
        cache_size (int): how many of the last items each pass keeps.
        n_parallel (int): how many passes are kept open, at least 1.
        size (int or None): how many items there are; None if unknown: ``len`` raises TypeError.

    Returns:
        View: of size items, or of unknown length.

    Raises:
        TypeError: if iterable is none, or a number no int.
        ValueError: if a number is out of range.
        RuntimeError: on reading too far back in an iterator.
        EvaluationError: on reading, if the iterable raises, or ends before its size.

    >>> lines = uniter(["first", "second", "third"], cache_size=2)
    >>> lines[2], lines[1], lines[0]
    ('third', 'second', 'first')
    """
    if not hasattr(type(iterable), "__iter__") and not hasattr(type(iterable), "__getitem__"):
        raise _checks.wrong(TypeError, "uniter", "iterable", "iterable", iterable)
    cache_size = _checks.count(cache_size, "uniter", "cache_size", least=0)
    n_parallel = _checks.count(n_parallel, "uniter", "n_parallel", least=1)
    size = _core.unbounded if size is None else _checks.count(size, "uniter", "size", least=0)
    return _core.Uniter(iterable, cache_size, n_parallel, size)


def gather(sequence: Source[T], indexes: Source[SupportsIndex]) -> Gather[T] | LazyGather[T]:
    """Return a view of the items at the given indices, in their order.

    ``gather(xs, indexes)[i] == xs[indexes[i]]``. Lists and arrays of indices are copied into 8 bytes each;
    ranges and other lazy sequences are kept as they are. Items can be assigned: the sequence gets them.

    Args:
        sequence (Sequence): where the items come from.
        indexes (Sequence[int]): which items; negative ones count from the end.

    Returns:
        View: as long as indexes.

    Raises:
        TypeError: if the sequence cannot be indexed, or indexes are no integers (write ``view[mask]``
            to select by a boolean mask).
        IndexError: on reading, for an index that the sequence does not have.

    >>> letters = gather("dehlorw ", [2, 1, 3, 3, 4, 7, 6, 4, 5, 3, 0])
    >>> "".join(letters)
    'hello world'
    >>> letters[-1]
    'd'
    """
    _checks.source(sequence, "gather", "sequence")
    _checks.source(indexes, "gather", "indexes")
    return _core.gather(sequence, indexes)


def take(sequence: Source[T], indexes: Source[SupportsIndex]) -> Gather[T] | LazyGather[T]:
    """The same as :func:`gather`.

    >>> list(take(["a", "b", "c"], [2, 0]))
    ['c', 'a']
    """
    return gather(sequence, indexes)
