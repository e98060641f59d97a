"""What happens to a prefetch over processes when something happens to its workers, or to its reader.

Each cell of a matrix, {start method} x {fault} x {victim} x {phase}, is a program that reads all items, twice.
Afterwards every value must have been right, each error the one that is promised, stderr empty, and no process,
descriptor or shared memory left. `python tests/chaos.py` runs all of them, `python tests/chaos.py spawn SIGKILL worker
writing` the cells that have all these words. It is no test of pytest's, which collects test_*.py.
"""

import argparse
import concurrent.futures
import contextlib
import ctypes
import gc
import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy

from lazyseq import EvaluationError, prefetch, smap

METHODS = ("fork", "spawn", "forkserver")
ENDS = ("SIGKILL", "SIGSEGV", "os._exit(0)")  # of the victim
FAULTS = (*ENDS, "SIGSTOP", "MemoryError", "unpicklable in", "unpicklable out", "raises in __reduce__")
VICTIMS = ("worker", "parent")
PHASES = ("starting", "idle", "evaluating", "writing", "results held")

N, HALF, AT = 24, 12, 17  # items; how many are read before the workers are idle; where it happens while they are not
SECONDS = 120  # for a cell; most of what it takes goes into imports
TIMEOUT = 3  # of an item; on a busy machine, one that nobody has stopped may take long too
GONE_SECONDS = 2  # within which all processes end after their reader

# ---- A cell ---------------------------------------------------------------------------------------------------------


class Cell:
    """What is to happen, as every process knows it."""

    def __init__(self, method, fault, victim, phase, folder):
        self.method, self.fault, self.victim, self.phase, self.folder = method, fault, victim, phase, Path(folder)
        self.at = {"starting": 0, "idle": HALF}.get(phase, AT)
        self.ends_parent = victim == "parent" and fault in ENDS
        self.interrupts = victim == "parent" and fault == "MemoryError"
        self.now = -1  # which item is read
        # What travels from a worker fails on its way; it does so whenever the item is read.
        self.spoils_result = fault == "unpicklable out" or (fault == "raises in __reduce__" and victim == "worker")
        # What travels to a worker fails: the whole of it, or as it is loaded there.
        self.spoils_source = not self.spoils_result and fault in ("unpicklable in", "raises in __reduce__")

    def once(self, event):
        """Whether this is the first process to say that it has come to this."""
        try:
            file = os.open(self.folder / event, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(file, str(os.getpid()).encode())
        os.close(file)
        return True

    def wait_for(self, *events):
        while not all((self.folder / event).exists() for event in events):
            time.sleep(0.002)

    def wait_for_end_after(self, event):
        """Until the process that has come to this has ended."""
        self.wait_for(event)
        while not (pid := (self.folder / event).read_text()) or not has_ended(int(pid)):
            time.sleep(0.002)

    def ends_at_start(self):
        """What a worker has come to that ends as it starts, if one does."""
        if not self.is_for("worker", "starting"):
            return None
        if self.spoils_source:
            return None if self.method == "fork" else "not loaded"
        return None if self.fault == "SIGSTOP" else "struck"

    def is_for(self, victim, phase):
        return self.victim == victim and self.phase == phase and not self.spoils_result

    # In a worker

    def hook(self, worker):
        self.once(f"hook {worker}")
        if self.is_for("parent", "starting"):
            self.let_it_happen_to_the_parent()
        if self.is_for("worker", "starting") and worker == 1 and not self.spoils_source:
            self.wait_for("begun")  # that no worker can start is another matter
            self.strike()
        if self.is_for("worker", "idle"):
            main = threading.get_ident()
            threading.Thread(target=self.strike_when_idle, args=(main,), daemon=True).start()

    def strike_when_idle(self, main):
        self.wait_for("idle")
        self.strike(main)

    def item(self, i):
        self.once("begun")
        time.sleep(0.002)  # so that there is something left to do for who comes late
        if i == AT and (event := self.ends_at_start()):
            self.wait_for_end_after(event)  # while there is something left to read
        if i == self.at:
            if self.phase in ("evaluating", "results held") and not self.spoils_result:
                if self.victim == "worker":
                    self.strike()
                else:
                    self.let_it_happen_to_the_parent()
            if self.spoils_result:
                return Spoiled(self)
            if self.phase == "writing":
                return Written(self, i)
        return numpy.full(5000, i)

    def strike(self, main=None):
        """Let it happen here, unless it has already."""
        if not self.once("struck"):
            return
        if self.fault == "os._exit(0)":
            os._exit(0)
        elif self.fault == "MemoryError" and main is not None:  # to another thread: at its next instruction
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(MemoryError))
        elif self.fault == "MemoryError":
            raise MemoryError
        else:  # what is loaded fails in the substitute of one that was killed
            os.kill(os.getpid(), signal.SIGKILL if self.spoils_source else signal.Signals[self.fault])

    def let_it_happen_to_the_parent(self):
        if self.ends_parent:
            self.wait_for("hook 0", "hook 1")  # who still imports cannot end at once
        first = self.once("reached")
        if self.interrupts:
            self.wait_for("interrupted")  # so that nothing comes in between
        elif first:
            time.sleep(60 if self.ends_parent else 0.3)

    # In the reader

    def happen_to_the_parent(self, main):
        """A thread of the reader's, which waits for the moment."""
        self.wait_for("reached")
        if self.spoils_source:
            self.read_spoiled_source()
        elif self.spoils_result:
            pass  # it is loaded there whenever it comes
        elif self.interrupts:
            while self.now != self.at:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGUSR1)
        else:
            self.strike()

    def out_of_memory(self, *_):
        """A signal's handler."""
        self.once("interrupted")
        raise MemoryError

    def read_spoiled_source(self):
        with prefetch(smap(abs, SpoiledSource(self)), 2, "process", mp_context=self.method) as view:
            try:
                found = list(view)
            except TypeError as error:
                assert "SpoiledSource" in str(error) and "cannot be pickled" in str(error), error
                assert self.method != "fork"
            else:
                assert found == list(range(N)) and self.method == "fork"
        (self.folder / "refused").touch()

    def read(self):
        """All items, twice; the errors that are raised."""
        kept, errors = {}, ({}, {})
        source = LoadedSource(self) if self.spoils_source and self.victim == "worker" else range(N)
        with prefetch(
            smap(self.item, source),
            2,
            "process",
            8,
            mp_context=self.method,
            start_hook=self.hook,
            timeout=self.timeout(),
        ) as view:
            for found in errors:
                items = iter(view)
                i = 0
                while i < N:
                    try:
                        self.now = i
                        if i == HALF and self.phase == "idle":
                            self.be_idle()
                        value = next(items)
                    except MemoryError:  # came to the reader itself
                        assert self.victim == "parent" and self.once("a MemoryError")
                        continue
                    except Exception as error:
                        assert len(found) < N, error
                        found.setdefault(i, []).append(error)
                        if self.fails_all(error):
                            items = iter(view[i:])
                            continue
                    else:
                        assert value[0] == i and (value == i).all(), (i, value)
                        if self.phase == "results held":
                            kept[i] = value
                    i += 1
                assert next(items, None) is None
            while self.victim == "worker" and self.fault in ENDS and not log.has("another takes its place"):
                assert len(list(view)) == N  # it may have ended late, when no item needed it
        assert all((value == i).all() for i, value in kept.items())
        return errors

    def be_idle(self):
        """Read nothing for a while, in which it happens."""
        time.sleep(0.1)
        if self.ends_parent:
            self.wait_for("hook 0", "hook 1")
        self.once("reached" if self.victim == "parent" else "idle")
        if self.victim == "worker" and not self.spoils_result:
            self.wait_for("struck")
        if self.interrupts:
            self.wait_for("interrupted")
        time.sleep(0.1)

    def timeout(self):
        return TIMEOUT if self.fault == "SIGSTOP" and self.victim == "worker" else None

    def fails_all(self, error):
        """Whether it is no item's error but that of workers that cannot start: the next read tries again."""
        return "start_hook failed" in str(error) or "cannot be loaded there" in str(error)

    def judge(self, first, second):
        """Whether these were the errors that are promised, by index: of reading all once, and again."""
        if self.spoils_result:
            # When some were sent together, all of them fail the first time that they cannot be loaded.
            assert self.at in first and list(second) == [self.at], (first, second)
            assert len(first) == 1 or self.victim == "parent", first
            for (error,) in (*first.values(), *second.values()):
                assert isinstance(error, EvaluationError) and isinstance(error.__cause__, TypeError), repr(error)
            return
        if self.spoils_source and self.victim == "worker":
            # The substitute may come late, when all has been read.
            found = [*first.values(), *second.values()]
            assert len(found) <= (self.method != "fork")
            assert found or self.ends_at_start() is None
            for (error,) in found:
                assert isinstance(error, TypeError) and "KeyError: 'not here'" in str(error), error
            return
        if self.phase in ("starting", "idle") and not first:
            first, second = second, first  # which worker evaluates next is anybody's guess
        assert not second, second
        if self.victim == "parent" or self.fault in ENDS:
            assert not first, first
        elif self.fault == "SIGSTOP":
            # Where results that the worker had not sent yet are evaluated again, it may be as well.
            assert not first or (list(first) == [self.at] and self.phase not in ("starting", "idle")), first
            assert all(type(error) is TimeoutError for (error,) in first.values()), first
        else:
            assert len(first) == 1 or (self.phase == "writing" and not first), first  # where it is tried once more
            for (error,) in first.values():
                assert self.phase in ("starting", "idle") or list(first) == [self.at], first
                assert isinstance(error.__cause__, MemoryError) or "MemoryError" in str(error.__cause__), error

    def run(self):
        if self.victim == "parent":
            signal.signal(signal.SIGUSR1, self.out_of_memory)
            thread = threading.Thread(target=self.happen_to_the_parent, args=(threading.get_ident(),), daemon=True)
            thread.start()
        logging.getLogger("lazyseq").addHandler(log)
        before = len(os.listdir("/proc/self/fd"))
        errors = self.read()
        self.judge(*errors)
        assert not self.ends_parent
        if self.victim == "parent" and self.spoils_source:
            self.wait_for("refused")
        del errors
        gc.collect()
        gone = time.monotonic() + GONE_SECONDS  # nobody waits for workers that end because one could not start
        while multiprocessing.active_children() and time.monotonic() < gone:
            time.sleep(0.02)
        assert multiprocessing.active_children() == []
        assert len(os.listdir("/proc/self/fd")) <= before + 6, "descriptors are left"  # those of the fork server
        print("right")


class Log(logging.Handler):
    """Keeps what is said of workers."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())

    def has(self, words):
        return any(words in text for text in self.texts)


log = Log()  # no cell's own, since cells travel


class Written:
    """An array that something happens to while it is sent."""

    def __init__(self, cell, i):
        self.cell, self.i = cell, i

    def __reduce__(self):
        if self.cell.victim == "worker":
            self.cell.strike()
        else:
            self.cell.let_it_happen_to_the_parent()
        return numpy.full, (5000, self.i)


class Spoiled:
    """A result that cannot be sent or, if the fault is the reader's, loaded."""

    def __init__(self, cell):
        self.cell = cell

    def __reduce__(self):
        if self.cell.victim == "parent":
            return not_here, ()
        if self.cell.fault == "raises in __reduce__":
            raise ValueError("not today")
        # The array comes first: memory for it has been taken by then.
        return tuple, ([numpy.zeros(10**5 if self.cell.phase == "writing" else 1), threading.Lock()],)


class SpoiledSource:
    """Numbers that cannot be pickled."""

    def __init__(self, cell):
        self.fault, self.lock = cell.fault, threading.Lock()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return i

    def __reduce__(self):
        if self.fault == "raises in __reduce__":
            raise ValueError("not today")
        return SpoiledSource, (self.lock,)


class LoadedSource:
    """Numbers that fail once to be loaded: in the first worker, or in the first substitute."""

    def __init__(self, cell):
        self.cell = cell

    def __len__(self):
        return N

    def __getitem__(self, i):
        return i

    def __reduce__(self):
        return loaded_source, (self.cell,)


def loaded_source(cell):
    if (cell.phase == "starting" or (cell.folder / "struck").exists()) and cell.once("not loaded"):
        not_here()
    return range(N)


def not_here():
    raise KeyError("not here")


# ---- The matrix -----------------------------------------------------------------------------------------------------


def state_of(stat):
    """(state, session) of a process, from its file in /proc; (None, None) if it has ended."""
    try:
        state, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
    except OSError:
        return None, None
    return (None, None) if state in "ZX" else (state, int(session))


def has_ended(pid):
    return state_of(Path(f"/proc/{pid}/stat")) == (None, None)


def processes_of(session):
    """The processes that the cell has started, itself included, that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        state, of = state_of(stat)
        if of == session:
            found.append((int(stat.parent.name), state))
    return found


def complaint(words):
    """What is wrong with a cell, or None."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as out:
        cell = Cell(*words, folder)
        command = [sys.executable, __file__, "--cell", folder, *words]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + SECONDS
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    out.seek(0)
                    return f"not over after {SECONDS} s; {processes_of(process.pid)}\n{out.read()}"
                if (process.pid, "T") in processes_of(process.pid):
                    time.sleep(0.2)
                    process.send_signal(signal.SIGCONT)
                time.sleep(0.02)
            gone = time.monotonic() + GONE_SECONDS
            while (left := processes_of(process.pid)) and time.monotonic() < gone:
                time.sleep(0.02)
            out.seek(0)
            text = out.read()
            expected = (0, "right\n")
            if cell.ends_parent:
                expected = ({"SIGKILL": -9, "SIGSEGV": -11}.get(cell.fault, 0), "")
            if (process.returncode, text) != expected:
                return f"exit code {process.returncode}\n{text}"
            return f"left {GONE_SECONDS} s after its end: {left}" if left else None
        finally:
            for pid, _ in processes_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4, help="how many run side by side")
    parser.add_argument("--cell", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help="of the cells to run")
    arguments = parser.parse_args()
    if arguments.cell:
        return Cell(*arguments.words, arguments.cell).run()
    cells = [cell for cell in itertools.product(METHODS, FAULTS, VICTIMS, PHASES) if {*arguments.words} <= {*cell}]
    shared, start, bad = {*os.listdir("/dev/shm")}, time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as executor:
        for cell, wrong in zip(cells, executor.map(complaint, cells), strict=True):
            if wrong is not None:
                bad += 1
                print(f"{', '.join(cell)}: {wrong}", flush=True)
    gone = time.monotonic() + 10
    while (left := {*os.listdir("/dev/shm")} - shared) and time.monotonic() < gone:
        time.sleep(0.1)  # it may be another program's
    if left:
        bad += 1
        print("left in /dev/shm:", left)
    print(f"{len(cells)} cells in {time.monotonic() - start:.0f} s, {bad} wrong")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
