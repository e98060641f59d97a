"""Apply a function to every item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVarTuple, overload

from . import _checks, _core

if TYPE_CHECKING:
    from ._core import Smap, SmapN, Starmap
    from ._types import A, B, C, D, R, Source, T

    _Ts = TypeVarTuple("_Ts")

__all__ = ["smap", "starmap"]


@overload
def smap(f: Callable[[A], R], a: Source[A], /) -> Smap[R]: ...
@overload
def smap(f: Callable[[A, B], R], a: Source[A], b: Source[B], /) -> SmapN[R]: ...
@overload
def smap(f: Callable[[A, B, C], R], a: Source[A], b: Source[B], c: Source[C], /) -> SmapN[R]: ...
@overload
def smap(f: Callable[[A, B, C, D], R], a: Source[A], b: Source[B], c: Source[C], d: Source[D], /) -> SmapN[R]: ...
@overload
def smap(
    f: Callable[..., R],
    a: Source[Any],
    b: Source[Any],
    c: Source[Any],
    d: Source[Any],
    e: Source[Any],
    /,
    *sequences: Source[Any],
) -> SmapN[R]: ...
def smap(f: Callable[..., R], *sequences: Source[Any]) -> Smap[R] | SmapN[R]:
    """Return a view of a function applied to every item, computed when the item is read.

    ``smap(f, xs)[i] == f(xs[i])``; with several sequences, ``smap(f, xs, ys)[i] == f(xs[i], ys[i])``.
    Nothing is kept: reading an item again computes it again (see :func:`add_cache`).

    Args:
        f (Callable): a function of one item of each sequence.
        *sequences (Sequence): one or more sequences of the same length; those of unknown length count as
            unbounded.

    Returns:
        View: as long as the sequences.

    Raises:
        TypeError: if f cannot be called, or a sequence cannot be indexed.
        ValueError: without a sequence, or if their lengths differ.

    >>> squares = smap(lambda x: x * x, [1, 2, 3, 4])
    >>> squares[-1]
    16
    >>> list(squares[1:3])
    [4, 9]
    >>> list(smap(max, [1, 5, 3], [4, 2, 6]))
    [4, 5, 6]
    """
    _checks.function(f, "smap", "f")
    if len(sequences) == 1:
        return _core.Smap(f, _checks.source(sequences[0], "smap", "sequences[0]"))
    if not sequences:
        raise ValueError("smap: at least one sequence must be given")
    sequences = _checks.sources(sequences, "smap")
    return _core.SmapN(f, _checks.same_length(sequences, "smap"))


@overload
def starmap(f: Callable[[*_Ts], R], sequence: Source[tuple[*_Ts]]) -> Starmap[R]: ...
@overload
def starmap(
    f: Callable[[T], R] | Callable[[T, T], R] | Callable[[T, T, T], R] | Callable[[T, T, T, T], R],
    sequence: Source[Iterable[T]],
) -> Starmap[R]: ...
def starmap(f: Callable[..., R], sequence: Source[Iterable[Any]]) -> Starmap[R]:
    """Return a view of a function applied to tuples of arguments, as :func:`itertools.starmap` does.

    ``starmap(f, xs)[i] == f(*xs[i])``.

    Args:
        f (Callable): a function of as many arguments as the items hold.
        sequence (Sequence): a sequence of tuples, or of other iterables.

    Returns:
        View: as long as the sequence.

    Raises:
        TypeError: if f cannot be called, or the sequence cannot be indexed.

    >>> starmap(pow, [(2, 5), (3, 2), (10, 3)])[2]
    1000
    """
    return _core.Starmap(_checks.function(f, "starmap", "f"), _checks.source(sequence, "starmap", "sequence"))
