"""Starting and ending the workers of prefetches: nothing here runs while items flow."""

from __future__ import annotations

import atexit
import inspect
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from ._processes import WorkerProcess

    class _Employer(Protocol):
        """What a crew is to this module."""

        def dismiss(self) -> list[threading.Thread] | list[WorkerProcess]: ...
        def forget_workers(self) -> None: ...


started: weakref.WeakSet[_Employer] = weakref.WeakSet()  # the crews that have workers
lost: list[object] = []  # what forked children have of the workers of their parents
exiting = threading.Event()  # the interpreter is
# Idle workers end in less; one that is inside an item is not waited for any longer. A process can be ended.
JOIN_SECONDS = 0.2
PROCESS_JOIN_SECONDS = 0.02


def usable_cores() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Worker(threading.Thread):
    """A thread that evaluates items: a daemon, since an item may never end.

    `crew` tells workers of one prefetch from those of others, and `abandoned` that another works in this one's place:
    to a cache, whose readers they are.
    """

    abandoned = False

    def __init__(self, work: Callable[[int], object], k: int) -> None:
        super().__init__(target=work, args=(k,), name=f"lazyseq-worker-{k}", daemon=True)
        self.crew = id(getattr(work, "__self__", work))


def start_thread(work: Callable[[int], object], k: int) -> threading.Thread:
    """Start a thread that runs work(k)."""
    thread = Worker(work, k)
    thread.start()
    return thread


def join(*crews: Iterable[threading.Thread | WorkerProcess]) -> None:
    """Wait for workers that were told to end, but not for an item that one of them may be computing."""
    processes = [worker for crew in crews for worker in crew if not isinstance(worker, threading.Thread)]
    await_all(processes, PROCESS_JOIN_SECONDS)
    for process in processes:
        if process.is_alive():
            process.kill()  # nobody will ever see what it does
    # Not as a list: a thread that is waited for may be starting the next one.
    threads = (worker for crew in crews for worker in crew if isinstance(worker, threading.Thread))
    await_all((thread for thread in threads if thread is not threading.current_thread()), JOIN_SECONDS)
    for process in processes:
        process.join()


def await_all(workers: Iterable[threading.Thread | WorkerProcess], seconds: float) -> None:
    """Wait until all have ended, but no longer than this."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))


def aside(work: Callable[[], object]) -> None:
    """Call work() where no signal handler can interrupt it: not in the main thread, which can stop to wait for it."""
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="lazyseq-aside", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def run_hook(hook: Callable[..., object], worker: int) -> None:
    """Call a start_hook, with the worker's index if it accepts a positional argument."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell, like random.seed
        parameters = None
    if parameters is None or any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    ):
        hook(worker)
    else:
        hook()


def stay_if_all_ends() -> None:
    """In a daemon thread, not return at the interpreter's exit, which ends it without a sound; an error makes one."""
    while exiting.is_set() and threading.current_thread().daemon:
        time.sleep(1)


def _close_all() -> None:
    exiting.set()
    join(*[crew.dismiss() for crew in list(started)])


def _forget_workers() -> None:
    for crew in list(started):
        crew.forget_workers()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
