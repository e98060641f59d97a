"""Functions that travel without their module."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import cloudpickle

__all__ = ["SerializableFunc"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class SerializableFunc(Generic[P, R_co]):
    """A function that is pickled by value: unpickled, it is what it was, whatever became of its source file.

    A thin bridge to cloudpickle, for code written for SeqTools; new code may use cloudpickle itself.

    Args:
        func (function): a Python function.

    Raises:
        TypeError: if func is no Python function.

    >>> import pickle
    >>> @SerializableFunc
    ... def double(x):
    ...     return 2 * x
    >>> pickle.loads(pickle.dumps(double))(4)
    8
    """

    func: Callable[P, R_co]

    def __init__(self, func: Callable[P, R_co]) -> None:
        if isinstance(func, SerializableFunc):
            func = func.func
        if not isinstance(func, types.FunctionType):
            raise TypeError(f"SerializableFunc: func must be a Python function, got {func!r}")
        self.func = func
        functools.update_wrapper(self, func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.func(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        func: Any = self.func
        own_names = [name for name, value in list(func.__globals__.items()) if value is self]
        names = dict(func.__globals__) if own_names else func.__globals__
        twin = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
        for name in own_names:  # a function that calls itself would be pickled by value for ever
            names[name] = twin
        twin.__kwdefaults__, twin.__doc__ = func.__kwdefaults__, func.__doc__
        twin.__module__ = "__main__"  # which cloudpickle takes as: not to be found elsewhere, so by value
        return _load, (cloudpickle.dumps(twin), func.__module__)


def _load(data: bytes, module: str) -> SerializableFunc[..., Any]:
    func = cloudpickle.loads(data)
    func.__module__ = module
    return SerializableFunc(func)
