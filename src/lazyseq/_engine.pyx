# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
"""The prefetch: readers that run ahead through workers, over the rings of _prefetch.c.

Each reader has a window of its own, with a ring; the workers are shared. The reader publishes runs of consecutive
indices; a worker claims a run, reads it from the window's source, and hands over a Run with an item, or a Failure, for
each index, or for a single index that item itself. A run is as many grains of the source as are worth a handover.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from ._core cimport UNKNOWN, Derived, View, gathered, pull, read, rebased, size_of, source_error
from ._prefetch cimport *

from threading import RLock
from time import perf_counter_ns

from . import _workers
from .errors import EvaluationError, seterr

cdef extern from *:
    """
    #ifdef _MSC_VER
    #define lzs_thread_local __declspec(thread)
    #else
    #define lzs_thread_local _Thread_local
    #endif
    /* The crew whose worker this thread is, NULL in other threads. */
    static lzs_thread_local void *working_for = NULL;
    """
    void *working_for

cdef extern from "Python.h":
    ctypedef void *PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T
    enum:
        PY_LOCK_ACQUIRED
    unsigned long PyThread_get_thread_ident()
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int wait) nogil
    int PyThread_acquire_lock_timed(PyThread_type_lock, PY_TIMEOUT_T us, int interruptible) nogil
    void PyThread_release_lock(PyThread_type_lock)

cdef enum:
    SIGNAL_CHECK_MS = 100  # how long a reader waits before it looks for a Ctrl-C
    IDLE_WINDOWS = 32  # how many windows of threads there may be before those of ended threads are looked for
    RUN_NS = 100_000  # cheap items are evaluated in runs of about this duration
    WAKE_NS = 20_000  # what follows sooner than this in a run is waited for before the reader is woken


@cython.final
cdef class Failure:
    """Stands for an item whose evaluation raised."""
    cdef object error

    def __init__(self, error):
        self.error = error


@cython.final
cdef class Run:
    """The results of a run, which its worker may still be adding to.

    Threads: the worker appends, then counts; the reader looks at what is counted. `unwanted` is only ever set.
    """
    cdef list results
    cdef lzs_progress progress
    cdef bint unwanted

    def __init__(self):
        self.results = []


@cython.final
cdef class Engine:
    """What readers and workers share; it lives until the last of them lets go.

    Workers know the engine and nobody else, so that a prefetch which nobody else knows is collected, and ends them.

    Threads: the rings have their own protocol; `windows` only grows, under the crew's lock; `start_error` is set once,
    before the rings are closed, and read after that; `item_ns` is an estimate, which may be lost or late; the rest never
    changes.
    """
    cdef lzs_crew *crew
    cdef object start_hook, evaluation
    cdef object start_error  # what start_hook raised
    cdef void *employer  # an identity, never followed
    cdef list windows  # by the number of their ring
    cdef list threads
    cdef long long item_ns  # how long an item took lately, in ns

    def __cinit__(self, Py_ssize_t nworkers, start_hook, evaluation):
        self.crew = lzs_crew_new(<uint32_t>nworkers, LOOKS if _workers.usable_cores() > 1 else 0)
        if self.crew == NULL:
            raise MemoryError(f"prefetch: no memory for {nworkers} workers")
        self.start_hook, self.evaluation = start_hook, evaluation
        self.windows = []
        self.item_ns = RUN_NS

    def __dealloc__(self):
        cdef uint32_t k = 0
        cdef void *result
        if self.crew == NULL:
            return
        while lzs_crew_ring(self.crew, k) != NULL:
            while lzs_ring_drop(lzs_crew_ring(self.crew, k), &result) == LZS_OK:
                if result != NULL:
                    Py_DECREF(<object>result)
            k += 1
        lzs_crew_free(self.crew)

    def work(self, uint32_t worker):
        """What a worker's thread runs."""
        global working_for
        cdef lzs_claim claim
        cdef lzs_status status
        working_for = self.employer
        seterr(self.evaluation)
        if self.start_hook is not None:
            try:
                _workers.run_hook(self.start_hook, worker)
            except BaseException as error:
                self.start_error = error
                lzs_crew_close(self.crew)
                return
        while True:
            status = lzs_crew_claim(self.crew, worker, &claim)
            if status == LZS_EMPTY:
                with nogil:
                    status = lzs_crew_claim_wait(self.crew, worker, &claim)
            if status == LZS_CLOSED:
                return
            source = (<Window>self.windows[claim.number]).current_source()
            if not lzs_ring_stands(&claim):
                continue  # the window has gone elsewhere, and this may be the source of its next reader
            if claim.run.count == 1:
                self.evaluate_alone(&claim, source)
            else:
                self.evaluate_run(&claim, source)
            source = None

    cdef int evaluate_alone(self, lzs_claim *claim, object source) except -1:
        cdef lzs_status status
        cdef long long start = perf_counter_ns()
        cdef object result = evaluated(source, claim.run.index)
        self.note(perf_counter_ns() - start, 1)
        Py_INCREF(result)  # the ring's
        if lzs_ring_wanted(claim):
            # The reader is about to wake and to want the GIL: if we kept it, it would fall asleep again.
            with nogil:
                status = lzs_ring_deliver(claim, <void *>result)
        else:
            status = lzs_ring_deliver(claim, <void *>result)
        if status != LZS_OK:
            Py_DECREF(result)
        return 0

    cdef int evaluate_run(self, lzs_claim *claim, object source) except -1:
        """Hand over the run at once, and add to it: a slow item holds up nobody who wants one before it."""
        cdef Run run = Run()
        cdef Py_ssize_t k, count = claim.run.count
        cdef long long start = perf_counter_ns()
        cdef bint wake
        cdef object result, iterator = None
        Py_INCREF(run)  # the ring's
        if lzs_ring_attach(claim, <void *>run) != LZS_OK:
            Py_DECREF(run)
            return 0
        for k in range(count):
            if run.unwanted:
                return 0
            if not isinstance(source, View):
                result = evaluated(source, claim.run.index + k)
            else:
                # The source's iterator shares work among neighbours, and goes on after errors.
                try:
                    if iterator is None:
                        iterator = (<View>source).iterate(claim.run.index)
                    result = next(iterator)
                except StopIteration:
                    result = Failure(IndexError(f"prefetch index {claim.run.index + k} is out of range: "
                                                "its source has ended"))
                except BaseException as error:
                    result = Failure(error)
            wake = k == count - 1 or self.item_ns * (count - 1 - k) > WAKE_NS
            run.results.append(result)
            if wake:
                with nogil:
                    lzs_progress_add(&run.progress, claim.ring, True)
                    lzs_ring_wake(claim)
            else:
                lzs_progress_add(&run.progress, claim.ring, False)
        self.note(perf_counter_ns() - start, count)
        return 0

    cdef int note(self, long long duration, Py_ssize_t count) except -1:
        """The estimate follows what becomes slower at once, and what becomes faster slowly."""
        cdef long long mean = duration // count
        self.item_ns = mean if mean > self.item_ns else (3 * self.item_ns + mean) // 4
        return 0


cdef object evaluated(object source, Py_ssize_t i):
    """The item or its Failure."""
    try:
        return read(source, i)
    except BaseException as error:  # also a SystemExit: it is the reader's to handle
        return Failure(error)


@cython.final
cdef class Window:
    """A reader's place: the range of indices [position, tail) that is published, under way or ready.

    It moves with reads one after the other, skips what a read further on within it leaves out, and is given up by a read
    elsewhere. `held` is the run that was taken last, from `held_start` to `held_stop`.

    Threads: `lock` guards all but the source, which changes in a critical section while the ring is empty; it is held
    while the reader waits for an item, so that threads that share an iterator take turns. `reader` is compared with the
    own thread only, and every thread writes none but its own number or 0 under the lock.
    """
    cdef lzs_ring *ring
    cdef object source
    cdef PyThread_type_lock lock
    cdef unsigned long reader  # the thread that holds the lock, 0: none
    cdef Py_ssize_t most  # how far the window may reach
    cdef Py_ssize_t allowed  # how far now: all, but little after a read elsewhere
    cdef Py_ssize_t grain  # the source's
    cdef Py_ssize_t position, tail
    cdef bint ended  # the source was seen to end within the window
    cdef Run held
    cdef Py_ssize_t held_start, held_stop
    cdef Py_ssize_t nworkers

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError("prefetch: no memory for a lock")

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int acquire(self, Py_ssize_t i) except -1:
        """Take the lock for a read of item i."""
        cdef int status
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.reader == me:
            raise RuntimeError(f"prefetch: item {i} is read, by a destructor or a signal handler, while the same "
                               "thread is reading another")
        if not PyThread_acquire_lock(self.lock, 0):
            status = not PY_LOCK_ACQUIRED
            while status != PY_LOCK_ACQUIRED:
                with nogil:
                    status = PyThread_acquire_lock_timed(self.lock, 1000 * SIGNAL_CHECK_MS, 0)
                if status != PY_LOCK_ACQUIRED:
                    PyErr_CheckSignals()
        self.reader = me
        return 0

    cdef void give_back(self) noexcept:
        self.reader = 0
        PyThread_release_lock(self.lock)

    cdef object current_source(self):
        with cython.critical_section(self):
            source = self.source
        return source

    cdef int open(self, object source, Py_ssize_t most, Py_ssize_t first) except -1:
        """Begin to read another source, from item `first` on."""
        with cython.critical_section(self):
            self.source = source
        self.most = self.allowed = most
        self.grain = (<View>source).grain() if isinstance(source, View) else 1
        self.position = self.tail = first
        self.ended, self.held = False, None
        return 0

    cdef int clear(self, list dropped) except -1:
        """Take everything back."""
        if self.held is not None:
            self.release(dropped)
        while self.drop_run(dropped):
            pass
        return 0

    cdef object deliver(self, Prefetch view, Engine engine, Py_ssize_t i, list dropped):
        """The item or its Failure."""
        cdef object result
        self.seek(i, dropped)
        self.fill(engine)
        while self.held is None or i >= self.held_stop:
            if i >= self.tail:  # the source is shorter than a moment ago
                return Failure(IndexError(f"prefetch index {i} is out of range"))
            if self.held is not None:
                self.release(dropped)
            result = self.take_run(view, engine)
            if result is not MISSING:  # a run of one
                self.position = i + 1
                break
        else:
            self.await_part(view, engine, i - self.held_start)
            result = self.held.results[i - self.held_start]
            self.held.results[i - self.held_start] = None
            self.position = i + 1
            if self.position == self.held_stop:
                self.held = None
        if type(result) is Failure and size_of(self.source) == UNKNOWN:
            self.ended = isinstance((<Failure>result).error, IndexError)
        self.fill(engine)
        return result

    cdef int seek(self, Py_ssize_t i, list dropped) except -1:
        """Make i the next position; what the window then leaves out is dropped, and nothing is waited for."""
        cdef lzs_run run
        if i == self.position:
            self.allowed = min(2 * self.allowed, self.most)
            return 0
        if not self.position <= i < self.tail:
            # Little ahead until it shows that reading goes on from here: a single read elsewhere should cost little.
            self.allowed = min(self.nworkers, self.most)
            self.ended = False
            self.clear(dropped)
            self.position = self.tail = i
            return 0
        if self.held is not None and i >= self.held_stop:
            self.release(dropped)
        if self.held is None:
            while lzs_ring_head(self.ring, &run) == LZS_OK and run.index + run.count <= i:
                self.drop_run(dropped)
            self.position = i if lzs_ring_head(self.ring, &run) != LZS_OK else max(self.position, run.index)
        return 0

    cdef int release(self, list dropped) except -1:
        self.held.unwanted = True
        dropped.append(self.held)
        self.held = None
        return 0

    cdef bint drop_run(self, list dropped) except -1:
        """Take back the run at the head of the ring, if there is one."""
        cdef void *result
        if lzs_ring_drop(self.ring, &result) != LZS_OK:
            return False
        if result != NULL:
            value = <object>result
            Py_DECREF(value)  # the ring's
            if type(value) is Run:
                (<Run>value).unwanted = True
            dropped.append(value)
        return True

    cdef object take_run(self, Prefetch view, Engine engine):
        """Wait for the run at the head of the ring, and hold it; the result of a run of one is returned, else MISSING."""
        cdef lzs_run run
        cdef lzs_status status
        cdef void *taken
        lzs_ring_head(self.ring, &run)
        while lzs_ring_take(self.ring, &taken) != LZS_OK:
            with nogil:
                status = lzs_ring_wait(self.ring, SIGNAL_CHECK_MS)
            view.look_up(engine, status)
        result = <object>taken
        Py_DECREF(result)  # the ring's
        if type(result) is not Run:
            return result
        self.held, self.held_start, self.held_stop = result, run.index, run.index + run.count
        return MISSING

    cdef int await_part(self, Prefetch view, Engine engine, Py_ssize_t k) except -1:
        """Wait until result k of the run that is held is there."""
        cdef lzs_status status
        while lzs_progress_done(&self.held.progress) <= k:
            with nogil:
                status = lzs_progress_wait(&self.held.progress, self.ring, k + 1, SIGNAL_CHECK_MS)
            view.look_up(engine, status)
        return 0

    cdef int fill(self, Engine engine) except -1:
        """Publish what the window has room for."""
        cdef Py_ssize_t count, n = size_of(self.source)
        cdef lzs_run run
        while not self.ended and (self.tail < n or n == UNKNOWN):
            count = self.grain - self.tail % self.grain
            if n != UNKNOWN:
                count = min(count, n - self.tail)
            if self.tail > self.position and self.ahead(self.tail + count) > self.allowed:
                break
            run.index, run.count = self.tail, count
            if lzs_ring_publish(self.ring, run) != LZS_OK:
                break
            self.tail += count
        lzs_ring_flush(self.ring)
        return 0

    cdef Py_ssize_t ahead(self, Py_ssize_t tail) noexcept:
        """What counts for max_buffered if the window ends at tail: items, or grains where one alone is more."""
        if self.grain <= self.most:
            return tail - self.position
        return (tail - 1) // self.grain - self.position // self.grain + 1


cdef object MISSING = object()


@cython.final
cdef class Crew:
    """The employer of workers: a prefetch and the slices of it share one. When nobody knows it any more, they end.

    Threads: `lock` guards the engine's coming and going, and the windows; `closed` is only ever set.
    """
    cdef Py_ssize_t nworkers, max_buffered
    cdef object start_hook, evaluation
    cdef Engine engine  # None before the first read and after close
    cdef bint closed
    cdef object lock  # reentrant: what runs under it allocates, and so may run destructors that read
    cdef list idle  # windows of the engine that nobody reads through
    cdef object __weakref__

    def __init__(self, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation):
        self.nworkers, self.max_buffered = nworkers, max_buffered
        self.start_hook, self.evaluation = start_hook, evaluation
        self.lock, self.idle = RLock(), []

    def __del__(self):
        if self.engine is not None:
            lzs_crew_close(self.engine.crew)

    def dismiss(self):
        """Tell the workers to end, and return their threads."""
        cdef Engine engine = self.engine
        self.closed = True
        self.engine = None
        if engine is None:
            return []
        lzs_crew_close(engine.crew)
        return engine.threads

    def forget_workers(self):
        """In a forked child, where there are no threads but the one that forked: start anew at the next read."""
        self.engine = None
        self.lock = RLock()

    cdef Engine started(self):
        """The engine, with its workers; the first read starts them."""
        cdef Engine engine = self.engine
        if engine is not None:
            return engine
        with self.lock:
            if self.closed:
                raise ValueError("prefetch is closed")
            if self.engine is not None:
                return self.engine
            engine = Engine(self.nworkers, self.start_hook, self.evaluation)
            engine.employer = <void *>self
            try:
                engine.threads = _workers.start_threads(engine.work, self.nworkers)
            except BaseException:
                lzs_crew_close(engine.crew)  # those that did start
                raise
            if self.engine is not None:  # a destructor has read meanwhile
                lzs_crew_close(engine.crew)
                return self.engine
            self.idle = []
            self.engine = engine
            _workers.started.add(self)
        return engine

    cdef Window window(self, Engine engine, object source, Py_ssize_t first):
        """A window on the source, or None where there are too many."""
        cdef Window window = None
        if self.engine is engine:
            try:
                window = self.idle.pop()
            except IndexError:
                pass
        if window is None:
            window = Window()
            window.nworkers = self.nworkers
            with self.lock:
                window.ring = lzs_ring_new(engine.crew, <uint64_t>self.max_buffered, 0)
                if window.ring == NULL:
                    return None
                engine.windows.append(window)
        window.open(source, self.max_buffered, first)
        return window

    cdef int retire(self, Engine engine, Window window) except -1:
        """Nobody reads through the window any more."""
        cdef list dropped = []
        window.clear(dropped)
        with cython.critical_section(window):
            dropped.append(window.source)
            window.source = None
        if self.engine is engine:
            self.idle.append(window)
        return 0


@cython.final
cdef class Prefetch(Derived):
    """prefetch[i] = source[i], evaluated ahead by workers

    Each thread that reads by index has a window, and each iterator.

    Threads: `windows` and `engine` change together in a critical section, and are used in one.
    """
    cdef Crew crew
    cdef Engine engine  # the one that the windows belong to
    cdef dict windows  # by thread

    def __init__(self, source, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation, Crew crew=None):
        self.crew = Crew(nworkers, max_buffered, start_hook, evaluation) if crew is None else crew
        self.adopt(source)
        self.shares = nworkers > 0

    def __del__(self):
        cdef Engine engine = self.engine
        if engine is not None and self.windows is not None:
            for window in self.windows.values():
                self.crew.retire(engine, window)

    @property
    def nworkers(self):
        return self.crew.nworkers

    @property
    def max_buffered(self):
        return self.crew.max_buffered

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the workers, which slices of the prefetch share.

        It may be called again, and while other threads read, who get a ValueError. A worker that is evaluating an item
        ends after it, and is not waited for.
        """
        _workers.join(self.crew.dismiss())

    cdef bint reads_directly(self) except -1:
        """Whether the reader evaluates items itself: there are no workers, or it is one that all others may wait for."""
        if self.crew.closed:
            raise ValueError("prefetch is closed")
        return self.crew.nworkers == 0 or working_for == <void *>self.crew

    cdef object item(self, Py_ssize_t i):
        cdef Engine engine
        cdef Window window
        if self.reads_directly():
            return pull(self, i, self.source, i)
        engine = self.crew.started()
        window = self.own_window(engine, i)
        return pull(self, i, self.source, i) if window is None else self.read_through(engine, window, i, i)

    cdef Window own_window(self, Engine engine, Py_ssize_t first):
        """The window of this thread, or None where there are too many."""
        cdef object me = PyThread_get_thread_ident()
        cdef Window window = None
        with cython.critical_section(self):
            if self.engine is engine:
                window = self.windows.get(me)
        if window is not None:
            return window
        window = self.crew.window(engine, self.source, first)
        if window is None:
            return None
        with cython.critical_section(self):
            if self.engine is not engine:
                self.engine, self.windows = engine, {}
            windows = self.windows
        windows[me] = window
        if len(windows) > IDLE_WINDOWS:
            for ident in set(list(windows)) - _workers.living_threads():
                window_of_the_dead = windows.pop(ident, None)
                if window_of_the_dead is not None:
                    self.crew.retire(engine, window_of_the_dead)
        return window

    cdef object read_through(self, Engine engine, Window window, Py_ssize_t i, Py_ssize_t j):
        """Item i of the prefetch, which is item j of the window's source."""
        cdef list dropped = []  # results that nobody wants die after the lock is released: destructors may read
        cdef object result
        window.acquire(i)
        try:
            result = window.deliver(self, engine, j, dropped)
        finally:
            window.give_back()
        if type(result) is Failure:
            raise source_error(self, i, self.source, i, (<Failure>result).error, self.crew.evaluation)
        return result

    cdef int look_up(self, Engine engine, lzs_status status) except -1:
        """After a wait: whether it makes sense to go on waiting."""
        if self.crew.closed:
            raise ValueError("prefetch is closed")
        if status == LZS_CLOSED:
            if self.crew.engine is engine:
                self.crew.engine = None  # the next read tries again
            raise EvaluationError(f"start_hook failed in a worker of {self.label()} made at {self.site}",
                                  stage=self.stage) from engine.start_error
        PyErr_CheckSignals()
        return 0

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        """Neighbours through the thread's own window, which goes on ahead; others through a window of their own."""
        cdef Py_ssize_t k
        cdef Engine engine
        cdef Window window = None
        if not self.reads_directly() and any([indices[k] != indices[0] + k for k in range(n)]):
            engine = self.crew.started()
            source = gathered(self.source, [indices[k] for k in range(n)])
            window = self.crew.window(engine, source, 0)
        if window is None:
            return [self.item(indices[k]) for k in range(n)]
        try:
            return [self.read_through(engine, window, indices[k], k) for k in range(n)]
        finally:
            self.crew.retire(engine, window)

    cdef View of_part(self, View part):
        """A part of a prefetch is a prefetch of the part, by the same workers."""
        if self.crew.nworkers == 0:
            return part
        return Prefetch(rebased(part, self.source), self.crew.nworkers, self.crew.max_buffered, self.crew.start_hook,
                        self.crew.evaluation, self.crew)

    cdef object iterate(self, Py_ssize_t start):
        return PrefetchIterator(self, start)

    cdef str label(self):
        return f"prefetch({self.crew.nworkers} thread{'' if self.crew.nworkers == 1 else 's'})"

    def __reduce__(self):
        crew = self.crew
        return Prefetch, (self.source, crew.nworkers, crew.max_buffered, crew.start_hook, crew.evaluation), self.site


@cython.final
cdef class PrefetchIterator:
    """The items of a prefetch, through a window of its own."""
    cdef Prefetch view
    cdef Py_ssize_t i
    cdef Engine engine
    cdef Window window

    def __init__(self, Prefetch view, Py_ssize_t start):
        self.view, self.i = view, start

    def __iter__(self):
        return self

    def __next__(self):
        cdef Prefetch view = self.view
        cdef Py_ssize_t i = self.i, n
        if view is None:
            raise StopIteration
        n = view.size()
        if i < n or n == UNKNOWN:
            self.i = i + 1
            try:
                return self.read(view, i)
            except IndexError:
                if n != UNKNOWN:
                    raise
        self.retire()
        self.view = None
        raise StopIteration

    cdef object read(self, Prefetch view, Py_ssize_t i):
        cdef Window window = self.window
        if view.reads_directly():
            return pull(view, i, view.source, i)
        if window is None or self.engine is not view.crew.engine:
            self.engine = view.crew.started()  # the first read, or another engine than before
            self.window = window = view.crew.window(self.engine, view.source, i)
            if window is None:
                return view.item(i)
        return view.read_through(self.engine, window, i, i)

    cdef int retire(self) except -1:
        cdef Window window = self.window
        self.window = None
        if window is not None:
            self.view.crew.retire(self.engine, window)
        return 0

    def __del__(self):
        self.retire()


max_workers = LZS_MAX_WORKERS
