"""What Python sees and uses of the views."""

from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex, final, overload, type_check_only

from numpy.typing import DTypeLike, NDArray

from ._types import A, Source, T, T_co

@type_check_only
class Index(SupportsIndex, Hashable, Protocol):
    """An int of any kind; what cannot be hashed is an array, which has an __index__ too."""

@type_check_only
class Indices(Source[SupportsIndex], Protocol):
    """An index array, a boolean mask, or a lazy sequence of indices."""

    def __len__(self) -> int: ...

class View(Sequence[T_co]):
    @property
    def stage(self) -> str: ...
    @property
    def children(self) -> tuple[Any, ...]: ...
    @property
    def bulk(self) -> Literal["block", "items"] | None: ...
    def __len__(self) -> int: ...
    def __length_hint__(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> T_co: ...
    @overload
    def __getitem__(self, key: slice | Indices, /) -> View[T_co]: ...
    @overload
    def __getitem__(self, key: Index, /) -> T_co: ...  # pyright: ignore[reportIncompatibleMethodOverride]
    def __getitems__(self, indices: Indices) -> list[T_co]: ...
    @overload
    def __setitem__(self, key: slice | Indices, value: Iterable[Any], /) -> None: ...
    @overload
    def __setitem__(self, key: Index, value: Any, /) -> None: ...
    def __iter__(self) -> Iterator[T_co]: ...
    def __reversed__(self) -> Iterator[T_co]: ...
    def __contains__(self, value: object, /) -> bool: ...
    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int: ...
    def count(self, value: Any) -> int: ...
    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]: ...

class Derived(View[T_co]):
    @property
    def source(self) -> Any: ...

class Joined(View[T_co]):
    @property
    def sequences(self) -> list[Any]: ...

class Applied(Derived[T_co]):
    @property
    def f(self) -> Callable[..., T_co]: ...
    @property
    def sequences(self) -> list[Any]: ...

@final
class Smap(Applied[T_co]):
    def __init__(self, f: Callable[[A], T_co], source: Source[A]) -> None: ...

@final
class Starmap(Applied[T_co]):
    def __init__(self, f: Callable[..., T_co], source: Source[Iterable[Any]]) -> None: ...

@final
class SmapN(Joined[T_co]):
    def __init__(self, f: Callable[..., T_co], parts: tuple[Source[Any], ...]) -> None: ...
    @property
    def f(self) -> Callable[..., T_co]: ...

@final
class Arange(View[int]):
    def __init__(self, numbers: range) -> None: ...

@final
class Cycle(Derived[T_co]):
    def __init__(self, source: Source[T_co], limit: int) -> None: ...

@final
class Repeat(View[T_co]):
    def __init__(self, value: T_co, times: int) -> None: ...

@final
class Case(Joined[T_co]):
    def __init__(self, parts: tuple[Source[Any], ...]) -> None: ...

@final
class Switch(Joined[T_co]):
    def __init__(self, parts: tuple[Source[object], Source[T_co], Source[T_co]]) -> None: ...

@final
class Concatenate(Joined[T_co]):
    def __init__(
        self, parts: tuple[Source[T_co], ...], check: Callable[[tuple[Source[Any], ...]], None] | None = None
    ) -> None: ...

@final
class Interleave(Joined[T_co]):
    def __init__(self, parts: tuple[Source[T_co], ...]) -> None: ...

@final
class Collate(Joined[tuple[T_co, ...]]):
    def __init__(self, parts: tuple[Source[T_co], ...]) -> None: ...

@final
class Batch(Derived[T_co]):
    def __init__(
        self, source: Source[Any], k: int, drop_last: bool, pad: Any, collate_fn: Callable[[list[Any]], T_co] | None
    ) -> None: ...
    @property
    def pad(self) -> Any: ...
    @property
    def collate_fn(self) -> Callable[[list[Any]], T_co] | None: ...

@final
class Unbatch(Derived[T_co]):
    def __init__(self, source: Source[Source[T_co]], k: int, last: int) -> None: ...

@final
class Split(Derived[T_co]):
    def __init__(self, source: Source[Any], starts: Sequence[int], stops: Sequence[int], sliceable: bool) -> None: ...

@final
class Uniter(View[T_co]):
    def __init__(
        self, iterable: Iterable[T_co] | Source[T_co], cache_size: int, n_parallel: int, n: int, started: bool = False
    ) -> None: ...
    @property
    def iterable(self) -> Any: ...

@final
class Debug(Derived[T_co]):
    def __init__(self, source: Source[T_co], probe: Callable[[int, T_co], object]) -> None: ...

@final
class Monitor(Derived[T_co]):
    def __init__(self, source: Source[T_co]) -> None: ...
    def read_delay(self) -> float: ...
    def throughput(self) -> float: ...
    def reset(self) -> None: ...

class CacheInfo(NamedTuple):
    hits: int
    misses: int
    maxsize: int | None
    currsize: int
    max_bytes: int | None
    currbytes: int | None

@final
class Cache(Derived[T_co]):
    def __init__(
        self,
        source: Source[T_co],
        cache_size: int | None,
        cache: MutableMapping[int, Any] | None,
        max_bytes: int | None,
        item_size: Callable[[Any], SupportsIndex],
    ) -> None: ...
    @property
    def cache_size(self) -> int | None: ...
    @property
    def cache(self) -> MutableMapping[int, Any] | None: ...
    @property
    def max_bytes(self) -> int | None: ...
    @property
    def item_size(self) -> Callable[[Any], SupportsIndex]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...

@final
class Guard(Derived[T_co]):
    def __init__(
        self,
        source: Source[T_co],
        retries: int,
        backoff: float,
        on_error: Literal["raise", "default", "neighbour"],
        default: Any,
        errors: type[BaseException] | tuple[type[BaseException], ...],
        budget: float | None,
    ) -> None: ...
    @property
    def on_error(self) -> Literal["raise", "default", "neighbour"]: ...
    @property
    def default(self) -> Any: ...
    @property
    def failures(self) -> list[tuple[int, BaseException]]: ...

unbounded: int

def length(source: Source[object]) -> int | None: ...
def all_plain(sequences: tuple[Source[object], ...]) -> bool: ...
def gather(source: Source[T], indexes: Source[SupportsIndex]) -> View[T]: ...
