"""Evaluate ahead."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Literal, SupportsIndex

from . import _checks, _engine, _transfer, _workers
from .errors import seterr

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

    from ._engine import Prefetch
    from ._types import Source, T

__all__ = ["prefetch"]


def prefetch(
    seq: Source[T],
    nworkers: SupportsIndex | None = None,
    method: Literal["thread", "process"] = "thread",
    max_buffered: SupportsIndex | None = None,
    start_hook: Callable[[int], object] | Callable[[], object] | None = None,
    shm_size: SupportsIndex | None = None,
    *,
    mp_context: str | BaseContext | None = None,
    timeout: float | None = None,
) -> Prefetch[T]:
    """Return a view whose items are evaluated ahead of the reader, by background workers.

    ``prefetch(xs)[i] == xs[i]``, in order, whatever the order in which workers finish. Reading one item after
    the other, by iteration or by index, keeps up to max_buffered of the following ones under way or ready. A
    read elsewhere starts anew from there, without waiting for what is under way; with several workers and
    neither start_hook nor timeout, the reader evaluates that item itself. Each iterator, and each thread that
    reads by index, has a window of max_buffered items of its own; they share the workers, and so do slices.
    Place it at the end of a pipeline. An error is raised when its item is read, and reading goes on behind it.
    ``as_completed()`` gives pairs (i, item) in the order in which the items are finished.

    Workers start at the first read: one thread at once, and the others as soon as there is more to do. They end
    with :meth:`close`, at the end of a ``with`` block, when the prefetch is garbage, and with the interpreter. In
    threads, only one at a time runs Python code, unless Python is built without the GIL; file access, Pillow,
    NumPy and others that release the GIL run side by side.

    In processes all runs side by side, and items come back pickled: their arrays, and whatever else has large
    buffers, as views of shared memory. The workers have seq as it is when they start. A worker that dies is
    replaced, and its items are evaluated again; an item that ends two workers is a WorkerDiedError.

    Args:
        seq (Sequence): the source.
        nworkers (int or None): how many workers; None is one per usable core, a negative number leaves that
            many cores free (with one worker at least), 0 has none: the reader evaluates.
        method (str): ``"thread"`` or ``"process"``.
        max_buffered (int or None): how many items may be under way or ready at most, at least 1; None is
            ``max(10, 4 * nworkers)``. Where items share an evaluation (:func:`unbatch`) and that makes more
            items than max_buffered, it counts evaluations.
        start_hook (Callable or None): called by each worker when it starts, with the worker's index if it
            accepts an argument. A source of few items may not need all threads, and those do not start.
        shm_size (int or None): how many bytes of shared memory the buffers of received items may take at once;
            beyond it, they are copied out, with a warning. None is a quarter of the memory that there is. It has
            no effect on threads.
        mp_context (str, multiprocessing context or None): how processes start: ``"fork"``, ``"spawn"``,
            ``"forkserver"``; None is what multiprocessing does. All but fork pickle seq and start_hook, by
            cloudpickle where pickle cannot.
        timeout (float or None): how many seconds the evaluation of one item may take; reading an item that takes
            longer raises a TimeoutError, another worker takes the place of its own, and reading goes on
            behind it. A process is ended, if a reader waits meanwhile; a thread cannot be, and ends with the item.
            With nworkers=0 it has no effect. None is no limit.

    Returns:
        View: as long as seq, with ``close()`` and ``as_completed()``, and a context manager.

    Raises:
        TypeError: if seq cannot be indexed, a number is of the wrong type, or start_hook cannot be called.
        ValueError: if a number is out of range, the method unknown, or "process" on Windows; on reading, after close().
        EvaluationError: on reading, when start_hook has failed.
        RuntimeError: on any read that waits, while threads are missing that cannot be started.
        WorkerDiedError: on reading, when worker processes have died of the item, or keep dying.
        MemoryError: on reading, when there is no memory to share.
        TimeoutError: on reading, when the item takes longer than timeout.

    >>> from lazyseq import smap
    >>> with prefetch(smap(lambda x: x * x, range(5)), nworkers=2) as squares:
    ...     print(list(squares), squares[-1])
    [0, 1, 4, 9, 16] 16
    """
    _checks.source(seq, "prefetch", "seq")
    if method not in ("thread", "process"):
        raise _checks.wrong(ValueError, "prefetch", "method", "'thread' or 'process'", method)
    if method == "process" and sys.platform == "win32":
        raise _checks.wrong(ValueError, "prefetch", "method", "'thread' on Windows", method)
    if nworkers is None:
        nworkers = _workers.usable_cores()
    else:
        try:
            nworkers = operator.index(nworkers)
        except TypeError:
            raise _checks.wrong(TypeError, "prefetch", "nworkers", "an int or None", nworkers) from None
        if nworkers < 0:
            nworkers = max(1, _workers.usable_cores() + nworkers)
    if nworkers > _engine.max_workers:
        raise _checks.wrong(ValueError, "prefetch", "nworkers", f"at most {_engine.max_workers}", nworkers)
    if max_buffered is None:
        max_buffered = max(10, 4 * nworkers)
    max_buffered = _checks.count(max_buffered, "prefetch", "max_buffered", least=1)
    if start_hook is not None:
        _checks.function(start_hook, "prefetch", "start_hook")
    if shm_size is not None:
        shm_size = _checks.count(shm_size, "prefetch", "shm_size", least=0)
        if shm_size > _transfer.usable_memory():
            raise _checks.wrong(ValueError, "prefetch", "shm_size", "no more bytes than there is memory", shm_size)
    # None until the first read, since who asks for the default fixes it.
    context = None if mp_context is None else _context_of(mp_context)
    if timeout is not None:
        timeout = _checks.positive(timeout, "prefetch", "timeout")
    process = (context, shm_size) if method == "process" else None
    return _engine.Prefetch(seq, nworkers, max_buffered, start_hook, seterr(), timeout, process)


def _context_of(mp_context: str | BaseContext) -> BaseContext:
    import multiprocessing  # which imports much, and only now is it certain to be needed
    from multiprocessing.context import BaseContext

    if isinstance(mp_context, BaseContext):
        return mp_context
    methods = multiprocessing.get_all_start_methods()
    if mp_context not in methods:
        expected = f"a context or its name, {' or '.join(map(repr, methods))}"
        raise _checks.wrong(ValueError, "prefetch", "mp_context", expected, mp_context)
    return multiprocessing.get_context(mp_context)
