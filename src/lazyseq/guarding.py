"""Go on where items fail."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from . import _checks, _core
from .errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core import Guard
    from ._types import Source, T

__all__ = ["guard"]

MOST_SECONDS = 86_400  # to wait before a first retry


def guard(
    seq: Source[T],
    *,
    retries: SupportsIndex = 0,
    backoff: float = 0.0,
    on_error: Literal["raise", "default", "neighbour"] = "raise",
    default: Any | Callable[[int, Exception], Any] = None,
    errors: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    budget: float | None = None,
) -> Guard[T]:
    """Return a view that goes on where items fail.

    ``guard(xs)[i]`` is ``xs[i]``. Where that raises, it is tried again, and if it keeps failing, the error is raised or
    something else takes the item's place: the length and the indices stay as they are. ``failures`` lists the pairs
    (index, error) of the items that could not be had, with the beginning of what is large in the error.

    What counts is the error that your function raised, not the EvaluationError around it. What is no failure of an
    item, as the end of a sequence without a length or a prefetch that is closed, is let through.

    Args:
        seq (Sequence): the items.
        retries (int): how often an item that failed is tried again.
        backoff (float): how long to wait before the first retry, in seconds; twice as long before each further one.
        on_error (str): what becomes of an item that keeps failing. ``"raise"``: its error is raised. ``"default"``:
            default takes its place, also where on_error is left out. ``"neighbour"``: the nearest item that can be
            had, of those within 16 on each side; if there is none, the error is raised.
        default (Any): what to give, or a function of the index and the error that returns it: whatever can be
            called is called.
        errors (type or tuple of types): which exceptions to guard against; others are let through.
        budget (int, float or None): how much may fail for good: an int is a number of items, each counted once
            however often it is read; a float above 0 and up to 1 is the fraction of all reads so far, and one more, or
            the first that fails would be too much. Beyond it, a TooManyFailures is raised whatever on_error is.

    Returns:
        View: as long as seq, with ``failures``.

    Raises:
        TypeError: if seq cannot be indexed, an argument is of the wrong type, or default is a class.
        ValueError: if an argument is out of range, errors is empty or has EvaluationError, or a default is given that
            nothing uses.
        TooManyFailures: on reading, beyond the budget; its ``failures`` list them.

    >>> from lazyseq import smap
    >>> parsed = guard(smap(float, ["1", "2", "?", "4"]), default=float("nan"), errors=ValueError)
    >>> list(parsed)
    [1.0, 2.0, nan, 4.0]
    >>> parsed.failures
    [(2, ValueError("could not convert string to float: '?'"))]
    >>> list(guard(smap(float, ["1", "2", "?", "4"]), on_error="neighbour"))
    [1.0, 2.0, 4.0, 4.0]
    """
    _checks.source(seq, "guard", "seq")
    retries = _checks.count(retries, "guard", "retries", least=0)
    if not isinstance(backoff, numbers.Real):
        raise _checks.wrong(TypeError, "guard", "backoff", "a number", backoff)
    if not 0 <= backoff <= MOST_SECONDS:
        raise _checks.wrong(ValueError, "guard", "backoff", f"from 0 to {MOST_SECONDS} (seconds)", backoff)
    if not isinstance(on_error, str) or on_error not in ("raise", "default", "neighbour"):
        raise _checks.wrong(ValueError, "guard", "on_error", "'raise', 'default' or 'neighbour'", on_error)
    if default is not None and on_error == "neighbour":
        raise _checks.wrong(ValueError, "guard", "default", "left out where on_error is 'neighbour'", default)
    if isinstance(default, type):
        expected = "a value, or a function of index and error (of a class: lambda i, error: ...)"
        raise _checks.wrong(TypeError, "guard", "default", expected, default)
    if default is not None:
        on_error = "default"
    if errors == ():
        raise _checks.wrong(ValueError, "guard", "errors", "at least one exception type", errors)
    for each in errors if isinstance(errors, tuple) else (errors,):
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise _checks.wrong(TypeError, "guard", "errors", "an exception type, or a tuple of them", errors)
        if each is EvaluationError:
            expected = "what your functions raise, and not the EvaluationError around it"
            raise _checks.wrong(ValueError, "guard", "errors", expected, errors)
    if budget is not None:
        if not isinstance(budget, numbers.Real) or isinstance(budget, bool):
            raise _checks.wrong(TypeError, "guard", "budget", "an int, a float or None", budget)
        if isinstance(budget, numbers.Integral):
            budget = _checks.count(budget, "guard", "budget", least=0)
        elif not 0 <= budget <= 1:
            raise _checks.wrong(ValueError, "guard", "budget", "a fraction from 0 to 1, or an int", budget)
        else:
            budget = float(budget) or 0  # none of any number of reads, and not one more
    return _core.Guard(seq, retries, float(backoff), on_error, default, errors, budget)
