"""What Python sees and uses of the prefetch."""

from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from threading import Thread
from types import TracebackType
from typing import Final, Literal, Self, final, overload

from ._core import Derived, Guard, Index, Indices
from ._processes import WorkerProcess
from ._transfer import Arena
from ._types import Source, T_co

@final
class Prefetch(Derived[T_co]):
    def __init__(
        self,
        source: Source[T_co],
        nworkers: int,
        max_buffered: int,
        start_hook: Callable[[int], object] | Callable[[], object] | None,
        evaluation: Literal["wrap", "passthrough"],
        timeout: float | None = None,
        process: tuple[BaseContext | None, int | None] | None = None,
        crew: Crew | None = None,
    ) -> None: ...
    @property
    def nworkers(self) -> int: ...
    @property
    def max_buffered(self) -> int: ...
    @overload
    def __getitem__(self, key: int, /) -> T_co: ...
    @overload
    def __getitem__(self, key: slice | Indices, /) -> Prefetch[T_co]: ...
    @overload
    def __getitem__(self, key: Index, /) -> T_co: ...  # pyright: ignore[reportIncompatibleMethodOverride]
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    @property
    def timeout(self) -> float | None: ...
    def close(self) -> None: ...
    def as_completed(self) -> Iterator[tuple[int, T_co]]: ...

@final
class Crew:
    def __init__(
        self,
        source: Source[object],
        nworkers: int,
        max_buffered: int,
        start_hook: Callable[[int], object] | Callable[[], object] | None,
        evaluation: Literal["wrap", "passthrough"],
        timeout: float | None,
        process: tuple[BaseContext | None, int | None] | None,
    ) -> None: ...
    def dismiss(self) -> list[Thread] | list[WorkerProcess]: ...
    def forget_workers(self) -> None: ...

def failure_from(data: bytes) -> object: ...
def do_as_before_a_fork() -> None: ...
def end_after(handle: int) -> None: ...
def refuse_to_work(arena: Arena, worker: int, error: BaseException) -> None: ...
def work_in_process(
    arena: Arena,
    worker: int,
    evaluation: str,
    source: Source[object],
    start_hook: Callable[[int], object] | Callable[[], object] | None,
    guards: list[Guard[object]],
) -> None: ...

max_workers: Final[int]
