"""Starting, watching and ending worker processes: nothing here runs while items flow.

What only processes need is imported where it is used: importing lazyseq should cost little.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import logging
import math
import os
import pickle
import select
import signal
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any, cast

from .errors import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from ._core import Guard
    from ._transfer import Arena
    from ._types import Source

    # The source, start_hook, and the guards of the source.
    _Recipe = tuple[Source[object], Callable[[int], object] | Callable[[], object] | None, list[Guard[object]]]
    _Frames = dict[str, Any]
    # (pickled, traceback, __suppress_context__, cause, context)
    _Packed = tuple[bytes, _Frames | None, bool, "_Packed | None", "_Packed | None"]


log = logging.getLogger("lazyseq")
spawned = False  # this is a worker to which classes may have come pickled by value
warned = False  # is_worker() has
THREADS = [
    f"{name}_THREADS" for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
]

# ---- The reader's side ----------------------------------------------------------------------------------------------


def recipe(
    context: BaseContext, source: object, start_hook: Callable[..., object] | None, guards: list[Guard[object]]
) -> object:
    """What a worker is to evaluate, as it travels: under fork as it is, else pickled, once for all workers."""
    parts = source, start_hook, guards
    if context.get_start_method() == "fork":
        return parts
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, "prefetch: workers begin in the working directory, which is no more"
        ) from None
    main = sys.modules["__main__"]
    if hasattr(main, "__file__") or main.__spec__ is not None:  # else workers cannot import what it defines: a notebook
        with contextlib.suppress(Exception):  # lambdas, closures
            return pickle.dumps(parts, 5)
    import cloudpickle

    try:
        return cloudpickle.dumps(parts, 5)
    except Exception as error:
        raise TypeError(
            f"prefetch: a worker that is started by {context.get_start_method()!r} gets the pipeline pickled, and "
            f"{unpicklable(source, start_hook)} cannot be pickled ({type(error).__name__}: {error})"
        ) from error


def unpicklable(source: object, start_hook: object) -> str:
    """What it is that cannot be pickled: start_hook, or the innermost stage."""
    import cloudpickle

    def fails(thing: object) -> bool:
        try:
            cloudpickle.dumps(thing, 5)
        except Exception:
            return True
        return False

    if fails(start_hook):
        return f"start_hook {start_hook!r}"
    while True:
        inner = next((child for child in getattr(source, "children", ()) if fails(child)), None)
        if inner is None:
            return repr(source)
        source = inner


class WorkerProcess:
    """A worker's process, and a descriptor that tells of its end.

    What multiprocessing knows is no sign of life: where the program ignores SIGCHLD, or waits for all its children by
    itself, nobody else is ever told that one has ended. A pidfd tells everyone, and names no other process later on.

    Threads: nothing changes but what multiprocessing knows.
    """

    def __init__(self, process: BaseProcess) -> None:
        self.process, self.pid = process, cast("int", process.pid)
        self.pidfd: int | None = None
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except (AttributeError, ProcessLookupError, PermissionError):  # not Linux; it has ended; forbidden
            pass
        except OSError as error:
            if error.errno != errno.ENOSYS:  # an old one
                raise
        self.handle = process.sentinel if self.pidfd is None else self.pidfd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the interpreter's exit `os` may be gone
        if self.pidfd is not None:
            close(self.pidfd)

    def is_alive(self) -> bool:
        return not ended([self])

    def join(self, timeout: float | None = None) -> None:
        if ended([self], timeout):
            self.process.join()

    def kill(self) -> None:
        if self.pidfd is None:
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exitcode(self) -> int | None:
        """With which code it has ended, or by which signal, as a negative number; None: that was told to others."""
        if self.process.exitcode is None:
            self.process.join(1)  # a fork server tells a moment later
        return self.process.exitcode


def ended(workers: list[WorkerProcess], timeout: float | None = 0) -> list[WorkerProcess]:
    """Which of them have ended, one at least unless that takes longer than `timeout` seconds."""
    poll = select.poll()
    for worker in workers:
        poll.register(worker.handle, select.POLLIN)
    handles = {handle for handle, _ in poll.poll(None if timeout is None else math.ceil(1000 * timeout))}
    return [worker for worker in workers if worker.handle in handles]


def start(context: BaseContext, worker: int, arena: Arena, evaluation: str, recipe: object) -> WorkerProcess:
    """Start a worker: a daemon, since an item may never end."""
    for name in ("cloudpickle", "tblib", "threadpoolctl"):
        importlib.import_module(name)  # once, and not in each worker that is forked
    arguments = (os.getpid(), logging.getLogger().level, arena, worker, evaluation, recipe)
    # Process is a class of each context, which BaseContext does not tell.
    process = cast("Any", context).Process(target=work, args=arguments, name=f"lazyseq-worker-{worker}", daemon=True)
    if context.get_start_method() != "fork":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # as the start would do, and unblock SIGINT
    # Ctrl-C is the reader's; from the first instruction on, and whichever thread starts the worker.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        process.start()
    except ChildProcessError as error:
        raise RuntimeError(
            "prefetch: a process that was forked cannot use its parent's fork server: set another mp_context"
        ) from error
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OSError(
            error.errno,
            f"prefetch: no file descriptors are left to start worker {worker}: have fewer workers, or raise the limit "
            "(ulimit -n)",
        ) from error
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        return WorkerProcess(process)
    except BaseException:
        process.kill()
        process.join()
        raise


def died(process: WorkerProcess) -> WorkerDiedError:
    """The error that tells how a worker has ended."""
    code, number = process.exitcode(), None
    if code is None:
        how = "ended, how is not known (SIGCHLD is ignored, or the program itself has waited for it)"
    elif code >= 0:
        how = f"exited with code {code}"
    else:
        number = -code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        how = f"was killed by {name}"
        if number == signal.SIGKILL:
            how += " (perhaps for want of memory)"
        elif number == getattr(signal, "SIGBUS", None):
            how += " (perhaps for want of shared memory)"
    return WorkerDiedError(
        f"prefetch: worker process {process.pid} {how}", pid=process.pid, signal=number, exitcode=code
    )


def is_stopped(process: WorkerProcess) -> bool:
    """Whether it waits for SIGCONT, where the system tells."""
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].startswith((b"T", b"t"))
    except OSError:
        return False


def end(process: WorkerProcess) -> None:
    """End a worker at once, whatever it is doing."""
    process.kill()
    process.join()


def is_worker() -> bool:
    """Whether this process is a daemon, which may have no children: then its reader evaluates, and is warned."""
    import multiprocessing  # as late as in prefetch()

    global warned
    if not multiprocessing.current_process().daemon:
        return False
    if not warned:
        warned = True
        warnings.warn("prefetch: worker processes have none of their own: items are evaluated as they are read",
                      RuntimeWarning, stacklevel=2)  # fmt: skip
    return True


# ---- The worker's side ----------------------------------------------------------------------------------------------


def work(parent: int, level: int, arena: Arena, worker: int, evaluation: str, recipe: object) -> None:
    """What a worker's process runs."""
    from ._engine import refuse_to_work, work_in_process  # which imports this module

    global spawned
    spawned = isinstance(recipe, bytes)
    # The workers are as many as there are cores to use: this is for libraries that load from now on.
    for name in THREADS:
        os.environ.setdefault(name, "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=end_with, args=(parent,), name="lazyseq-parent", daemon=True).start()
    logging.getLogger().setLevel(level)
    gc.freeze()  # what was inherited is shared with the parent until somebody writes to it, as a collection would
    try:
        source, start_hook, guards = cast("_Recipe", pickle.loads(recipe) if isinstance(recipe, bytes) else recipe)
    except BaseException as error:  # whatever a user's object does when it is made anew
        refuse_to_work(arena, worker, not_loadable(error))
        return
    limit_threads()
    work_in_process(arena, worker, evaluation, source, start_hook, guards)


def limit_threads() -> None:
    """Have the libraries for linear algebra that are loaded use one thread."""
    import threadpoolctl

    from ._engine import do_as_before_a_fork

    libraries: Any = threadpoolctl.ThreadpoolController()
    libraries.limit(limits=1)
    if spawned:
        return
    # In a process that was forked, OpenBLAS has started all of its threads to be told that, one for each core. They are
    # ended as it ends them itself before a fork: else they look for work for 0.1 s, beside those of all other workers.
    # Some builds hide the function for it; the fork takes some 3 ms more, and 45 ms for each GB of this process.
    for library in libraries.lib_controllers:
        if getattr(library, "threading_layer", None) == "pthreads":
            end_threads = getattr(library.dynlib, "blas_thread_shutdown_", do_as_before_a_fork)
            end_threads()


def end_with(parent: int) -> None:
    """End this process when its reader's ends, whatever it is doing, also if that never lets go of the GIL."""
    from ._engine import end_after

    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # not Linux, or an old one
        import multiprocessing

        ancestor = multiprocessing.parent_process()
        if ancestor is None:
            return
        handle = ancestor.sentinel
    end_after(handle)


# ---- Errors on their way --------------------------------------------------------------------------------------------


def dump_error(error: BaseException) -> bytes:
    """An error with its traceback and what it came from, pickled."""
    return pickle.dumps(packed(error, set()), 5)


def load_error(data: bytes) -> BaseException:
    """The error that another process has pickled."""
    return cast("BaseException", unpacked(pickle.loads(data)))


def dumped(error: BaseException) -> bytes:
    """An error alone, pickled: as a result, by value where its class has come so."""
    try:
        return pickle.dumps(error, 5)
    except Exception:
        if not spawned:
            raise
    import cloudpickle

    data: bytes = cloudpickle.dumps(error, 5)
    return data


def packed(error: BaseException | None, seen: set[int]) -> _Packed | None:
    """What of an error can be pickled: each by its own means, since these know its attributes, or else in words."""
    import tblib

    if error is None or id(error) in seen:
        return None
    seen.add(id(error))
    try:
        data = dumped(error)
        pickle.loads(data)
    except Exception:  # whatever a user's error does when it is pickled, or made anew
        kind = type(error)
        words = "".join(traceback.format_exception(error))
        data = pickle.dumps(
            RuntimeError(f"{kind.__module__}.{kind.__qualname__}, which cannot be pickled:\n{words}"), 5
        )
    frames = None if error.__traceback__ is None else cast("_Frames", tblib.Traceback(error.__traceback__).to_dict())
    causes = packed(error.__cause__, seen), packed(error.__context__, seen)
    return data, frames, error.__suppress_context__, *causes


def unpacked(parts: _Packed | None) -> BaseException | None:
    """The error that was packed."""
    if parts is None:
        return None
    import tblib

    data, frames, suppresses, cause, context = parts
    error = cast("BaseException", pickle.loads(data))
    if frames is not None:
        error.__traceback__ = tblib.Traceback.from_dict(frames).as_traceback()
    error.__context__ = unpacked(context)
    if cause is not None:
        error.__cause__ = unpacked(cause)
    error.__suppress_context__ = suppresses
    try:
        return error
    finally:
        del error  # this frame is behind those of its traceback, and with it whatever the callers have


class NotTransferable(TypeError):
    """The pipeline does not come to a worker process, or a result from there to the reader."""


def not_loadable(error: BaseException) -> NotTransferable:
    """The error of a pipeline that cannot be loaded where it was sent."""
    failed = NotTransferable(
        "prefetch: the pipeline that was pickled for a worker process cannot be loaded there: "
        f"{type(error).__name__}: {error}. Define what it needs in a module that workers can import, or start them by "
        "'fork' (mp_context)"
    )
    failed.__cause__ = error
    return failed


def not_receivable(n: int, error: BaseException) -> NotTransferable:
    """The error of results that cannot be loaded from the pickle that a worker has sent."""
    which = "the result" if n == 1 else f"one of {n} results that were sent together"
    failed = NotTransferable(
        f"{which} was pickled in a worker process and cannot be loaded: {type(error).__name__}: {error}"
    )
    failed.__cause__ = error
    return failed


def not_sendable(result: object, error: Exception) -> Exception:
    """The error of a result that cannot be pickled, or for which there is no memory."""
    if isinstance(error, MemoryError):
        return error
    kind = type(result)
    sent = NotTransferable(
        f"a result of type {kind.__module__}.{kind.__qualname__} cannot be sent from a worker process: "
        f"{type(error).__name__}: {error}"
    )
    sent.__cause__ = error
    return sent
