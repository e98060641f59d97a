"""What annotations share: for type checkers, no module imports it when it runs."""

from typing import Protocol, TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Source(Protocol[T_co]):
    """Whatever can be read by index."""

    def __getitem__(self, i: int, /) -> T_co: ...
