# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The prefetch: a reader that runs ahead through workers, over the ring of _prefetch.c.

The reader publishes runs of consecutive indices; a worker claims a run, reads it from the source, and delivers a list
with an item, or a Failure, for each index. A run is one grain of the source, so that items which share an evaluation
are evaluated together, by one worker.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from ._core cimport UNKNOWN, Derived, View, pull, read, size_of, source_error
from ._prefetch cimport *

from _thread import allocate_lock

from . import _workers
from .errors import EvaluationError, seterr

cdef extern from *:
    """
    #ifdef _MSC_VER
    #define lzs_thread_local __declspec(thread)
    #else
    #define lzs_thread_local _Thread_local
    #endif
    /* The prefetch whose worker this thread is, NULL in other threads. */
    static lzs_thread_local void *working_for = NULL;
    """
    void *working_for

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef enum:
    SIGNAL_CHECK_MS = 100  # how long a reader waits before it looks for a Ctrl-C


@cython.final
cdef class Failure:
    """Stands for an item whose evaluation raised."""
    cdef object error

    def __init__(self, error):
        self.error = error


@cython.final
cdef class Engine:
    """What a prefetch and its workers share; it lives until the last of them lets go.

    Workers know the engine and never the prefetch, so that a prefetch which nobody else knows is collected, and ends
    them.

    Threads: the ring has its own protocol; `start_error` is set once, before the ring is closed, and read after
    that; the rest never changes.
    """
    cdef lzs_ring *ring
    cdef object source, start_hook, evaluation
    cdef object start_error  # what start_hook raised
    cdef void *prefetch  # an identity, never followed
    cdef list threads

    def __cinit__(self, source, Py_ssize_t nworkers, Py_ssize_t capacity, start_hook, evaluation):
        self.ring = lzs_ring_new(<uint32_t>nworkers, <uint64_t>capacity, 0)
        if self.ring == NULL:
            raise MemoryError(f"prefetch: no memory for max_buffered={capacity}")
        self.source, self.start_hook, self.evaluation = source, start_hook, evaluation

    def __dealloc__(self):
        cdef void *result
        if self.ring == NULL:
            return
        while lzs_ring_drop(self.ring, &result) == LZS_OK:
            if result != NULL:
                Py_DECREF(<object>result)
        lzs_ring_free(self.ring)

    def work(self, uint32_t worker):
        """What a worker's thread runs."""
        global working_for
        cdef lzs_claim claim
        cdef lzs_status status
        cdef object results
        cdef void *result
        working_for = self.prefetch
        seterr(self.evaluation)
        if self.start_hook is not None:
            try:
                _workers.run_hook(self.start_hook, worker)
            except BaseException as error:
                self.start_error = error
                lzs_ring_close(self.ring)
                return
        while True:
            status = lzs_ring_claim(self.ring, worker, &claim)
            if status == LZS_EMPTY:
                with nogil:
                    status = lzs_ring_claim_wait(self.ring, worker, &claim)
            if status == LZS_CLOSED:
                return
            try:
                results = self.evaluate(claim.run.index, claim.run.count)
            except BaseException as error:  # no memory for the list: the reader must hear of it all the same
                results = Failure(error)
            Py_INCREF(results)  # the ring's
            result = <void *>results
            if lzs_ring_wanted(self.ring, &claim):
                # The reader is about to wake and to want the GIL: if we kept it, it would fall asleep again.
                with nogil:
                    status = lzs_ring_deliver(self.ring, &claim, result)
            else:
                status = lzs_ring_deliver(self.ring, &claim, result)
            if status != LZS_OK:
                Py_DECREF(results)
            results = None  # not until the next item is done

    cdef list evaluate(self, Py_ssize_t start, Py_ssize_t count):
        """The run's results, by the source's iterator, which shares work among neighbours and goes on after errors."""
        cdef list results
        if count == 1 or not isinstance(self.source, View):
            return [self.evaluate_one(start + k) for k in range(count)]
        results = []
        iterator = (<View>self.source).iterate(start)
        while len(results) < count:
            try:
                results.append(next(iterator))
            except StopIteration:
                i = start + len(results)
                results.append(Failure(IndexError(f"prefetch index {i} is out of range: its source has ended")))
            except BaseException as error:
                results.append(Failure(error))
        return results

    cdef object evaluate_one(self, Py_ssize_t i):
        try:
            return read(self.source, i)
        except BaseException as error:  # also a SystemExit: it is the reader's to handle
            return Failure(error)

    cdef void close(self) noexcept:
        lzs_ring_close(self.ring)


@cython.final
cdef class Prefetch(Derived):
    """prefetch[i] = source[i], evaluated ahead by workers

    The window is the range of indices [position, tail) that is published, under way or ready. It moves with reads
    one after the other, skips what a read further on within it leaves out, and is given up by a read elsewhere.
    `held` are the results of the run that was taken last, for the indices from `held_start` on.

    Threads: `lock` guards the window and `engine`; it is held while the reader waits for an item, so that several
    threads take turns. `closed` is only ever set. `reader` is compared with the own thread only, and every thread
    writes none but its own number or 0 under the lock.
    """
    cdef readonly Py_ssize_t nworkers, max_buffered
    cdef object start_hook, evaluation
    cdef Engine engine  # None before the first read and after close
    cdef bint closed
    cdef object lock
    cdef unsigned long reader  # the thread that holds the lock, 0: none
    cdef Py_ssize_t position, tail
    cdef Py_ssize_t allowed  # how far the window may reach: all, but little after a read elsewhere
    cdef Py_ssize_t run_length  # the grain of the source
    cdef bint ended  # the source was seen to end within the window
    cdef list held
    cdef Py_ssize_t held_start

    def __init__(self, source, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation):
        self.nworkers, self.max_buffered, self.start_hook = nworkers, max_buffered, start_hook
        self.evaluation = evaluation
        self.lock = allocate_lock()
        self.adopt(source)
        self.shares = False  # items come one after the other

    def __del__(self):
        if self.engine is not None:
            self.engine.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the workers; may be called again, and while other threads read, who get a ValueError.

        A worker that is evaluating an item ends after it, and is not waited for.
        """
        _workers.join(self.dismiss())

    def dismiss(self):
        """Tell the workers to end, and return their threads."""
        cdef Engine engine = self.engine
        self.closed = True
        self.engine = None
        if engine is None:
            return []
        engine.close()
        return engine.threads

    def forget_workers(self):
        """In a forked child, where there are no threads but the one that forked: start anew at the next read."""
        self.engine = None
        self.lock = allocate_lock()
        self.reader = 0

    cdef object item(self, Py_ssize_t i):
        cdef list dropped = []  # results that nobody wants die after the lock is released: destructors may read
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef object result
        if self.closed:
            raise ValueError("prefetch is closed")
        if self.nworkers == 0 or working_for == <void *>self:
            # A worker that reads its own prefetch evaluates the item itself: everyone else may be waiting for it.
            return pull(self, i, self.source, i)
        if self.reader == me:
            raise RuntimeError(f"prefetch: item {i} is read, by a destructor or a signal handler, while the same "
                               "thread is reading another")
        self.lock.acquire()
        self.reader = me
        try:
            result = self.deliver(i, dropped)
        finally:
            self.reader = 0
            self.lock.release()
        if type(result) is Failure:
            raise source_error(self, i, self.source, i, (<Failure>result).error, self.evaluation)
        return result

    cdef object deliver(self, Py_ssize_t i, list dropped):
        """The item or its Failure."""
        cdef Engine engine = self.started_engine(i)
        cdef object result
        self.seek(engine, i, dropped)
        self.fill(engine)
        while self.held is None or i >= self.held_start + len(self.held):
            if i >= self.tail:  # the source is shorter than a moment ago
                return Failure(IndexError(f"prefetch index {i} is out of range"))
            self.take_run(engine, dropped)
        result = self.held[i - self.held_start]
        self.held[i - self.held_start] = None
        dropped.extend(self.held[self.position - self.held_start:i - self.held_start])
        if i + 1 == self.held_start + len(self.held):
            self.held = None
        self.position = i + 1
        if type(result) is Failure and size_of(self.source) == UNKNOWN:
            self.ended = isinstance((<Failure>result).error, IndexError)
        self.fill(engine)
        return result

    cdef Engine started_engine(self, Py_ssize_t first):
        """The engine, with its workers; the first read starts them."""
        cdef Engine engine = self.engine
        if self.closed:
            raise ValueError("prefetch is closed")
        if engine is None:
            engine = Engine(self.source, self.nworkers, self.max_buffered, self.start_hook, self.evaluation)
            engine.prefetch = <void *>self
            self.position = self.tail = first
            self.allowed, self.ended, self.held = self.max_buffered, False, None
            self.run_length = (<View>self.source).grain() if isinstance(self.source, View) else 1
            try:
                engine.threads = _workers.start_threads(engine.work, self.nworkers)
            except BaseException:
                engine.close()  # those that did start
                raise
            self.engine = engine
            _workers.started.add(self)
        return engine

    cdef int seek(self, Engine engine, Py_ssize_t i, list dropped) except -1:
        """Make i the next position; what the window then leaves out is dropped, and nothing is waited for."""
        cdef lzs_run run
        if i == self.position:
            self.allowed = min(2 * self.allowed, self.max_buffered)
            return 0
        if not self.position <= i < self.tail:
            # Little ahead until it shows that reading goes on from here: a single read elsewhere should cost little.
            self.allowed = min(self.nworkers, self.max_buffered)
            self.ended = False
            self.held = self.release(dropped)
            while self.drop_run(engine, dropped):
                pass
            self.position = self.tail = i
            return 0
        if self.held is not None and i >= self.held_start + len(self.held):
            self.held = self.release(dropped)
        if self.held is None:
            while lzs_ring_head(engine.ring, &run) == LZS_OK and run.index + run.count <= i:
                self.drop_run(engine, dropped)
            self.position = i if lzs_ring_head(engine.ring, &run) != LZS_OK else max(self.position, run.index)
        return 0

    cdef list release(self, list dropped):
        if self.held is not None:
            dropped.append(self.held)
        return None

    cdef bint drop_run(self, Engine engine, list dropped) except -1:
        """Take back the run at the head of the ring, if there is one."""
        cdef void *result
        if lzs_ring_drop(engine.ring, &result) != LZS_OK:
            return False
        if result != NULL:
            dropped.append(<object>result)
            Py_DECREF(<object>result)  # the ring's
        return True

    cdef int take_run(self, Engine engine, list dropped) except -1:
        """Wait for the run at the head of the ring, and hold its results."""
        cdef lzs_run run
        cdef lzs_status status
        cdef void *result
        lzs_ring_head(engine.ring, &run)
        while lzs_ring_take(engine.ring, &result) != LZS_OK:
            with nogil:
                status = lzs_ring_wait(engine.ring, SIGNAL_CHECK_MS)
            if self.closed:
                raise ValueError("prefetch is closed")
            if status == LZS_CLOSED:
                self.engine = None  # the next read tries again
                raise EvaluationError(f"start_hook failed in a worker of {self.label()} made at {self.site}",
                                      stage=self.stage) from engine.start_error
            PyErr_CheckSignals()
        results = <object>result
        Py_DECREF(results)  # the ring's
        self.held = [results] * run.count if type(results) is Failure else results
        self.held_start = run.index
        return 0

    cdef int fill(self, Engine engine) except -1:
        """Publish what the window has room for."""
        cdef Py_ssize_t count, n = size_of(self.source)
        cdef lzs_run run
        while not self.ended and (self.tail < n or n == UNKNOWN):
            count = self.run_length - self.tail % self.run_length
            if n != UNKNOWN:
                count = min(count, n - self.tail)
            if self.tail > self.position and self.ahead(self.tail + count) > self.allowed:
                break
            run.index, run.count = self.tail, count
            if lzs_ring_publish(engine.ring, run) != LZS_OK:
                break
            self.tail += count
        lzs_ring_flush(engine.ring)
        return 0

    cdef Py_ssize_t ahead(self, Py_ssize_t tail) noexcept:
        """What counts for max_buffered if the window ends at tail: items, or grains where one alone is more."""
        if self.run_length <= self.max_buffered:
            return tail - self.position
        return (tail - 1) // self.run_length - self.position // self.run_length + 1

    cdef str label(self):
        return f"prefetch({self.nworkers} thread{'' if self.nworkers == 1 else 's'})"

    def __reduce__(self):
        return Prefetch, (self.source, self.nworkers, self.max_buffered, self.start_hook, self.evaluation), self.site


max_workers = LZS_MAX_WORKERS
