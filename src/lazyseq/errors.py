"""What goes wrong while an item is evaluated, and how it is told."""

from __future__ import annotations

import pickle
import threading
import traceback
from typing import TYPE_CHECKING, Any, Literal, cast

__all__ = ["EvaluationError", "TooManyFailures", "WorkerDiedError", "seterr"]

if TYPE_CHECKING:
    _Evaluation = Literal["wrap", "passthrough"]


class EvaluationError(Exception):
    """Evaluating an item failed; the cause is what the user's function raised.

    Attributes:
        index (int or None): the item, counted in the stage that failed.
        stage (str or None): that stage and where it was made, ``"smap(f) at file.py:12"``.
    """

    def __init__(self, *args: object, index: int | None = None, stage: str | None = None) -> None:
        super().__init__(*args)
        self.index = index
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling keeps attributes and notes, but forgets the cause.
        cls, args, *rest = cast("tuple[Any, ...]", super().__reduce__())
        state: dict[str, Any] = dict(rest[0] or {}) if rest else {}
        if self.__cause__ is not None:
            try:
                pickle.loads(pickle.dumps(self.__cause__))
            except Exception:  # whatever a user's exception does when pickled: its text will have to do
                text = "".join(traceback.format_exception(self.__cause__))
                state["__notes__"] = [*state.get("__notes__", []), f"caused by:\n{text}"]
            else:
                state["__cause__"] = self.__cause__
        return cls, args, state


class WorkerDiedError(EvaluationError, RuntimeError):
    """A worker process of a :func:`prefetch` died.

    Attributes:
        pid (int or None): the process.
        signal (int or None): the signal that killed it.
        exitcode (int or None): the code that it exited with, or the signal's number, negative.
        attempts (int): how many workers have died of the item.
    """

    def __init__(
        self,
        *args: object,
        index: int | None = None,
        stage: str | None = None,
        pid: int | None = None,
        signal: int | None = None,
        exitcode: int | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(*args, index=index, stage=stage)
        self.pid, self.signal, self.exitcode, self.attempts = pid, signal, exitcode, attempts


class TooManyFailures(EvaluationError):  # noqa: N818  it says what is wrong better than with "Error"
    """More items failed than the budget of a :func:`guard` allows.

    Attributes:
        failures (list): the pairs (index, error) of the items that failed.
    """

    def __init__(
        self,
        *args: object,
        index: int | None = None,
        stage: str | None = None,
        failures: list[tuple[int, BaseException]] | None = None,
    ) -> None:
        super().__init__(*args, index=index, stage=stage)
        self.failures = failures or []


class _Settings(threading.local):
    evaluation: _Evaluation = "wrap"


_settings = _Settings()


def seterr(evaluation: _Evaluation | None = None) -> _Evaluation:
    """Set, for the calling thread, how errors of user functions reach the reader; return the setting.

    The workers of a prefetch follow the setting of the thread that made the prefetch.

    Args:
        evaluation (str or None): ``"wrap"`` (at first) raises an :class:`EvaluationError` that says which
            item of which stage failed, from the original error; ``"passthrough"`` lets the original
            through, except that a StopIteration, and an IndexError where the length is unknown, become
            RuntimeErrors, since they would end a loop; None changes nothing.

    Returns:
        str: the setting, as it is after the call.

    Raises:
        ValueError: for any other value.

    >>> seterr("passthrough")
    'passthrough'
    >>> seterr("wrap")
    'wrap'
    """
    if evaluation is not None:
        if evaluation not in ("wrap", "passthrough"):
            raise ValueError(f"seterr: evaluation must be 'wrap', 'passthrough' or None, got {evaluation!r}")
        _settings.evaluation = evaluation
    return _settings.evaluation
