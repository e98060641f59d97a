"""Keep what was computed."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _checks, _core

if TYPE_CHECKING:
    from ._core import View
    from ._types import Source, T

__all__ = ["add_cache"]


def add_cache(
    arr: Source[T], cache_size: SupportsIndex | None = None, cache: MutableMapping[int, Any] | None = None
) -> View[T]:
    """Return a view that keeps the items that were read last.

    ``add_cache(xs)[i] is xs[i]``, computed once for as long as it is kept. Threads that want the same
    missing item compute it once, those that want different ones side by side; errors are not kept. An
    assignment goes to the source, and the cache forgets the item.

    Args:
        arr (Sequence): the items.
        cache_size (int or None): how many items to keep: beyond it, the one used longest ago is dropped
            (LRU). 0 keeps none; None keeps one, or any number where a cache is given.
        cache (MutableMapping[int, Any] or None): keeps the items in place of the cache's own memory,
            for example a dict. It is used by one thread at a time.

    Returns:
        View: as long as arr.

    Raises:
        TypeError: if arr cannot be indexed, cache_size is no int, or cache no mutable mapping.
        ValueError: if cache_size is below 0.
        RuntimeError: to a computation that reads the item which it computes.

    >>> def slow(x):
    ...     print("computing", x)
    ...     return 2 * x
    >>> from lazyseq import smap
    >>> doubled = add_cache(smap(slow, [1, 2, 3]), cache_size=2)
    >>> doubled[1]
    computing 2
    4
    >>> doubled[1]
    4
    """
    _checks.source(arr, "add_cache", "arr")
    if cache is not None and not isinstance(cache, MutableMapping):
        raise _checks.wrong(TypeError, "add_cache", "cache", "a mutable mapping", cache)
    if cache_size is not None:
        cache_size = _checks.count(cache_size, "add_cache", "cache_size", least=0)
    elif cache is None:
        cache_size = 1
    return _core.add_cache(arr, cache_size, cache)
