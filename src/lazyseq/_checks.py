"""Argument checks that several topic modules share: each returns the checked value, or says what was expected."""

import numbers
import operator
import reprlib
from collections.abc import Mapping

from ._core import View, all_plain, length


def wrong(error, function, name, expected, value):
    """The error for an argument that is not what was expected."""
    return error(f"{function}: {name} must be {expected}, got {reprlib.repr(value)} ({type(value).__name__})")


def source(value, function, name):
    """A source: whatever can be read by index."""
    if isinstance(value, (View, list, tuple)):
        return value
    kind = type(value)
    if isinstance(value, Mapping):
        raise wrong(TypeError, function, name, "a sequence, not a mapping (use list(d.values()))", value)
    if kind.__module__.partition(".")[0] == "pandas":
        raise wrong(TypeError, function, name, "a sequence, not a pandas object (use .to_numpy())", value)
    if not hasattr(kind, "__getitem__") or getattr(value, "ndim", None) == 0:
        raise wrong(TypeError, function, name, "a sequence, with a __getitem__", value)
    return value


def sources(values, function, name="sequences"):
    """A tuple of sources."""
    try:
        values = tuple(values)
    except TypeError:
        raise wrong(TypeError, function, name, "an iterable of sequences", values) from None
    if not all_plain(values):
        for k, value in enumerate(values):
            source(value, function, f"{name}[{k}]")
    return values


def same_length(sequences, function):
    """Sources of one length; those of unknown length count as unbounded."""
    lengths = [length(sequence) for sequence in sequences]
    if len(set(lengths) - {None}) > 1:
        raise ValueError(f"{function}: sequences must have the same length, got lengths {reprlib.repr(lengths)}")
    return sequences


def function(value, function, name):
    """Something to call."""
    if not callable(value):
        raise wrong(TypeError, function, name, "callable", value)
    return value


def integer(value, function, name):
    """An int that 64 bits hold."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong(TypeError, function, name, "an int", value) from None
    if not -(2**63) <= number < 2**63:
        raise wrong(OverflowError, function, name, "an int of 64 bits", value)
    return number


def positive(value, function, name):
    """A number above 0."""
    if not isinstance(value, numbers.Real):
        raise wrong(TypeError, function, name, "a number", value)
    if not value > 0:
        raise wrong(ValueError, function, name, "above 0", value)
    return float(value)


def count(value, function, name, least):
    """An int of at least `least`."""
    number = integer(value, function, name)
    if number < least:
        raise wrong(ValueError, function, name, f"at least {least}", value)
    return number
