"""Argument checks that several topic modules share: each returns the checked value, or says what was expected."""

from __future__ import annotations

import numbers
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, SupportsIndex, TypeVar

from ._core import View, all_plain, length

if TYPE_CHECKING:
    from ._types import Source, T

    _E = TypeVar("_E", bound=Exception)
    _F = TypeVar("_F", bound=Callable[..., object])
    _S = TypeVar("_S", bound=Source[object])
    _Sources = TypeVar("_Sources", bound=tuple[Source[object], ...])


def wrong(error: type[_E], function: str, name: str, expected: str, value: object) -> _E:
    """The error for an argument that is not what was expected."""
    return error(f"{function}: {name} must be {expected}, got {reprlib.repr(value)} ({type(value).__name__})")


def source(value: _S, function: str, name: str) -> _S:
    """A source: whatever can be read by index."""
    if isinstance(value, (View, list, tuple)):
        return value
    kind = type(value)
    if isinstance(value, Mapping):
        raise wrong(TypeError, function, name, "a sequence, not a mapping (use list(d.values()))", value)
    if any(str(base.__module__).partition(".")[0] == "pandas" for base in kind.__mro__):
        raise wrong(TypeError, function, name, "a sequence, not a pandas object (use .to_numpy())", value)
    if not hasattr(kind, "__getitem__") or _is_scalar(value):
        raise wrong(TypeError, function, name, "a sequence, with a __getitem__", value)
    return value


def _is_scalar(value: object) -> bool:
    """Whether it is an array without an axis to go along."""
    try:
        return getattr(value, "ndim", None) == 0
    except Exception:  # of the value's own: as it is looked at, so it will be read
        return False


def sources(values: Iterable[Source[T]], function: str, name: str = "sequences") -> tuple[Source[T], ...]:
    """A tuple of sources."""
    values = together(values, function, name)
    if not all_plain(values):
        each(values, function, name)
    return values


def together(values: Iterable[Source[T]], function: str, name: str = "sequences") -> tuple[Source[T], ...]:
    """A tuple of what should be sources."""
    try:
        return tuple(values)
    except TypeError:
        raise wrong(TypeError, function, name, "an iterable of sequences", values) from None


def each(values: tuple[Source[object], ...], function: str, name: str = "sequences") -> None:
    """Check that all are sources."""
    fine: set[type] = set()  # kinds that need no second look: a million parts are often of one
    for k, value in enumerate(values):
        if type(value) not in fine:
            source(value, function, f"{name}[{k}]")
            if not hasattr(type(value), "ndim"):
                fine.add(type(value))


def same_length(sequences: _Sources, function: str) -> _Sources:
    """Sources of one length; those of unknown length count as unbounded."""
    lengths = [length(sequence) for sequence in sequences]
    if len(set(lengths) - {None}) > 1:
        raise ValueError(f"{function}: sequences must have the same length, got lengths {reprlib.repr(lengths)}")
    return sequences


def function(value: _F, function: str, name: str) -> _F:
    """Something to call."""
    if not callable(value):
        raise wrong(TypeError, function, name, "callable", value)
    return value


def integer(value: SupportsIndex, function: str, name: str) -> int:
    """An int that 64 bits hold."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong(TypeError, function, name, "an int", value) from None
    if not -(2**63) <= number < 2**63:
        raise wrong(OverflowError, function, name, "an int of 64 bits", value)
    return number


def positive(value: float, function: str, name: str) -> float:
    """A number above 0."""
    if not isinstance(value, numbers.Real):
        raise wrong(TypeError, function, name, "a number", value)
    if not value > 0:
        raise wrong(ValueError, function, name, "above 0", value)
    return float(value)


def count(value: SupportsIndex, function: str, name: str, least: int) -> int:
    """An int of at least `least`."""
    number = integer(value, function, name)
    if number < least:
        raise wrong(ValueError, function, name, f"at least {least}", value)
    return number
