"""Look into a pipeline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _checks, _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._core import Monitor, View
    from ._types import Source, T

__all__ = ["debug", "monitor_throughput", "tree"]


def debug(
    sequence: Source[T],
    func: Callable[[int, T], object],
    max_calls: SupportsIndex | None = None,
    max_rate: float | None = None,
) -> View[T]:
    """Return a view that calls a function with each item that is read.

    ``debug(xs, func)[i]`` is ``xs[i]``, after ``func(i, xs[i])``.

    Args:
        sequence (Sequence): what to watch.
        func (Callable): a function of index and value; what it returns is ignored.
        max_calls (int or None): how often to call it at most, None for any number.
        max_rate (float or None): how often to call it at most in a second, None for any number.

    Returns:
        View: as long as the sequence.

    Raises:
        TypeError: if the sequence cannot be indexed, func cannot be called, or a limit is no number.
        ValueError: if max_calls is below 0, or max_rate not above 0.

    >>> watched = debug([10, 20, 30], lambda i, value: print("item", i, "is", value), max_calls=1)
    >>> watched[1] + watched[2]
    item 1 is 20
    50
    """
    _checks.source(sequence, "debug", "sequence")
    _checks.function(func, "debug", "func")
    if max_calls is not None:
        max_calls = _checks.count(max_calls, "debug", "max_calls", least=0)
    if max_rate is not None:
        max_rate = _checks.positive(max_rate, "debug", "max_rate")
    return _core.Debug(sequence, func if max_calls is max_rate is None else _Limited(func, max_calls, max_rate))


class _Limited:
    """A probe for `debug` that stays silent beyond its limits."""

    def __init__(self, func: Callable[[int, Any], object], max_calls: int | None, max_rate: float | None) -> None:
        self.func, self.max_calls, self.max_rate = func, max_calls, max_rate
        self.__name__ = getattr(func, "__name__", type(func).__name__)
        self.calls = 0
        self.last_call = time.monotonic()
        self.lock = threading.Lock()  # guards the two above: readers may be threads

    def __call__(self, i: int, value: object) -> None:
        now = time.monotonic()
        with self.lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return
            if self.max_rate is not None and now - self.last_call < 1 / self.max_rate:
                return
            self.calls += 1
            self.last_call = now
        self.func(i, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Limited, (self.func, self.max_calls, self.max_rate)


def monitor_throughput(sequence: Source[T]) -> Monitor[T]:
    """Return a view that measures how long reading its items takes.

    ``monitor_throughput(xs)[i] == xs[i]``. The view has three methods: ``read_delay()``, the mean number of seconds
    for an item, ``throughput()``, the number of items in a second of reading, and ``reset()``. The first two
    raise RuntimeError while nothing was read.

    Args:
        sequence (Sequence): what to measure.

    Returns:
        View: as long as the sequence.

    Raises:
        TypeError: if the sequence cannot be indexed.

    >>> monitored = monitor_throughput([1, 2, 3])
    >>> list(monitored)
    [1, 2, 3]
    >>> monitored.read_delay() < 1
    True
    """
    return _core.Monitor(_checks.source(sequence, "monitor_throughput", "sequence"))


def tree(view: View[object]) -> None:
    """Print a pipeline, each view with the sequences that it reads indented below it.

    A line names the stage with its function, its length, and where it was made; a batch that is read as one array, or
    by one read of many items, says so. What a view reads is shown once, and not more than 20 sequences of a stage.
    Nothing is evaluated.

    Args:
        view (View): the end of the pipeline.

    Raises:
        TypeError: if it is no view.

    >>> from lazyseq import batch, smap
    >>> tree(batch(smap(abs, [1, -2, 3]), 2))  # doctest: +ELLIPSIS
    batch, 2 items, made at ...
      smap(abs), 3 items, made at ...
        list, 3 items
    """
    if not isinstance(view, _core.View):
        raise _checks.wrong(TypeError, "tree", "view", "a view", view)
    print("\n".join(_lines(view, 0, set())))


MOST_CHILDREN = 20  # that a stage shows


_BULK: dict[str | None, str] = {"block": ", read as blocks", "items": ", read together"}


def _state(view: View[object]) -> str:
    """What has happened to a view so far."""
    if isinstance(view, _core.Cache):
        try:
            info = view.cache_info()
        except Exception as error:  # a mapping's: that its shelf is closed
            return f", a cache that raises {type(error).__name__}"
        if not (info.hits or info.misses or info.currsize):
            return ""
        size = "" if info.currbytes is None else f" of {info.currbytes} bytes"
        return f", {info.hits} hits, {info.misses} misses, {info.currsize} kept{size}"
    if isinstance(view, _core.Guard) and view.failures:
        return f", {len(view.failures)} failed"
    return ""


def _lines(source: Source[object], depth: int, shown: set[int]) -> Iterator[str]:
    """The lines of a source; `shown` are the views that are in the tree already, by identity."""
    try:
        n = _core.length(source)
        items = "unknown length" if n is None else f"{n} item{'' if n == 1 else 's'}"
    except Exception as error:  # a tree is for those who look for the error
        items = f"a length that raises {type(error).__name__}"
    if isinstance(source, _core.View):
        name, _, place = source.stage.partition(" at ")
        line = f"{'  ' * depth}{name}, {items}{_BULK.get(source.bulk, '')}{_state(source)}, made at {place}"
        if id(source) in shown and source.children:
            yield f"{line} (as above)"
            return
        shown.add(id(source))
        yield line
        for child in source.children[:MOST_CHILDREN]:
            yield from _lines(child, depth + 1, shown)
        if len(source.children) > MOST_CHILDREN:
            yield f"{'  ' * (depth + 1)}and {len(source.children) - MOST_CHILDREN} more"
    else:
        yield f"{'  ' * depth}{type(source).__name__}, {items}"
