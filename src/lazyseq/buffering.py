"""Keep what was computed."""

from __future__ import annotations

import dataclasses
import numbers
import re
import shelve
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _checks, _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._core import Cache
    from ._types import Source, T

__all__ = ["add_cache"]


def add_cache(
    arr: Source[T],
    cache_size: SupportsIndex | None = None,
    cache: MutableMapping[int, Any] | None = None,
    *,
    max_bytes: SupportsIndex | None = None,
    sizeof: Callable[[T], SupportsIndex] | None = None,
) -> Cache[T]:
    """Return a view that keeps the items that were read last.

    ``add_cache(xs)[i] is xs[i]``, computed once for as long as it is kept. Beyond cache_size or max_bytes, the items
    used longest ago are dropped (LRU). Threads that want the same missing item compute it once, those that want
    different ones side by side; errors are not kept. Iteration and batches read what is missing together, where that
    shares work. An assignment goes to the source, and the cache forgets the item.

    Args:
        arr (Sequence): the items.
        cache_size (int or None): how many items to keep. 0 keeps none; None keeps one, or any number where max_bytes
            or a cache is given.
        cache (MutableMapping[int, Any] or None): keeps the items in place of the cache's own memory, for example a dict
            or, with the indices as text, a shelf. It is used by one thread at a time; what it holds already is used.
        max_bytes (int or None): how many bytes the items may have together; a larger one is returned and not kept.
        sizeof (Callable or None): the size of an item in bytes. None is
            :func:`lazyseq.buffering.default_sizeof`.

    Returns:
        View: as long as arr, with ``cache_info()`` and ``cache_clear()`` as :func:`functools.lru_cache` has them.

    Raises:
        TypeError: if arr cannot be indexed, a number is no int, cache no mutable mapping, or sizeof cannot be called.
        ValueError: if a number is below 0, or sizeof is given without max_bytes.
        EvaluationError: on reading, when the mapping or sizeof fails; it names the item.
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
    >>> doubled.cache_info()
    CacheInfo(hits=1, misses=1, maxsize=2, currsize=1, max_bytes=None, currbytes=None)
    """
    _checks.source(arr, "add_cache", "arr")
    if cache is not None and not isinstance(cache, MutableMapping):
        raise _checks.wrong(TypeError, "add_cache", "cache", "a mutable mapping", cache)
    if max_bytes is not None:
        max_bytes = _checks.count(max_bytes, "add_cache", "max_bytes", least=0)
    if sizeof is not None:
        _checks.function(sizeof, "add_cache", "sizeof")
        if max_bytes is None:
            raise _checks.wrong(ValueError, "add_cache", "sizeof", "left out where there is no max_bytes", sizeof)
    if cache_size is not None:
        cache_size = _checks.count(cache_size, "add_cache", "cache_size", least=0)
    elif cache is None and max_bytes is None:
        cache_size = 1
    if isinstance(cache, shelve.Shelf):
        cache = _Shelved(cache)
    return _core.Cache(arr, cache_size, cache, max_bytes, default_sizeof if sizeof is None else sizeof)


_INDEX = re.compile("0|[1-9][0-9]{0,18}")  # as str writes it: what else is a number, "007", is somebody else's key


class _Shelved(MutableMapping[int, Any]):
    """A shelf, whose keys are text, by index; what else it holds is left alone."""

    def __init__(self, shelf: shelve.Shelf[Any]) -> None:
        self.shelf = shelf
        self.count: int | None = None  # how many there are, once somebody has asked: a shelf may go through all

    def __getitem__(self, i: int) -> Any:
        return self.shelf[str(i)]

    def __setitem__(self, i: int, value: Any) -> None:
        if self.count is not None and i not in self:
            self.count += 1
        self.shelf[str(i)] = value

    def __delitem__(self, i: int) -> None:
        del self.shelf[str(i)]
        if self.count is not None:
            self.count -= 1

    def __contains__(self, i: object) -> bool:
        return str(i) in self.shelf

    def __iter__(self) -> Iterator[int]:
        return (int(key) for key in self.shelf if _INDEX.fullmatch(key))

    def __len__(self) -> int:
        if self.count is None:
            self.count = sum(1 for _ in self)
        return self.count

    def clear(self) -> None:
        for i in list(self):  # popitem, which the mixin calls, may list all keys for each
            del self[i]


def default_sizeof(item: Any) -> int:
    """About how much memory an item takes, in bytes: what add_cache goes by.

    ``nbytes`` of arrays, tensors and whatever else has it, the length of bytes and text, width x height x bands of a
    Pillow image, for tuples, lists, sets, dicts, classes that extend them, and dataclasses the sum over what they
    hold, each object once, and ``sys.getsizeof`` for all else, which leaves out what an object refers to.
    """
    total = 0
    seen: set[int] = set()
    waiting = [item]  # and no recursion: what holds itself, or is nested deeply, has a size too
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, (bytes, bytearray, str)):
            total += len(each)
        elif isinstance(nbytes := getattr(each, "nbytes", None), numbers.Integral):
            total += int(nbytes)
        elif hasattr(each, "getbands") and hasattr(each, "size"):
            width, height = each.size
            total += int(width * height * len(each.getbands()))
        else:
            total += sys.getsizeof(each)
            if isinstance(each, dict):
                waiting += [*each.keys(), *each.values()]
            elif isinstance(each, (tuple, list, set, frozenset)):
                waiting += each
            elif dataclasses.is_dataclass(each) and not isinstance(each, type):
                waiting += [getattr(each, field.name, None) for field in dataclasses.fields(each)]
    return total
