"""Join sequences, and group their items."""

from __future__ import annotations

import array
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

import numpy

from . import _checks, _core

if TYPE_CHECKING:
    from ._core import Batch, Collate, Concatenate, Split, Unbatch, View
    from ._types import A, B, C, D, R, Source, T

    _Edges = SupportsIndex | Iterable[SupportsIndex] | Iterable[Iterable[SupportsIndex]]
    _Piece = TypeVar("_Piece", bound=list[Any] | str | bytes | bytearray | memoryview | range | array.array[Any])
    _Array = TypeVar("_Array", bound=numpy.ndarray[Any, Any])

__all__ = ["batch", "collate", "concatenate", "split", "unbatch"]

logger = logging.getLogger(__name__)


@overload
def collate(sequences: tuple[Source[A]]) -> Collate[tuple[A]]: ...
@overload
def collate(sequences: tuple[Source[A], Source[B]]) -> Collate[tuple[A, B]]: ...
@overload
def collate(sequences: tuple[Source[A], Source[B], Source[C]]) -> Collate[tuple[A, B, C]]: ...
@overload
def collate(sequences: tuple[Source[A], Source[B], Source[C], Source[D]]) -> Collate[tuple[A, B, C, D]]: ...
@overload
def collate(sequences: Iterable[Source[Any]]) -> Collate[tuple[Any, ...]]: ...
def collate(sequences: Iterable[Source[Any]]) -> Collate[tuple[Any, ...]]:
    """Return a view of tuples with one item of each sequence.

    ``collate([xs, ys])[i] == (xs[i], ys[i])``. Tuples can be assigned: each sequence gets its item.

    Args:
        sequences (Iterable[Sequence]): one or more sequences of the same length; those of unknown length
            count as unbounded.

    Returns:
        View: as long as the sequences.

    Raises:
        TypeError: if a sequence cannot be indexed.
        ValueError: without a sequence, or if their lengths differ.

    >>> collate([[1, 2, 3], ["a", "b", "c"]])[1]
    (2, 'b')
    """
    sequences = _checks.sources(sequences, "collate")
    if not sequences:
        raise ValueError("collate: at least one sequence must be given")
    return _core.Collate(_checks.same_length(sequences, "collate"))


def _check_parts(parts: tuple[Source[Any], ...]) -> None:
    _checks.each(parts, "concatenate")


@overload
def concatenate(sequences: Iterable[Source[T]]) -> Concatenate[T]: ...
@overload
def concatenate(sequences: Iterable[Source[Any]]) -> Concatenate[Any]: ...
def concatenate(sequences: Iterable[Source[Any]]) -> Concatenate[Any]:
    """Return a view of the sequences, one behind the other.

    ``concatenate(parts)[i] == parts[k][i - offset[k]]``, where ``offset[k]`` is the length of all parts
    before k, and k the last part with ``offset[k] <= i``, found by bisection. Lengths are taken now: what
    is appended to a part later is not seen. Items can be assigned.

    Args:
        sequences (Iterable[Sequence]): the parts; only the last may be of unknown length.

    Returns:
        View: as long as all parts together.

    Raises:
        TypeError: if a sequence cannot be indexed, or lacks a length before the last.
        OverflowError: for more than 2**63 - 1 items.

    >>> joined = concatenate([[0, 1, 2], range(10, 12), (7,)])
    >>> list(joined)
    [0, 1, 2, 10, 11, 7]
    >>> joined[-3:][0]
    10
    """
    return _core.Concatenate(_checks.together(sequences, "concatenate"), _check_parts)


@overload
def batch(
    sequence: Source[T], k: SupportsIndex, drop_last: bool = False, pad: None = None, collate_fn: None = None
) -> Batch[list[T]]: ...
@overload
def batch(
    sequence: Source[A],
    k: SupportsIndex,
    drop_last: bool = False,
    pad: B = ...,  # pyright: ignore[reportInvalidTypeVarUse]  # left out, it has the overload above
    collate_fn: None = None,
) -> Batch[list[A | B]]: ...
@overload
def batch(
    sequence: Source[T],
    k: SupportsIndex,
    drop_last: bool = False,
    pad: Any = None,
    collate_fn: Callable[[list[T]], R] = ...,  # pyright: ignore[reportInvalidTypeVarUse]
) -> Batch[R]: ...
def batch(
    sequence: Source[Any],
    k: SupportsIndex,
    drop_last: bool = False,
    pad: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> Batch[Any]:
    """Return a view of the items in groups of k.

    ``batch(xs, k)[i] == [xs[i * k], ..., xs[i * k + k - 1]]``. Batches can be assigned, one value for each
    item.

    Args:
        sequence (Sequence): the items.
        k (int): how many items a batch holds, at least 1.
        drop_last (bool): leave out the last batch if it has less than k items.
        pad (Any): fills up the last batch to k items; None leaves it shorter.
        collate_fn (Callable[[list], Any]): makes the batch from the list of its items, for example
            :func:`numpy.stack`.

    Returns:
        View: of lists, or of what collate_fn returns.

    Raises:
        TypeError: if the sequence cannot be indexed, k is no int, or collate_fn cannot be called.
        ValueError: if k is below 1.

    >>> list(batch(range(7), 3))
    [[0, 1, 2], [3, 4, 5], [6]]
    >>> batch(range(7), 3, pad=-1)[-1]
    [6, -1, -1]
    >>> batch(range(7), 3, drop_last=True, collate_fn=sum)[1]
    12
    """
    _checks.source(sequence, "batch", "sequence")
    k = _checks.count(k, "batch", "k", least=1)
    if collate_fn is not None:
        _checks.function(collate_fn, "batch", "collate_fn")
    if drop_last and pad is not None:
        logger.warning("batch: pad=%r has no effect, because drop_last leaves out what would be padded", pad)
    return _core.Batch(sequence, k, bool(drop_last), pad, collate_fn)


def unbatch(
    sequence: Source[Source[T]], batch_size: SupportsIndex, last_batch_size: SupportsIndex | None = None
) -> Unbatch[T]:
    """Return a view of the items of batches, one behind the other: the reverse of :func:`batch`.

    ``unbatch(batches, k)[i] == batches[i // k][i % k]``. Reading one item reads its whole batch; iteration
    and a prefetch read each batch once. Items can be assigned: they go into the batch.

    Args:
        sequence (Sequence[Sequence]): the batches.
        batch_size (int): how many items each holds, except perhaps the last; at least 1.
        last_batch_size (int or None): how many items the last one holds, at most batch_size; None or 0
            where it is as full as the others.

    Returns:
        View: of ``(len(sequence) - 1) * batch_size + last_batch_size`` items.

    Raises:
        TypeError: if the sequence cannot be indexed, or a size is no int.
        ValueError: if a size is out of range.
        OverflowError: for more than 2**63 - 1 items.
        EvaluationError: on reading from a batch that is shorter than batch_size.

    >>> items = unbatch([[1, 2], [3, 4], [5]], 2, last_batch_size=1)
    >>> len(items), items[2], list(items)
    (5, 3, [1, 2, 3, 4, 5])
    """
    _checks.source(sequence, "unbatch", "sequence")
    k = _checks.count(batch_size, "unbatch", "batch_size", least=1)
    last = k
    if last_batch_size:
        last = _checks.count(last_batch_size, "unbatch", "last_batch_size", least=0)
        if last > k:
            raise _checks.wrong(ValueError, "unbatch", "last_batch_size", f"at most batch_size, {k}", last)
    return _core.Unbatch(sequence, k, last)


SLICEABLE = (list, tuple, str, bytes, bytearray, memoryview, range, array.array, numpy.ndarray)


@overload
def split(sequence: tuple[T, ...], edges: _Edges) -> Split[tuple[T, ...]]: ...
@overload
def split(sequence: _Piece, edges: _Edges) -> Split[_Piece]: ...
@overload
def split(sequence: _Array, edges: _Edges) -> Split[_Array]: ...  # type: ignore[overload-overlap]  # arrays are no Sequence
@overload
def split(sequence: View[T], edges: _Edges) -> Split[View[T]]: ...
@overload
def split(sequence: Source[T], edges: _Edges) -> Split[Sequence[T]]: ...
def split(sequence: Source[Any], edges: _Edges) -> Split[Any]:
    """Return a view of the pieces of a sequence.

    ``split(xs, [a, b])`` holds ``xs[:a]``, ``xs[a:b]`` and ``xs[b:]``. A piece is a slice: a view where the
    sequence is one, or has no slices of its own that are known to be what a list's are. The length is
    taken now. A piece can be assigned, one value for each item.

    Args:
        sequence (Sequence): what to cut, of known length.
        edges (int or Sequence[int] or Sequence[tuple[int, int]]): at how many places to cut it into equal pieces;
            or the indices of the cuts, none being one piece; or the start and stop of each piece. All are
            clipped as those of slices are, and count from the end where they are negative.

    Returns:
        View: of the pieces.

    Raises:
        TypeError: if the sequence cannot be indexed or has no length, or edges are none of these.
        ValueError: if edges is an int below 0, or one that does not cut the sequence into equal pieces.

    >>> list(split("aabbbc", [2, 5]))
    ['aa', 'bbb', 'c']
    >>> list(split([1, 2, 3, 4], 1))
    [[1, 2], [3, 4]]
    >>> list(split(range(9), [(0, 2), (7, 9)]))
    [range(0, 2), range(7, 9)]
    """
    _checks.source(sequence, "split", "sequence")
    size = _core.length(sequence)
    if size is None:
        raise _checks.wrong(TypeError, "split", "sequence", "of known length", sequence)
    starts, stops = _pieces(edges, size)
    return _core.Split(sequence, starts, stops, type(sequence) in SLICEABLE)


def _pieces(edges: Any, size: int) -> tuple[Sequence[int], Sequence[int]]:
    """Where the pieces start, and where they stop."""
    expected = "an int, a sequence of ints, or one of (start, stop) pairs"
    try:
        cuts = operator.index(edges)
    except TypeError:
        pass
    else:
        cuts = _checks.count(cuts, "split", "edges", least=0)
        if size % (cuts + 1):
            raise ValueError(f"split: edges must cut {size} items into equal pieces, got {cuts} ({cuts + 1} pieces)")
        step = size // (cuts + 1)
        if step == 0:
            return [0] * (cuts + 1), [0] * (cuts + 1)
        return range(0, size, step), range(step, size + 1, step)
    try:
        edges = list(edges)
        if edges and not _is_integer(edges[0]):
            pairs = [(operator.index(start), operator.index(stop)) for start, stop in edges]
        else:
            edges = [operator.index(edge) for edge in edges]
            pairs = list(zip([0, *edges], [*edges, size], strict=True))
    except (TypeError, ValueError):
        raise _checks.wrong(TypeError, "split", "edges", expected, edges) from None
    bounds = [slice(start, stop).indices(size) for start, stop in pairs]
    return [start for start, _, _ in bounds], [max(start, stop) for start, stop, _ in bounds]


def _is_integer(value: Any) -> bool:
    """Arrays have an __index__ too, to refuse it."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
