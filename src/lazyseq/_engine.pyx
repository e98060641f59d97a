# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The prefetch: readers that run ahead through workers, over the rings of _prefetch.c.

Each reader has a window of its own, with a ring; the workers are shared. The reader publishes runs of consecutive
indices; a worker claims a run, hands over an empty Run at once, and adds an item, or a Failure, for each index. So a
slow item holds up nobody who wants one before it, and a reader that goes elsewhere leaves a run behind, not a worker.

What a handover costs: to wake a thread takes 5 to 50 us, to take the GIL from one that computes as long. So the cost
of an item, measured as they are evaluated, decides how many make a run, when the reader publishes the next and when it
is woken. Items of which a whole window costs less than a wake-up are evaluated run by run, reader and worker in turn:
who waits looks for some microseconds before it sleeps, and neither wants the GIL while the other has it.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset
from ._core cimport (
    UNKNOWN, Derived, Guard, Raised, View, gathered, grain_of, lzs_lock, lzs_section, lzs_unlock, note_reader, owned,
    pull, read, rebased, size_of, source_error, stage_error
)
from ._prefetch cimport *
from ._transfer cimport Arena, Message, forks, keep_last

from collections import deque
from threading import RLock, current_thread, local
from time import monotonic_ns, perf_counter_ns
from weakref import ref

from . import _processes, _workers
from ._transfer import usable_memory
from .errors import EvaluationError, WorkerDiedError, seterr

cdef extern from *:
    """
    #ifdef _MSC_VER
    #define lzs_thread_local __declspec(thread)
    #else
    #define lzs_thread_local _Thread_local
    #endif
    /* The crew whose worker this thread is, NULL in other threads. */
    static lzs_thread_local void *working_for = NULL;
    static lzs_thread_local int works_alone = 0; /* as its only one */
    /* A number that no other thread ever has (identifiers come again), 0: it has none yet; and how many are given. */
    static lzs_thread_local long long own_number = 0;
    static long long numbers = 0;

    /* Numbers that one thread writes and others may read late. */
    #if defined(_MSC_VER)
    #define lzs_load(p) (*(volatile long long *)(p))
    #define lzs_join(p, bit) _InterlockedOr64(p, bit)
    #define lzs_add(p, n) _InterlockedExchangeAdd64(p, n)
    #define lzs_store(p, v) (*(volatile long long *)(p) = (v))
    #else
    #define lzs_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
    #define lzs_join(p, bit) __atomic_fetch_or(p, bit, __ATOMIC_ACQ_REL)
    #define lzs_add(p, n) __atomic_fetch_add(p, n, __ATOMIC_RELAXED)
    #define lzs_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
    #endif

    /* Put a value into a list that one thread uses at a time, and return what was there. */
    static PyObject *exchange_item(PyObject *list, Py_ssize_t k, PyObject *value)
    {
        PyObject *before = PyList_GET_ITEM(list, k);
        PyList_SET_ITEM(list, k, Py_NewRef(value));
        return before;
    }

    #ifdef _WIN32
    /* There are no worker processes. */
    static void lzs_end_after(int descriptor) { (void)descriptor; }
    static void lzs_do_as_before_a_fork(void) {}
    #else
    #include <errno.h>
    #include <poll.h>
    #include <signal.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void lzs_end_after(int descriptor)
    {
        struct pollfd handle = {descriptor, POLLIN, 0};
        while (poll(&handle, 1, -1) < 0 && errno == EINTR)
            ;
        _exit(1);
    }
    static void lzs_do_as_before_a_fork(void)
    {
        /* The program's own handler is not told of this child, and where it ignores all of its own, we can wait. */
        struct sigaction handler, none = {.sa_handler = SIG_DFL};
        pid_t child;
        sigaction(SIGCHLD, &none, &handler);
        child = fork();
        if (child == 0)
            _exit(0);
        while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        sigaction(SIGCHLD, &handler, NULL);
    }
    #endif
    """
    void *working_for
    int works_alone
    long long own_number, numbers
    long long lzs_load(long long *p) noexcept
    long long lzs_join(long long *p, long long bit) noexcept nogil
    long long lzs_add(long long *p, long long n) noexcept
    void lzs_store(long long *p, long long value) noexcept
    object exchange_item(list items, Py_ssize_t k, object value)
    PyObject *exchanged_item "exchange_item" (PyObject *items, Py_ssize_t k, PyObject *value) noexcept
    void lzs_end_after(int descriptor) noexcept nogil
    void lzs_do_as_before_a_fork() noexcept

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

cdef struct run_state:
    # What the worker and the reader of a run tell each other, perhaps from process to process.
    # Threads: `unwanted`, `slow` and `overdue` are set once, by whoever gives the run up, and may be seen late; `cut`
    # by the worker, before its last count.
    lzs_progress progress  # first: the ring knows the run by it
    long long unwanted
    long long slow  # the reader has waited for long: the worker is to leave the rest to others
    long long cut  # the index where it did, or where it died, plus 1; 0: it did not
    long long overdue  # which of its items took longer than allowed, plus 1; 0: none

cdef enum:
    DEATH_CHECK_MS = 5  # how long a reader waits before it looks whether its worker processes live
    SIGNAL_CHECK_MS = 100  # how long a reader waits before it looks for a Ctrl-C
    STALEMATE_MS = 20  # how long a worker of one prefetch waits for those of another to begin
    NOTICE_MS = 10  # how long a reader waits before it says so to its workers, who may be waiting for it
    PATIENCE_MS = 1  # how long a reader waits for more items than it needs
    LOOKS = 24  # how often who waits looks again before it sleeps: 2 us or so
    LOOKS_IN_TURN = 400  # the same, where reader and worker evaluate in turn: longer than a wake-up takes
    RUN_NS = 200_000  # a run of threads
    PROCESS_RUN_NS = 400_000  # one of processes: more, since what follows it costs more
    TRIVIAL_NS = 250  # nothing that costs less can do anything beside its reader
    STOPPED_NS = 1_000_000_000  # how long a worker may leave a run to itself, at least, if there is a timeout
    WAKE_NS = 20_000  # what a wake-up costs: nobody is woken for less work


@cython.final
cdef class Failure:
    """Stands for an item whose evaluation raised, or took too long, which is no error of its stages."""
    cdef object error
    cdef bint is_timeout

    def __init__(self, error, bint is_timeout=False):
        self.error, self.is_timeout = error, is_timeout

    def __reduce__(self):
        return failure_from, (_processes.dump_error(self.error),)


@cython.final
cdef class Run:
    """The results of consecutive items from `start` on, to which their worker may still be adding.

    Threads: the worker writes a result, then counts it; the reader takes what is counted. What else they tell each
    other is in `state`, see there.
    """
    cdef Py_ssize_t start, stop
    cdef Py_ssize_t next  # which item is to be taken next, where all are taken in turn
    cdef list results
    cdef run_state *state
    cdef run_state own_state
    cdef Parcel parcel  # where the results come from, if a process sends them; then they are unpacked when wanted

    def __init__(self, Py_ssize_t start, Py_ssize_t count, Parcel parcel=None):
        self.start, self.stop, self.next = start, start + count, start
        self.results = [None] * count
        self.parcel = parcel
        self.state = &self.own_state if parcel is None else &parcel.record.state
        self.own_state.progress.owner = <void *>self

    cdef bint has(self, Py_ssize_t i) noexcept:
        return lzs_progress_done(&self.state.progress) > i - self.start

    cdef object take(self, Py_ssize_t i):
        if self.parcel is not None:
            self.parcel.unpack(self.results, i - self.start)
        self.next = i + 1
        return exchange_item(self.results, i - self.start, None)

    cdef int give_up(self, list dropped) except -1:
        """Nobody will take what is left. It is taken out of the run, which an idle worker may know for long.

        What is not counted yet, its worker drops: one that counts the last item asks after that whether it is wanted,
        and both by a change of `unwanted`. So either it sees ours, or we see what it had counted before.
        """
        cdef Py_ssize_t k, n
        lzs_join(&self.state.unwanted, 1)
        n = min(self.stop - self.start, <Py_ssize_t>lzs_progress_done(&self.state.progress))
        if self.parcel is None:
            for k in range(n):
                dropped.append(exchange_item(self.results, k, None))
        return 0


@cython.final
cdef class Shift:
    """A thread's time as a worker of a prefetch with a timeout.

    Threads: everything is read and written in critical sections.
    """
    cdef uint32_t worker
    cdef long long began  # when it began the item that it evaluates, in ns; 0: none
    cdef Run run
    cdef Py_ssize_t part
    cdef bint over  # an item took too long, and another thread works in this one's place
    cdef bint vacant  # there is no thread yet

    def __init__(self, uint32_t worker):
        self.worker = worker

    cdef int begin(self, Run run, Py_ssize_t part) except -1:
        now = monotonic_ns()
        with cython.critical_section(self):
            self.began, self.run, self.part = now, run, part
        return 0

    cdef object end(self, object result, long long timeout_ns):
        """The result, or its Failure if it took too long and nobody has waited; MISSING if that is no longer wanted."""
        now = monotonic_ns()
        with cython.critical_section(self):
            late, over = now - self.began > timeout_ns, self.over
            self.began, self.run = 0, None
        return MISSING if over else Failure(None, True) if late else result

    cdef bint needs_substitute(self, long long timeout_ns) except -1:
        """Whether another thread should work in its place: an item that takes too long ends the shift."""
        now = monotonic_ns()
        with cython.critical_section(self):
            if not self.over and self.began and now - self.began > timeout_ns:
                self.over = True
                lzs_store(&self.run.state.overdue, self.part + 1)
            needs = self.over or self.vacant
        return needs


cdef struct board:
    # What reader and worker processes share beside the crew: first this, then a desk for each worker, then the crew.
    long long item_ns  # Engine.item_ns
    long long hook_error  # a message: what start_hook has raised; 0: nothing
    long long nworkers
    long long watched  # there is a timeout
    long long sent  # how often workers have counted what they sent
    long long singly  # each item has a message of its own
    long long started  # how many workers have come as far as to claim runs
    long long padding[1]  # all begins on a cache line


cdef struct desk:
    # What a worker does, for the reader to see when it has died, or takes too long.
    long long record  # of the run that it evaluates; 0: none
    long long part  # -1: none so far, or several that it sends
    long long step  # if there is a timeout, when it began the part, or to be idle, in ns; 0: it is starting
    long long padding[5]


cdef inline board *board_of(Arena arena) noexcept:
    return <board *>(arena.base + arena.common)


cdef inline desk *desk_of(Arena arena, Py_ssize_t worker) noexcept:
    return <desk *>(board_of(arena) + 1) + worker


cdef inline lzs_crew *crew_of(Arena arena) noexcept:
    return <lzs_crew *>desk_of(arena, board_of(arena).nworkers)


cdef struct run_record:
    # A run on its way from one process to another: a block of the arena, of which the ring knows the offset.
    run_state state  # first, as for the ring
    int64_t start, count
    int64_t item  # the worker's number of the first
    long long ends  # which of reader and worker have let go; the second gives all back
    # Here follow `count` offsets: at that of its first part, each message; 0: there is none, or it is read.


cdef inline uint64_t sizeof_record(int64_t count) noexcept:
    return sizeof(run_record) + count * sizeof(uint64_t)


cdef inline uint64_t *messages_of(run_record *record) noexcept:
    return <uint64_t *>(record + 1)


cdef inline run_record *record_at(Arena arena, uint64_t offset) noexcept:
    return <run_record *>(arena.base + offset)


cdef inline Message *message_at(Arena arena, uint64_t offset) noexcept:
    return <Message *>(arena.base + offset)


cdef enum:
    BY_READER = 1
    BY_WORKER = 2


cdef int let_go(Arena arena, uint64_t offset, long long side) except -1:
    """Reader and worker each call this once about a record; the reader also for a worker that has died."""
    cdef run_record *record = record_at(arena, offset)
    cdef uint64_t *messages = messages_of(record)
    cdef int64_t k
    if lzs_join(&record.ends, side) == 0:
        return 0
    for k in range(record.count):
        if messages[k]:
            arena.drop(messages[k])
    arena.release(offset)
    return 0


@cython.final
cdef class Parcel:
    """What the reader knows of a run that a process evaluates."""
    cdef Arena arena
    cdef list guards  # the engine's
    cdef uint64_t offset
    cdef run_record *record
    cdef Py_ssize_t unpacked  # how many parts

    def __init__(self, ProcessEngine engine, uint64_t offset):
        self.arena, self.guards, self.offset = engine.arena, engine.guards, offset
        self.record = record_at(self.arena, offset)

    def __dealloc__(self):
        if self.arena is not None and self.arena.is_ours():
            let_go(self.arena, self.offset, BY_READER)

    cdef int unpack(self, list results, Py_ssize_t part) except -1:
        """Put the results into the list, up to this part at least, which is there."""
        cdef uint64_t message
        cdef Py_ssize_t k, n
        cdef list found, interruptions = []
        while self.unpacked <= part:
            message = messages_of(self.record)[self.unpacked]
            n = message_at(self.arena, message).count
            messages_of(self.record)[self.unpacked] = 0
            try:
                found = self.arena.read(message, interruptions)
            except BaseException as error:  # whatever a user's object does when it is made anew
                board_of(self.arena).singly = 1  # so that from now on it fails alone
                found = [Failure(_processes.not_receivable(n, error))] * n
            if len(found) > n:
                self.count(found, found.pop())
            for k in range(n):
                results[self.unpacked + k] = found[k]
            self.unpacked += n
        if interruptions:
            raise interruptions[0]
        return 0

    cdef int count(self, list results, list counts) except -1:
        """What guards in a worker have counted since its last message; a failure beyond a budget takes its result."""
        cdef Guard guard
        cdef Failure failure
        for guard, reads in zip(self.guards, counts[0]):
            guard.count_reads(reads)
        for k, number, i, failure in counts[1]:
            guard = self.guards[number]
            too_many = guard.note(i, failure.error)
            if too_many is not None:
                too_many.__cause__ = failure.error
                results[k] = Failure(too_many)
        return 0


cdef Run run_at(ProcessEngine engine, void *result):
    """The run whose progress was in the ring; threads have no such engine."""
    cdef Parcel parcel
    if engine is None:
        run = <Run>(<lzs_progress *>result).owner
        Py_DECREF(run)  # the ring's
        return run
    parcel = Parcel(engine, <uintptr_t>result)
    return Run(parcel.record.start, parcel.record.count, parcel)


@cython.final
cdef class Reading:
    """Items of a source by a worker, one after the other, or their Failures."""
    cdef object source, iterator
    cdef Py_ssize_t position

    def __init__(self, source, Py_ssize_t position):
        self.source, self.position = source, position

    cdef object next(self):
        cdef Py_ssize_t i = self.position
        self.position = i + 1
        # The source's iterator shares work among neighbours, and goes on after errors.
        try:
            if not isinstance(self.source, View):
                return read(self.source, i)
            if self.iterator is None:
                self.iterator = (<View>self.source).iterate(i)
            return next(self.iterator)
        except StopIteration as error:
            self.iterator = None
            if isinstance(self.source, View):
                error = IndexError(f"prefetch index {i} is out of range: its source has ended")
            return Failure(error)
        except BaseException as error:  # also a SystemExit: it is the reader's to handle
            return Failure(error)


cdef class Engine:
    """What readers and workers share; it lives until the last of them lets go.

    Workers know the engine and nobody else, so that a prefetch which nobody else knows is collected, and ends them.

    Threads: the rings have their own protocol; `windows` only grows, under the crew's lock; `workers` changes under
    `lock`; the estimate of an item's cost may lose a part; `over` is only ever set, as is `end`, before the rings are
    closed; the rest never changes.
    """
    cdef lzs_crew *crew
    cdef Arena arena  # None: the workers are threads
    cdef char *base  # what the ring's results are counted from: NULL in threads, where they are addresses
    cdef list windows  # weak references, by the number of their ring: a source may know its reader
    cdef list idle  # those that nobody reads through
    cdef list workers  # their threads or processes
    cdef object lock
    cdef object start_hook, evaluation
    cdef long long timeout_ns  # 0: none
    cdef long long *item_ns  # how long an item took lately; 0: not known
    cdef long long run_ns  # items are evaluated in runs of about this duration, if they are cheaper
    cdef Py_ssize_t max_buffered
    cdef bint may_look  # there are several processors
    cdef long long over  # nobody reads through it any more
    cdef object end  # the error because of which reading has ended for good, pickled, or None
    cdef unsigned forks

    def __cinit__(self):
        self.forks = forks()
        self.may_look = _workers.usable_cores() > 1
        self.windows, self.idle, self.workers, self.lock = [], [], [], RLock()

    cdef int prepare(self, Py_ssize_t max_buffered, start_hook, evaluation, long long timeout_ns) except -1:
        self.max_buffered, self.timeout_ns = max_buffered, timeout_ns
        self.start_hook, self.evaluation = start_hook, evaluation
        return 0

    cdef bint is_over(self) noexcept:
        """Whether its results go with it: a forked child must not look, as workers were caught in a write."""
        return lzs_load(&self.over) or self.forks != forks()

    cdef int start_all(self) except -1:
        """Start the workers."""
        raise NotImplementedError

    def start(self, Py_ssize_t worker):
        """Start the thread or process that works as this worker, or takes its place."""
        raise NotImplementedError

    cdef list dismiss(self):
        """Tell the workers to end, and return them; the last ones may be starting, and are appended meanwhile."""
        lzs_crew_close(self.crew)
        return self.workers

    cdef lzs_progress *progress_at(self, void *result) noexcept nogil:
        return <lzs_progress *>(self.base + <uintptr_t>result)

    cdef object start_error(self):
        """What start_hook has raised, if the workers ended because of it."""
        raise NotImplementedError

    cdef int start_missing(self) except -1:
        """What a reader does who has waited in vain for a while, before it looks after the workers."""
        return 0

    cdef int look_after_workers(self, long long since) except -1:
        """What a reader does after a wait; if for a run that nobody has begun, it waits since then."""
        raise NotImplementedError

    cdef bint in_turn(self, Py_ssize_t n) noexcept:
        """Whether reader and worker should evaluate in turn."""
        raise NotImplementedError

    cdef int make_room(self, Py_ssize_t ring) except -1:
        """Have memory for the ring of this number."""
        return 0

    cdef int wait_ms(self) noexcept:
        """How long to sleep before a look around."""
        if self.timeout_ns:
            return <int>min(SIGNAL_CHECK_MS, 1 + self.timeout_ns // 4_000_000)
        return SIGNAL_CHECK_MS


cdef inline long long updated(long long item_ns, long long mean) noexcept:
    """What an item costs, after a run whose items took `mean`.

    More is believed slowly: anybody may be put to sleep at any moment, and a reader that waits says so itself. Less is
    believed soon: the first items always take long.
    """
    if item_ns == 0:
        return max(1, mean)
    if mean < item_ns:
        return max(1, (item_ns + 3 * mean) // 4)
    return min(2 * item_ns, (3 * item_ns + mean) // 4)


@cython.final
cdef class ThreadEngine(Engine):
    """The engine of threads: a result in the ring is the progress of its Run.

    Threads: `shifts` and `workers` change under `lock`; `hook_error` is set once, under it and before the rings are
    closed, and read after that; `too_few` is a hint, and who follows it looks again under `lock`.
    """
    cdef object hook_error  # what start_hook raised
    cdef void *employer  # an identity, never followed
    cdef list shifts  # with a timeout, by worker
    cdef long long too_few  # a worker may be missing that no other is about to start: a reader that waits does
    cdef long long own_item_ns

    def __init__(self, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation, long long timeout_ns):
        self.prepare(max_buffered, start_hook, evaluation, timeout_ns)
        self.item_ns, self.run_ns = &self.own_item_ns, RUN_NS
        self.shifts = [Shift(k) if timeout_ns else None for k in range(nworkers)]
        self.crew = lzs_crew_new(<uint32_t>nworkers, LOOKS if self.may_look else 0)
        if self.crew == NULL:
            raise MemoryError(f"prefetch: no memory for {nworkers} workers")

    def __dealloc__(self):
        cdef uint32_t k = 0
        cdef void *result
        if self.crew == NULL:
            return
        while lzs_crew_ring(self.crew, k) != NULL:
            while lzs_ring_drop(lzs_crew_ring(self.crew, k), &result) == LZS_OK:
                if result != NULL:
                    run_at(None, result)
            k += 1
        lzs_crew_free(self.crew)

    cdef int start_all(self) except -1:
        """Start the first worker: a start takes as long as many items, so the first item does not wait for the others.

        The first worker starts the second one when it has claimed a second run, or a reader that waits does, if the
        first item takes long. Each of the others starts the next one before anything else. With a start_hook, so does
        the first: a thread inherits its niceness, affinity and signal mask from the one that starts it, and what a hook
        does to them should be its own worker's.
        """
        self.start_next()
        lzs_store(&self.too_few, 1)
        return 0

    cdef int start_next(self) except -1:
        """Start the next worker, if there is one to come and the engine is in use."""
        lzs_store(&self.too_few, 0)
        try:
            with self.lock:
                if not lzs_crew_closed(self.crew) and len(self.workers) < len(self.shifts):
                    self.start(len(self.workers))
        except BaseException:
            lzs_store(&self.too_few, 1)
            raise
        return 0

    cdef int pass_on(self) noexcept:
        """What a worker does to start the next one: if it cannot, the error is for a reader, who tries again."""
        try:
            self.start_next()
        except BaseException:
            pass
        return 0

    cdef int wait_ms(self) noexcept:
        """Not long while a worker may be missing."""
        return PATIENCE_MS if lzs_load(&self.too_few) else Engine.wait_ms(self)

    cdef int start_missing(self) except -1:
        return self.start_next() if lzs_load(&self.too_few) else 0

    def start(self, Py_ssize_t worker):
        """Under `lock`."""
        thread = _workers.start_thread(self.work, worker)
        if worker < len(self.workers):
            self.workers[worker] = thread
        else:
            self.workers.append(thread)

    cdef object start_error(self):
        return self.hook_error

    def work(self, uint32_t worker):
        """What a worker's thread runs."""
        global working_for
        cdef lzs_claim claim
        cdef lzs_status status
        cdef lzs_progress *progress = NULL  # of the run whose last item is not counted yet
        cdef bint unwanted = False
        cdef Run run = None
        cdef Reading reading = None
        cdef Shift shift
        global works_alone
        with self.lock:
            if worker >= len(self.workers) or self.workers[worker] is not current_thread():
                return  # a Ctrl-C came before its starter had noted it, and another is started
            shift = self.shifts[worker]
        working_for, works_alone = self.employer, len(self.shifts) == 1
        seterr(self.evaluation)
        if worker > 0 or self.start_hook is not None:
            self.pass_on()
        if lzs_crew_closed(self.crew):
            return
        if self.start_hook is not None:
            try:
                _workers.run_hook(self.start_hook, worker)
            except BaseException as error:
                with self.lock:
                    if self.hook_error is None:
                        self.hook_error = error
                lzs_crew_close(self.crew)
                return
        while True:
            # The reader that is woken here wants the GIL: who kept it for the next claim would put it to sleep again.
            with nogil:
                if progress != NULL:
                    lzs_progress_add(progress, claim.ring, 1, True)
                    lzs_ring_wake(&claim)
                    unwanted = lzs_join(&run.state.unwanted, 0) != 0  # see Run.give_up
                if not unwanted:
                    status = lzs_crew_claim_wait(self.crew, worker, &claim)
            if unwanted:
                run, progress, unwanted = None, NULL, False
                continue
            if status == LZS_CLOSED:
                return
            if run is not None and lzs_load(&self.too_few):
                self.pass_on()
            run, progress = None, NULL
            window = self.windows[claim.number]()
            if window is None:
                continue  # nobody reads there any more
            reading = (<Window>window).take_reading(claim.run.index)
            if not lzs_ring_stands(&claim):
                continue  # the window has gone elsewhere, and this may be the source of its next reader
            run = self.evaluate(&claim, reading, shift)
            if run is not None:
                progress = &run.state.progress
                if works_alone:
                    (<Window>window).leave_reading(reading)
            elif shift is not None and shift.over:
                return
            window = reading = None  # the source may know the prefetch, and who waits for work must not keep that alive

    cdef Run evaluate(self, lzs_claim *claim, Reading reading, Shift shift):
        """Hand over a run and evaluate its items; the caller counts the last. None: it is not wanted any more."""
        cdef Run run = Run(claim.run.index, claim.run.count)
        cdef Py_ssize_t i
        cdef long long start = perf_counter_ns(), paused, item_ns = lzs_load(self.item_ns)
        cdef bint in_turn = self.in_turn(run.stop - run.start)
        cdef object result
        Py_INCREF(run)  # the ring's
        if lzs_ring_attach(claim, &run.state.progress) != LZS_OK:
            Py_DECREF(run)
            return None
        for i in range(run.start, run.stop):
            if lzs_load(&run.state.unwanted):
                return None
            if shift is not None:
                shift.begin(run, i - run.start)
            result = reading.next()
            if shift is not None:
                result = shift.end(result, self.timeout_ns)
                if result is MISSING:
                    return None
            exchange_item(run.results, i - run.start, result)
            result = None
            if i == run.stop - 1:
                break
            if lzs_load(&run.state.slow) and (i + 1) % grain_of(reading.source) == 0:
                lzs_store(&run.state.cut, i + 2)
                break
            if in_turn or item_ns * (run.stop - 1 - i) <= WAKE_NS:
                lzs_progress_add(&run.state.progress, claim.ring, 1, False)
            elif lzs_progress_wanted(&run.state.progress) or lzs_ring_wanted(claim):
                paused = perf_counter_ns()
                with nogil:  # see work()
                    lzs_progress_add(&run.state.progress, claim.ring, 1, True)
                    lzs_ring_wake(claim)
                start += perf_counter_ns() - paused  # others had the GIL
            else:
                lzs_progress_add(&run.state.progress, claim.ring, 1, True)
                lzs_ring_wake(claim)
        lzs_store(self.item_ns, updated(lzs_load(self.item_ns), (perf_counter_ns() - start) // (i + 1 - run.start)))
        if self.may_look:
            lzs_crew_look(self.crew, LOOKS_IN_TURN if self.in_turn(self.max_buffered) else LOOKS)
        return run

    cdef bint in_turn(self, Py_ssize_t n) noexcept:
        """n items cost less than a wake-up, or one next to nothing."""
        cdef long long item_ns = lzs_load(self.item_ns)
        return item_ns != 0 and (item_ns <= TRIVIAL_NS or item_ns * n <= WAKE_NS)

    cdef int look_after_workers(self, long long since) except -1:
        """Workers whose item takes longer than allowed get substitutes; their threads end with their items."""
        cdef Shift shift, substitute
        if self.timeout_ns == 0:
            return 0
        for shift in self.shifts:
            if shift.needs_substitute(self.timeout_ns):
                with self.lock:
                    if self.shifts[shift.worker] is not shift or not shift.needs_substitute(self.timeout_ns):
                        continue  # another reader has seen to it
                    self.workers[shift.worker].abandoned = True
                    self.shifts[shift.worker] = substitute = Shift(shift.worker)
                    substitute.vacant = True
                    self.start(shift.worker)  # which may fail, and is tried again then
                    with cython.critical_section(substitute):
                        substitute.vacant = False
        return 0


@cython.final
cdef class ProcessEngine(Engine):
    """The engine of processes: a result in the ring is the offset of a run_record in an arena.

    The workers have the source as it was when they started. A window on a part of it tells them the items by number.
    """
    cdef object context, recipe
    cdef list guards  # those of the source, by the number that the workers have for them
    cdef object refusal  # what start_hook raised in a worker
    cdef dict deaths  # how many workers an item has ended; 0: perhaps one
    cdef dict given_up  # the errors of items that have ended too many, pickled: each who raises one adds to it
    cdef long long sent  # how many messages there were at the last death
    cdef long long fruitless  # how many workers have died of nothing since one sent or an item was given up

    def __init__(self, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation, long long timeout_ns,
                 source, context, shm_size):
        cdef uint64_t ring = lzs_ring_size(<uint64_t>max_buffered)
        # One ring at least, and no more than an address space is sure to have room for.
        cdef uint64_t rings = max(1, min(LZS_MAX_RINGS, 2**30 // ring)) * ring
        cdef uint64_t size = lzs_crew_size(<uint32_t>nworkers) + rings
        self.prepare(max_buffered, start_hook, evaluation, timeout_ns)
        if context is None:
            from multiprocessing import get_context  # as late as in prefetch()

            context = get_context()
        self.context, self.deaths, self.given_up = context, {}, {}
        self.guards = guards_of(source)
        self.recipe = _processes.recipe(context, source, start_hook, self.guards)
        self.arena = Arena(<uint32_t>nworkers, sizeof(board) + nworkers * sizeof(desk) + size,
                           usable_memory() // 4 if shm_size is None else shm_size, rings)
        self.base = self.arena.base
        self.item_ns, self.run_ns = &board_of(self.arena).item_ns, PROCESS_RUN_NS
        board_of(self.arena).nworkers, board_of(self.arena).watched = nworkers, timeout_ns != 0
        self.crew = lzs_crew_at(crew_of(self.arena), size, <uint32_t>nworkers, LOOKS if self.may_look else 0)
        if self.crew == NULL:
            raise MemoryError(f"prefetch: no memory for {nworkers} workers")

    cdef int start_all(self) except -1:
        cdef Py_ssize_t k
        for k in range(board_of(self.arena).nworkers):
            self.start(k)
        return 0

    def start(self, Py_ssize_t worker):
        with self.lock:
            process = _processes.start(self.context, worker, self.arena, self.evaluation, self.recipe)
            if worker < len(self.workers):
                self.workers[worker] = process
            else:
                self.workers.append(process)

    cdef object start_error(self):
        with self.lock:
            message = lzs_load(&board_of(self.arena).hook_error)
            if message and self.refusal is None:  # which can be read once
                self.refusal = (<Failure>self.arena.read(message)).error
        return self.refusal

    cdef int look_after_workers(self, long long since) except -1:
        """Workers that have died, or whose item takes too long, are replaced, and readers told what is lost."""
        cdef Py_ssize_t k
        cdef bint any_lost
        if lzs_crew_closed(self.crew):
            return 0
        with self.lock:
            any_lost = bool(_processes.ended(self.workers))
            for k in range(len(self.workers)):
                any_lost |= self.is_late(k, since)
        if any_lost:
            # An error in between could leave two workers with the memory of one.
            _workers.aside(lambda: self.replace_lost(since))
        return 0

    def replace_lost(self, long long since):
        cdef Py_ssize_t k
        cdef bint late
        with self.lock:
            for k in range(len(self.workers)):
                process = self.workers[k]
                late = process.is_alive() and self.is_late(k, since)
                if late:
                    self.end_late(k, process)
                if not process.is_alive() and not lzs_crew_closed(self.crew):
                    self.replace(k, process, late)

    cdef bint is_late(self, Py_ssize_t worker, long long since) except -1:
        """Whether its item takes too long, or it sleeps while a reader waits for a run to begin."""
        cdef desk *its = desk_of(self.arena, worker)
        cdef long long step = lzs_load(&its.step), now = monotonic_ns()
        if self.timeout_ns == 0 or now - step <= self.timeout_ns:
            return False
        if its.record == 0 and (since == 0 or now - max(since, step) <= max(self.timeout_ns, STOPPED_NS)):
            return False
        return step != 0 or _processes.is_stopped(self.workers[worker])  # 0: it is starting, which may take long

    cdef int end_late(self, Py_ssize_t worker, process) except -1:
        """End the process, and with it its item, unless that is finished just in time."""
        cdef desk *its = desk_of(self.arena, worker)
        cdef long long record = lzs_load(&its.record), step = lzs_load(&its.step)
        _processes.end(process)
        if its.record == record and its.step == step and self.part_of(its) >= 0:
            lzs_store(&record_at(self.arena, record).state.overdue, its.part + 1)
        return 0

    cdef int64_t part_of(self, desk *its) noexcept:
        """Which part of its run the worker was evaluating, or had not sent, when it ended; -1: none."""
        if its.record == 0 or its.part < lzs_progress_done(&record_at(self.arena, its.record).state.progress):
            return -1
        return its.part

    cdef int replace(self, Py_ssize_t worker, process, bint late) except -1:
        """Another process for one that has died: of its run, what it has not sent is to be published again."""
        cdef desk *its = desk_of(self.arena, worker)
        cdef run_record *record
        cdef long long offset = its.record
        cdef int64_t part, k
        cdef bint learnt = False
        error = _processes.died(process)
        if lzs_load(&board_of(self.arena).started) == 0 and not late:
            error.add_note("It died while it was starting; a message of its own, on stderr, may tell why.")
            if self.context.get_start_method() != "fork":
                error.add_note("A script may lack its if __name__ == '__main__': around what it does.")
            return self.end_with(error)
        if offset:
            record = record_at(self.arena, offset)
            part = lzs_load(&record.state.overdue) - 1 if late else self.part_of(its)
            if record.item >= 0 and part >= 0:
                error.index = record.item + part
            elif record.item >= 0:  # whichever it was will end the next worker alone
                for k in range(lzs_progress_done(&record.state.progress), record.count):
                    learnt |= record.item + k not in self.deaths
                    self.deaths.setdefault(record.item + k, 0)
            lzs_store(&record.state.cut, record.start + lzs_progress_done(&record.state.progress) + 1)
        if late:
            what = f"prefetch: worker process {process.pid} was ended: " + (
                f"it did nothing for {self.timeout_ns / 1e9} s" if error.index is None
                else f"item {error.index} took longer than {self.timeout_ns / 1e9} s")
        else:
            what = self.counted(error, learnt)
            if self.fruitless >= max(4, 2 * len(self.workers)):
                error.add_note(f"It was the last of {self.fruitless} that died and left nothing.")
                return self.end_with(error)
        memset(its, 0, sizeof(desk))
        lzs_crew_bury(self.crew, <uint32_t>worker)
        if offset:
            let_go(self.arena, offset, BY_WORKER)
        self.arena.reclaim(<uint32_t>worker)
        self.start(worker)
        _processes.log.warning("%s; another takes its place", what)
        return 0

    cdef str counted(self, error, bint learnt):
        """Count a death for its item, which is evaluated a second time and no third one; what is to be said of it."""
        if self.sent != lzs_load(&board_of(self.arena).sent):
            self.sent, self.fruitless = lzs_load(&board_of(self.arena).sent), 0
        if error.index is None:
            self.fruitless += not learnt
            return str(error)
        if error.index in self.given_up:  # since it began that
            return f"{error}; it was evaluating item {error.index}, which is given up"
        self.deaths[error.index] = error.attempts = self.deaths.get(error.index, 0) + 1
        if error.attempts == 1:
            return f"{error}; item {error.index} is evaluated again"
        error.args = (f"{error}; it was evaluating item {error.index}, as did another that has died",)
        self.given_up[error.index] = _processes.dump_error(error)
        self.fruitless = 0
        return f"{error}; it is given up"

    cdef int end_with(self, error) except -1:
        """No worker can be expected to live."""
        _processes.log.warning("%s; reading ends", error)
        self.end = _processes.dump_error(error)
        lzs_crew_close(self.crew)
        return 0

    cdef int address(self, lzs_run *run, object route) except -1:
        """Have a run tell its items by the workers' numbers; it ends where these do not go on by one."""
        cdef int64_t k
        try:
            if route is not None:
                run.item = read(route, run.index)
                for k in range(1, run.count):
                    if <int64_t>read(route, run.index + k) != run.item + k:
                        run.count = k
                        break
        except IndexError:
            run.item, run.count = -1, 1  # the worker says so in its place
        if self.deaths:  # those items are evaluated by themselves, or not at all
            for k in range(run.count):
                if run.item + k in self.deaths:
                    run.count = max(k, 1)
                    if run.item in self.given_up:
                        run.item = -1
                    break
        return 0

    cdef object judged(self, Window window, Py_ssize_t i, object result):
        """The result of an item; if it was given up, why."""
        if not self.deaths:
            return result
        number = window.number_of(i)
        error = self.given_up.get(number)
        if error is None:
            self.deaths.pop(number, None)
            return result
        return Failure(_processes.load_error(error))

    cdef bint in_turn(self, Py_ssize_t n) noexcept:
        return False

    cdef int make_room(self, Py_ssize_t ring) except -1:
        cdef uint64_t size = lzs_ring_size(<uint64_t>self.max_buffered)
        cdef uint64_t start = <char *>crew_of(self.arena) - self.base + ring * size
        start += lzs_crew_size(<uint32_t>board_of(self.arena).nworkers)
        self.arena.reserve(start, start + size)
        return 0

    cdef int wait_ms(self) noexcept:
        return min(DEATH_CHECK_MS, Engine.wait_ms(self))


cdef inline ProcessEngine processes_of(Engine engine):
    return None if engine.arena is None else <ProcessEngine>engine


cdef list guards_of(object source):
    """The guards among the stages of a source."""
    cdef list found = [], waiting = [source]
    cdef set seen = set()
    while waiting:
        source = waiting.pop()
        if isinstance(source, View) and id(source) not in seen:
            seen.add(id(source))
            if isinstance(source, Guard):
                found.append(source)
            waiting += source.children
    return found


def refuse_to_work(Arena arena, uint32_t worker, error):
    """In a worker process, tell the readers that there will be no workers, and why."""
    board_of(arena).hook_error = <long long>arena.write_surely(worker, Failure(error))
    lzs_crew_close(crew_of(arena))


def work_in_process(Arena arena, uint32_t worker, str evaluation, source, start_hook, list guards):
    """What a worker process runs."""
    cdef Guard guard
    cdef lzs_crew *crew = crew_of(arena)
    cdef lzs_claim claim
    cdef lzs_status status
    seterr(evaluation)
    if start_hook is not None:
        try:
            _workers.run_hook(start_hook, worker)
        except BaseException as error:
            refuse_to_work(arena, worker, error)
            return
    for guard in guards:
        guard.count_for_reader()
    lzs_add(&board_of(arena).started, 1)
    lzs_store(&desk_of(arena, worker).step, monotonic_ns())
    while True:
        with nogil:
            status = lzs_crew_claim_wait(crew, worker, &claim)
        if status == LZS_CLOSED:
            return
        arena.set_aside(worker)
        evaluate_in_process(arena, worker, &claim, source, guards)


def do_as_before_a_fork():
    """Have all libraries in C prepare for a fork, by one. Python's own preparations are left out."""
    lzs_do_as_before_a_fork()


def end_after(int handle):
    """End this process when the descriptor can be read, whoever has the GIL then."""
    with nogil:
        lzs_end_after(handle)


cdef int evaluate_in_process(Arena arena, uint32_t worker, lzs_claim *claim, source, list guards) except -1:
    """Hand over a run, evaluate its items, and count those that took about PROCESS_RUN_NS together.

    A message ends with what may change when the next item is evaluated, as an array that a function fills again and
    again; in one pickle it would also be one object however often it is there.
    """
    cdef int64_t k, n, uncounted = 0, count = claim.run.count
    cdef uint64_t offset = arena.allocate_surely(worker, sizeof_record(count))
    cdef run_record *record = record_at(arena, offset)
    cdef desk *mine = desk_of(arena, worker)
    cdef long long start = perf_counter_ns(), sent = start
    cdef long long *item_ns = &board_of(arena).item_ns
    cdef Reading reading = Reading(source, claim.run.item)
    cdef list results = [], counts = [[0] * len(guards), []]
    cdef uint64_t message
    cdef bint last, cut, due, watched = board_of(arena).watched
    memset(record, 0, sizeof_record(count))
    record.start, record.count, record.item = claim.run.index, count, claim.run.item
    arena.keep_block(offset)
    if watched:
        lzs_store(&mine.step, monotonic_ns())
    lzs_store(&mine.part, -1)
    lzs_store(&mine.record, offset)  # before it is attached: who has it must be able to find out that we have died
    if lzs_ring_attach(claim, <void *>offset) != LZS_OK:
        lzs_store(&mine.record, 0)
        arena.release(offset)
        return 0
    for k in range(count):
        if lzs_load(&record.state.unwanted):
            break
        lzs_store(&mine.part, k)
        if watched:
            lzs_store(&mine.step, monotonic_ns())
        if claim.run.item < 0:
            results.append(Failure(IndexError(f"prefetch index {claim.run.index} is out of range")))
        else:
            results.append(reading.next())
            if guards:
                take_counts(guards, counts, len(results) - 1)
        last = k == count - 1
        cut = not last and lzs_load(&record.state.slow) and (claim.run.item + k + 1) % grain_of(source) == 0
        due = last or cut or perf_counter_ns() - sent > PROCESS_RUN_NS or board_of(arena).singly
        if not (due or counts[1]) and keep_last(results):
            continue
        n = len(results)
        uncounted += n
        if n > 1:
            lzs_store(&mine.part, -1)
        if counts[1] or any(counts[0]):
            results.append(counts)
            counts = [[0] * len(guards), []]
        message = message_of(arena, worker, results, n, &record.state.unwanted)
        message_at(arena, message).count = n
        arena.keep(message)
        messages_of(record)[k + 1 - n] = message
        results = []
        if not due:
            continue
        lzs_add(&board_of(arena).sent, 1)
        if cut:
            lzs_store(&record.state.cut, claim.run.index + k + 2)
        if last or cut:
            lzs_store(item_ns, updated(lzs_load(item_ns), (perf_counter_ns() - start) // (k + 1)))
        with nogil:
            lzs_progress_add(&record.state.progress, claim.ring, uncounted, True)
            lzs_ring_wake(claim)
        if last or cut:
            break
        uncounted = 0
        sent = perf_counter_ns()
    if watched:
        lzs_store(&mine.step, monotonic_ns())
    lzs_store(&mine.record, 0)  # before it is let go: nobody does that twice for us
    let_go(arena, offset, BY_WORKER)
    return 0


cdef int take_counts(list guards, list counts, Py_ssize_t k) except -1:
    """Add what guards have counted while the result k of a message was evaluated."""
    cdef Guard guard
    cdef Py_ssize_t number
    for number, guard in enumerate(guards):
        reads, failed = guard.take_counts()
        counts[0][number] += reads
        for i, error in failed:
            counts[1].append((k, number, i, Failure(error)))
    return 0


cdef uint64_t message_of(Arena arena, uint32_t worker, list results, Py_ssize_t n,
                         const long long *unwanted) except 0:
    """A message with the n results, and what follows them, in which Failures stand for those that cannot be sent."""
    cdef Py_ssize_t k
    try:
        return arena.write_patiently(worker, results, unwanted)
    except Exception:  # whatever a user's object does when it is pickled
        for k in range(len(results)):
            try:
                arena.drop(arena.write(worker, results[k]))
            except Exception as error:
                results[k] = Failure(_processes.not_sendable(results[k], error))
    try:
        return arena.write(worker, results)
    except Exception as error:  # a few words at least: one Failure, and without what belongs to it
        failed = _processes.not_sendable(results, error)
        return arena.write_surely(worker, [Failure(type(failed)(*failed.args))] * n)


def failure_from(data):
    """The Failure that another process has sent."""
    return Failure(_processes.load_error(data))


@cython.final
cdef class Window:
    """A reader's place: the range of indices [position, tail) that is published, under way or ready.

    It moves with reads one after the other, skips what a read further on within it leaves out, and is given up by a
    read elsewhere, which keeps what is finished and lies ahead of it. `held` is the run that was taken last.

    Threads: `lock` guards all but the source, which changes in a critical section while the ring is empty, and the
    reading, which a worker takes and leaves in one; it is held while the reader waits for an item, so that threads
    that share an iterator take turns. `reader` is compared with the own thread only, and every thread writes none but
    its own number or 0 under the lock.
    """
    cdef lzs_ring *ring
    cdef object source
    cdef Reading reading  # what the only worker goes on with, while it is idle
    cdef object __weakref__
    cdef PyThread_type_lock lock
    cdef long long reader  # the thread that holds the lock, 0: none
    cdef bint noted  # it has said that it waits for the workers
    cdef Py_ssize_t most  # how far the window may reach
    cdef Py_ssize_t allowed  # how far now: all, but little after a read elsewhere
    cdef Py_ssize_t grain  # the source's
    cdef Py_ssize_t position, tail
    cdef Py_ssize_t refill_at  # the position from which on the window has room for another run
    cdef long long awake_since  # when the reader has waited last; 0: not yet
    cdef Py_ssize_t awake_at  # for which item
    cdef long long own_ns, own_items  # how long it was awake lately, and for how many items
    cdef Py_ssize_t in_vain, unrested  # how often it rested for too long, and how often it is not to rest now
    cdef bint ended  # the source was seen to end within the window
    cdef Run held
    cdef list kept  # results from `kept_start` to `kept_stop`, which an earlier place had finished
    cdef Py_ssize_t kept_start, kept_stop
    cdef Py_ssize_t nworkers
    cdef object route  # route[i] is what the workers call item i; None: i

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError("prefetch: no memory for a lock")

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int acquire(self, Engine engine) except -1:
        """Take the lock for a read."""
        cdef int status, ms = NOTICE_MS
        cdef long long me = <long long>PyThread_get_thread_ident()
        if lzs_load(&self.reader) == me:
            raise RuntimeError("prefetch: an item is read, by a destructor or a signal handler, while the same thread "
                               "is reading another")
        if not PyThread_acquire_lock(self.lock, 0):
            status = not PY_LOCK_ACQUIRED
            try:
                while status != PY_LOCK_ACQUIRED:
                    with nogil:
                        status = PyThread_acquire_lock_timed(self.lock, 1000 * ms, 0)
                    if status != PY_LOCK_ACQUIRED:
                        ms = SIGNAL_CHECK_MS
                        note_reader(id(engine))  # as the one who holds the lock: both wait for the same workers
                        PyErr_CheckSignals()
            finally:
                if ms != NOTICE_MS:
                    note_reader(None)
        lzs_store(&self.reader, me)
        return 0

    cdef void give_back(self) noexcept:
        if self.noted:
            self.noted = False
            note_reader(None)
        lzs_store(&self.reader, 0)
        PyThread_release_lock(self.lock)

    cdef Reading take_reading(self, Py_ssize_t i):
        """What a worker reads the source by, from item i on."""
        with cython.critical_section(self):
            source, reading, self.reading = self.source, self.reading, None
        return reading if reading is not None and reading.position == i else Reading(source, i)

    cdef int leave_reading(self, Reading reading) except -1:
        with cython.critical_section(self):
            if reading.source is self.source:
                self.reading = reading
        return 0

    cdef int open(self, object source, object route, Py_ssize_t most, Py_ssize_t first) except -1:
        """Begin to read another source, from item `first` on."""
        with cython.critical_section(self):
            self.source, self.reading = source, None
        self.route = route
        self.most = self.allowed = most
        self.grain = grain_of(source)
        self.position = self.tail = self.refill_at = first
        self.ended, self.held, self.kept = False, None, None
        self.awake_since = self.own_ns = self.own_items = self.in_vain = self.unrested = 0
        return 0

    cdef int clear(self, Engine engine, list dropped) except -1:
        """Take everything back."""
        dropped.append(self.kept)
        self.kept = None
        if self.held is not None:
            self.release(dropped)
        while self.drop_run(engine, dropped):
            pass
        return 0

    cdef int leave(self, Engine engine, Py_ssize_t i, list dropped) except -1:
        """Go on at item i, and publish little ahead until it shows that reading goes on from there."""
        cdef Py_ssize_t start
        cdef list finished = None
        if self.held is not None and 0 < lzs_load(&self.held.state.cut) <= self.position + 1:
            self.position = self.held.stop  # nobody evaluates the rest of it
            self.release(dropped)
        start = self.position
        if i <= start < i + self.most and self.grain <= self.most:
            finished = self.finished(engine, i + self.most)
        self.clear(engine, dropped)
        self.allowed = min(self.nworkers, self.most)
        self.position = self.tail = self.refill_at = i
        self.awake_since, self.ended = 0, False
        if finished:
            self.kept, self.kept_start, self.kept_stop = finished, start, start + len(finished)
        return 0

    cdef list finished(self, Engine engine, Py_ssize_t stop):
        """Take what is finished from the position on, without a gap, and before `stop`."""
        cdef list found = []
        cdef void *taken
        while self.position < stop:
            if self.is_kept(self.position):
                found.append(self.take_kept(self.position))
            elif self.held is not None:
                if not self.held.start <= self.position < self.held.stop or not self.held.has(self.position):
                    break
                found.append(self.take_part(engine, self.position))
            elif lzs_ring_take(self.ring, &taken) == LZS_OK:
                self.held = run_at(processes_of(engine), taken)
            else:
                break
        return found

    cdef bint is_kept(self, Py_ssize_t i) noexcept:
        return self.kept is not None and max(self.kept_start, self.position) <= i < self.kept_stop

    cdef object take_kept(self, Py_ssize_t i):
        cdef object result = self.kept[i - self.kept_start]
        self.kept[i - self.kept_start] = None
        self.position = i + 1
        if self.position == self.kept_stop:
            self.kept = None
        return result

    cdef bint reaches(self, Py_ssize_t i) noexcept:
        """Whether a read of item i is one that goes on."""
        return self.position == i or self.position <= i < self.tail or self.is_kept(i)

    cdef object at_hand(self, Engine engine, Py_ssize_t i):
        """Item i or its Failure, if it is ready and nothing else needs to be done; else MISSING."""
        if self.held is not None and i == self.position and i < self.refill_at and self.held.has(i):
            return self.take_part(engine, i)
        return MISSING

    cdef object deliver(self, Prefetch view, Engine engine, Py_ssize_t i, list dropped):
        """The item or its Failure; MISSING if the reader is to evaluate it."""
        cdef object result
        PyErr_CheckSignals()  # for each run or so: who reads in a sum(), say, looks for a Ctrl-C nowhere else
        self.seek(engine, i, dropped)
        while True:
            self.fill(engine)
            if self.is_kept(i):
                result = self.take_kept(i)
                self.fill(engine)
                return result
            if self.held is not None and i >= self.held.stop:
                self.release(dropped)
            if self.held is None:
                if i >= self.tail and self.ended:  # it may have grown since
                    self.ended = False
                    continue
                if i >= self.tail:  # the source is shorter than a moment ago
                    return Failure(IndexError(f"prefetch index {i} is out of range"))
                if not self.take_run(view, engine):
                    self.leave(engine, i + 1, dropped)
                    return MISSING
            if self.held.start <= i < self.held.stop:
                break
        result = self.await_part(view, engine, i, dropped)
        if result is MISSING:
            result = self.take_part(engine, i)
        self.fill(engine)
        return result

    cdef object take_part(self, Engine engine, Py_ssize_t i):
        cdef object result = self.held.take(i)
        if engine.arena is not None:
            result = (<ProcessEngine>engine).judged(self, i, result)
        self.position = i + 1
        if self.position == self.held.stop:
            self.held = None
        elif (lzs_load(&self.held.state.cut) == self.position + 1 and self.tail == self.held.stop
              and not lzs_load(&self.held.state.overdue)):
            self.tail = self.position  # the rest is to be published again; if more was, by await_part()
            self.held = None
        if type(result) is Failure and size_of(self.source) == UNKNOWN:
            self.ended = isinstance((<Failure>result).error, IndexError)
        return result

    cdef object number_of(self, Py_ssize_t i):
        """What the workers call item i, or None."""
        try:
            return i if self.route is None else read(self.route, i)
        except IndexError:
            return None

    cdef int seek(self, Engine engine, Py_ssize_t i, list dropped) except -1:
        """Make i the next position; what the window then leaves out is dropped, and nothing is waited for."""
        cdef lzs_run run
        if i == self.position:
            self.allowed = min(2 * self.allowed, self.most)
            return 0
        if not self.reaches(i):
            self.leave(engine, i, dropped)
            return 0
        if self.is_kept(i):
            self.tail = max(self.tail, self.kept_stop)
        elif self.kept is not None and i >= self.kept_stop:
            dropped.append(self.kept)
            self.kept = None
        if self.held is not None and i >= self.held.stop:
            self.release(dropped)
        if self.held is None:
            while lzs_ring_head(self.ring, &run) == LZS_OK and run.index + run.count <= i:
                self.drop_run(engine, dropped)
        self.position = i
        return 0

    cdef int release(self, list dropped) except -1:
        self.held.give_up(dropped)
        self.held = None
        return 0

    cdef bint drop_run(self, Engine engine, list dropped) except -1:
        """Take back the run at the head of the ring, if there is one."""
        cdef void *result
        cdef lzs_status status = lzs_ring_drop(self.ring, &result)
        while status == LZS_BUSY:  # its worker may be dead, or stopped
            engine.look_after_workers(0)
            PyErr_CheckSignals()
            status = lzs_ring_drop(self.ring, &result)
        if status != LZS_OK:
            return False
        if result != NULL:
            run_at(processes_of(engine), result).give_up(dropped)
        return True

    cdef bint take_run(self, Prefetch view, Engine engine) except -1:
        """Hold the run at the head of the ring, as soon as a worker has claimed it.

        False if none does for long and the reader is a worker of another prefetch: they may wait for each other.
        """
        cdef lzs_run run
        cdef lzs_status status
        cdef void *taken = NULL
        cdef bint may_help = view.crew.helps and working_for != NULL
        cdef int ms, waited = 0
        cdef int64_t enough
        cdef long long since
        if lzs_ring_take(self.ring, &taken) != LZS_OK:
            self.rest(engine)
            since = monotonic_ns() if engine.timeout_ns else 0
            lzs_ring_head(self.ring, &run)
            enough = self.enough(engine, max(self.position, run.index), run.index, run.count)
            while taken == NULL:
                ms = self.wait_ms(engine, run.count)
                if may_help:
                    ms = min(ms, STALEMATE_MS)
                with nogil:
                    status = lzs_ring_wait(self.ring, 0, ms)
                    # Its worker has the GIL: who asked for it now would be put to sleep.
                    if status == LZS_OK and lzs_ring_take(self.ring, &taken) == LZS_OK:
                        lzs_progress_wait(engine.progress_at(taken), self.ring, enough, PATIENCE_MS)
                if taken == NULL:
                    view.look_up(engine, self, status, since)
                    waited += ms
                    if may_help and waited >= STALEMATE_MS and lzs_ring_retract(self.ring) == LZS_OK:
                        return False
            self.note_waited()
        self.held = run_at(processes_of(engine), taken)
        return True

    cdef int rest(self, Engine engine) except -1:
        """Sleep until half of the runs are claimed, if they are short, as a wake-up for each would hold up the workers.

        One who reads on needs the rest of the window soon anyway, and the other half keeps the workers busy till then.
        But one that has work of its own between two reads should do it while they do theirs. And where half of the
        window is not claimed in time, since items wait for the reader, say, it does not rest for more and more waits.
        """
        cdef long long item_ns = lzs_load(engine.item_ns), now
        cdef int64_t run_ns, runs = lzs_ring_length(self.ring), ahead = runs // 2
        if item_ns == 0 or item_ns >= RUN_NS * self.nworkers or self.allowed < self.most or self.is_in_turn(engine):
            return 0
        now = perf_counter_ns()
        if self.awake_since and self.own_work(now, item_ns) > item_ns // (4 * self.nworkers):
            return 0
        if self.unrested > 0:
            self.unrested -= 1
            return 0
        if engine.arena is not None or self.tail - self.position <= runs + 1:
            # A worker that has claimed a run of one item says so when it has finished it, and a process when it has
            # finished any: by then it and the others will claim as many more.
            run_ns = item_ns * (self.tail - self.position) // (runs + 1)  # one may be held
            ahead = min(ahead - self.nworkers, RUN_NS * self.nworkers // max(1, run_ns))
        if ahead <= 0:
            return 0
        with nogil:
            lzs_ring_wait(self.ring, ahead, PATIENCE_MS)
        if perf_counter_ns() - now < PATIENCE_MS * 1_000_000:
            self.in_vain = 0
        else:
            self.in_vain = min(2 * self.in_vain + 1, 1000)
            self.unrested = self.in_vain
        return 0

    cdef long long own_work(self, long long now, long long item_ns) noexcept:
        """How many ns the reader itself takes for an item, lately: who takes batches works between two of those."""
        cdef int64_t items = max(1, self.position - self.awake_at)
        cdef long long own_ns = min((now - self.awake_since) // items, item_ns * self.most)  # a pause is soon forgotten
        self.own_ns, self.own_items = self.own_ns + own_ns * items, self.own_items + items
        if self.own_items > 4 * self.most:
            self.own_ns, self.own_items = self.own_ns // 2, self.own_items // 2
        return self.own_ns // self.own_items

    cdef int note_waited(self) except -1:
        """What the reader has waited for is there."""
        self.awake_since, self.awake_at = perf_counter_ns(), self.position
        return 0

    cdef int64_t enough(self, Engine engine, int64_t i, int64_t start, int64_t count) noexcept:
        """How many parts of a run to wait for in order to have item i: to wake us for each would hold up the worker."""
        cdef int64_t more = engine.run_ns // max(1, lzs_load(engine.item_ns))
        return count if engine.in_turn(count) else min(count, i - start + max(1, more))

    cdef int wait_ms(self, Engine engine, int64_t count) noexcept:
        """How long to sleep over a run of so many items before a look around.

        One of several is handed over, counts some of them and is cut without a wake-up, see ThreadEngine.evaluate. The
        first sleep over one of a single item lasts until it is time to say so to the workers.
        """
        if count > 1:
            return PATIENCE_MS
        return engine.wait_ms() if self.noted else min(NOTICE_MS, engine.wait_ms())

    cdef object await_part(self, Prefetch view, Engine engine, Py_ssize_t i, list dropped):
        """Wait until item i is ready, and return MISSING; or a Failure, if it takes longer than allowed."""
        cdef lzs_status status
        cdef Run run = self.held
        cdef int64_t enough = self.enough(engine, i, run.start, run.stop - run.start)
        cdef int ms
        if run.has(i):
            return MISSING
        self.rest(engine)
        while not run.has(i):
            if lzs_load(&run.state.overdue):
                return self.give_up_on(view, engine, i, dropped)
            if 0 < lzs_load(&run.state.cut) <= i + 1:
                self.leave(engine, i, dropped)
                return self.deliver(view, engine, i, dropped)
            ms = self.wait_ms(engine, run.stop - run.start)
            with nogil:
                status = lzs_progress_wait(&run.state.progress, self.ring, enough, ms)
            view.look_up(engine, self, status)
            enough = i + 1 - run.start
            if self.tail == run.stop and i - i % self.grain + self.grain < run.stop and not lzs_load(&run.state.slow):
                # What seemed cheap is not: one worker should not be left alone with all of it.
                lzs_store(engine.item_ns, RUN_NS)
                lzs_store(&run.state.slow, 1)
        self.note_waited()
        return MISSING

    cdef object give_up_on(self, Prefetch view, Engine engine, Py_ssize_t i, list dropped):
        """A worker has been too long over one of the items of the run that is held."""
        cdef Run run = self.held
        cdef Py_ssize_t late = run.start + lzs_load(&run.state.overdue) - 1
        if late == i and i + 1 == run.stop:
            self.release(dropped)
            self.position = i + 1
        else:
            self.leave(engine, i + (late == i), dropped)
        if late == i:
            return Failure(None, True)
        if late > i:  # what comes before it was not sent yet, and is evaluated again: without the late one
            dropped.append(self.kept)
            self.kept, self.kept_start, self.kept_stop = [Failure(None, True)], late, late + 1
        return self.deliver(view, engine, i, dropped)

    cdef bint is_in_turn(self, Engine engine) noexcept:
        """Whether nothing more is published before all that is has been taken."""
        return self.grain <= self.most and engine.in_turn(self.allowed)

    cdef int fill(self, Engine engine) except -1:
        """Publish what the window has room for."""
        cdef Py_ssize_t count, n = size_of(self.source)
        cdef long long item_ns = lzs_load(engine.item_ns)
        cdef bint in_turn = self.is_in_turn(engine)
        cdef lzs_run run
        self.refill_at = self.tail
        if self.held is not None and lzs_load(&self.held.state.slow):
            return 0  # a part of it may have to be published once more
        while not self.ended and (self.tail < n or n == UNKNOWN):
            if self.is_kept(self.tail):
                self.tail = self.refill_at = self.kept_stop
                continue
            if in_turn and self.position < self.tail:
                return 0
            count = self.run_length(engine, item_ns, in_turn) - self.tail % self.grain
            if n != UNKNOWN:
                count = min(count, n - self.tail)
            if self.kept is not None and self.tail < self.kept_start:
                count = min(count, self.kept_start - self.tail)
            if self.tail > self.position and self.ahead(self.tail + count) > self.allowed:
                if self.grain <= self.most and self.allowed == self.most:
                    self.refill_at = min(self.tail, self.tail + count - self.allowed)
                else:
                    self.refill_at = self.position
                break
            run.index, run.count, run.item = self.tail, count, self.tail
            if engine.arena is not None:
                (<ProcessEngine>engine).address(&run, self.route)
            if lzs_ring_publish(self.ring, run) != LZS_OK:
                break
            self.tail += run.count
            self.refill_at = self.tail
        if not in_turn:
            lzs_ring_flush(self.ring)
        return 0

    cdef Py_ssize_t run_length(self, Engine engine, long long item_ns, bint in_turn) noexcept:
        """How many items to hand over together: whole grains, few enough that each worker finds two runs."""
        cdef Py_ssize_t length = self.allowed if in_turn else self.allowed // (2 * self.nworkers)
        if item_ns == 0:
            length = 1
        else:
            length = min(length, engine.run_ns // item_ns)
        return max(1, length // self.grain) * self.grain

    cdef Py_ssize_t ahead(self, Py_ssize_t tail) noexcept:
        """What counts for max_buffered if the window ends at tail: items, or grains where one alone is more."""
        if self.grain <= self.most:
            return tail - self.position
        return (tail - 1) // self.grain - self.position // self.grain + 1


cdef object MISSING = object()


@cython.final
cdef class Crew:
    """The employer of workers: a prefetch and the slices of it share one. When nobody knows it any more, they end.

    Threads: `lock` guards the engine's coming and going, and the making of windows; the engine is read and set in
    critical sections; `closed` is only ever set.
    """
    cdef Py_ssize_t nworkers, max_buffered
    cdef object start_hook, evaluation
    cdef object timeout  # in seconds, or None
    cdef object source  # what worker processes evaluate; None: the workers are threads
    cdef object process  # None, or (mp_context, shm_size)
    cdef bint helps  # readers may evaluate: functions run in several threads anyway, neither prepared nor watched
    cdef bint alone  # has_no_children()
    cdef Engine engine  # None before the first read and after close
    cdef long long closed
    cdef object lock  # reentrant: what runs under it allocates, and so may run destructors that read
    cdef object __weakref__

    def __init__(self, source, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation, timeout, process):
        self.source = None if process is None else source
        self.nworkers, self.max_buffered = nworkers, max_buffered
        self.start_hook, self.evaluation, self.timeout, self.process = start_hook, evaluation, timeout, process
        self.helps = nworkers > 1 and start_hook is None and timeout is None and process is None
        self.lock = RLock()

    def __del__(self):
        self.dismiss()

    cdef int refuse(self) except -1:
        """Say that the prefetch is closed."""
        _workers.stay_if_all_ends()
        raise ValueError("prefetch is closed")

    cdef bint has_no_children(self) except -1:
        """Whether it needs processes within a worker process, which may not have any."""
        if self.process is None:
            return False
        if not self.alone and self.current_engine() is None:
            self.alone = _processes.is_worker()
        return self.alone

    cdef Engine exchange_engine(self, Engine engine):
        with cython.critical_section(self):
            before, self.engine = self.engine, engine
        if before is not None:
            lzs_store(&before.over, 1)
        return before

    cdef Engine current_engine(self):
        with cython.critical_section(self):
            engine = self.engine
        return engine

    def dismiss(self):
        """Tell the workers to end, and return their threads."""
        lzs_store(&self.closed, 1)
        cdef Engine engine = self.exchange_engine(None)
        if engine is None:
            return []
        if engine.forks != forks():  # garbage that a forked child collects before it has come to forget_workers
            _workers.lost.append(engine)
            return []
        return engine.dismiss()

    def forget_workers(self):
        """In a forked child, where there are no threads but the one that forked: start anew at the next read."""
        _workers.lost.append(self.exchange_engine(None))  # never freed: its workers were caught wherever they were
        self.lock = RLock()

    cdef Engine started(self):
        """The engine, with its workers; the first read starts them."""
        cdef Engine engine = self.current_engine()
        if engine is not None:
            return engine
        _workers.started.add(self)  # before the lock is taken: a child that is forked meanwhile needs another
        with self.lock:
            if lzs_load(&self.closed):
                self.refuse()
            engine = self.current_engine()
            if engine is not None:
                return engine
            engine = self.new_engine()
            try:
                engine.start_all()
            except BaseException:
                _workers.join(engine.dismiss())  # those that did start
                raise
            if self.current_engine() is not None:  # a destructor has read meanwhile
                engine.dismiss()
                return self.current_engine()
            self.exchange_engine(engine)
            if lzs_load(&self.closed):  # a destructor has closed it meanwhile
                self.dismiss()
        return engine

    cdef Engine new_engine(self):
        cdef ThreadEngine engine
        arguments = (self.nworkers, self.max_buffered, self.start_hook, self.evaluation,
                     0 if self.timeout is None else max(1, int(1e9 * min(self.timeout, 1e9))))
        if self.process is not None:
            return ProcessEngine(*arguments, self.source, *self.process)
        engine = ThreadEngine(*arguments)
        engine.employer = <void *>self
        return engine

    cdef Window window(self, Engine engine, object source, object route, Py_ssize_t first):
        """A window on the source, or None where there are too many."""
        cdef Window window
        try:
            window = engine.idle.pop()
        except IndexError:
            window = Window()
            window.nworkers = self.nworkers
            with self.lock:
                if len(engine.windows) < LZS_MAX_RINGS:
                    engine.make_room(len(engine.windows))
                window.ring = lzs_ring_new(engine.crew, <uint64_t>self.max_buffered, 0)
                if window.ring == NULL:
                    if len(engine.windows) == LZS_MAX_RINGS:
                        return None
                    raise MemoryError(f"prefetch: no memory for max_buffered={self.max_buffered}")
                engine.windows.append(ref(window))
        window.open(source, route, self.max_buffered, first)
        return window

    cdef int retire(self, Engine engine, Window window) except -1:
        """Nobody reads through the window any more."""
        cdef list dropped = []
        if engine.is_over():
            return 0
        window.clear(engine, dropped)
        dropped.append(window.route)
        window.route = None
        with cython.critical_section(window):
            dropped += window.source, window.reading
            window.source = window.reading = None
        engine.idle.append(window)
        return 0


@cython.final
cdef class Numbers(Derived):
    """numbers[i] = i, as many as the source has items"""

    def __init__(self, source):
        self.adopt(source)

    cdef object item(self, Py_ssize_t i):
        return i

    cdef Py_ssize_t size(self) except? -1:
        return size_of(self.source)


@cython.final
cdef class Prefetch(Derived):
    """prefetch[i] = source[i], evaluated ahead by workers

    Each thread that reads by index has a window, and each iterator.

    Threads: `windows` and `engine` change together in a critical section, and are used in one. Who takes a window out
    retires it: its thread's Reader when the thread has ended, or the prefetch when nobody knows it any more.
    """
    cdef Crew crew
    cdef object route  # of a part: route[i] is what the whole prefetch calls item i, and worker processes do; else None
    cdef Engine engine  # the one that the windows belong to
    cdef dict windows  # by the threads' numbers

    def __init__(self, source, Py_ssize_t nworkers, Py_ssize_t max_buffered, start_hook, evaluation, timeout=None,
                 process=None, Crew crew=None):
        if crew is None:
            crew = Crew(source, nworkers, max_buffered, start_hook, evaluation, timeout, process)
        self.crew = crew
        self.adopt(source)
        self.shares = nworkers > 0

    def __del__(self):
        if self.windows is not None:
            for number in list(self.windows):
                self.retire_window(number)

    @property
    def nworkers(self):
        return self.crew.nworkers

    @property
    def max_buffered(self):
        return self.crew.max_buffered

    @property
    def timeout(self):
        return self.crew.timeout

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the workers, which slices of the prefetch share.

        It may be called again, and while other threads read, who get a ValueError. A worker that is evaluating an item
        ends after it, and is not waited for. What has been evaluated ahead is dropped; an iterator or a slice that is
        being read keeps its own until it dies.
        """
        try:
            _workers.join(self.crew.dismiss())
        finally:
            with cython.critical_section(self):
                _dropped = self.engine, self.windows  # which die outside: destructors may read
                self.engine, self.windows = None, {}

    def as_completed(self):
        """Return an iterator over pairs (i, self[i]) in the order in which the items are finished.

        So a slow item holds up no other one. Each index comes once. The error of an item is raised in its turn, with a
        note that names the index, and iteration goes on behind it. No more than max_buffered items are under way or
        ready.

        >>> from lazyseq import prefetch, smap
        >>> with prefetch(smap(str, range(4)), nworkers=2) as p:
        ...     print(sorted(p.as_completed()))
        [(0, '0'), (1, '1'), (2, '2'), (3, '3')]
        """
        return CompletedIterator(self)

    cdef bint reads_directly(self) except -1:
        """Whether the reader evaluates items itself.

        There are no workers, or the reader is one; or it is one of several workers of another prefetch: each reads a
        few items here and a few there, ahead of which nobody could usefully run.
        """
        cdef Crew crew = self.crew
        if lzs_load(&crew.closed):
            crew.refuse()
        if working_for != NULL and (working_for == <void *>crew or (crew.helps and not works_alone)):
            return True
        return crew.nworkers == 0 or crew.has_no_children()

    cdef object item(self, Py_ssize_t i):
        cdef Engine engine
        cdef Window window
        if self.reads_directly():
            return self.read_directly(i)
        engine = self.crew.started()
        window = self.own_window(engine, i)
        return self.read_directly(i) if window is None else self.read_through(engine, window, i, i)

    cdef object read_directly(self, Py_ssize_t i):
        """Item i as reads_directly() has it; a worker has the right mode already."""
        return self.evaluate(i) if working_for == NULL else pull(self, i, self.source, i)

    cdef Window own_window(self, Engine engine, Py_ssize_t first):
        """The window of this thread, or None where there are too many."""
        global own_number
        cdef Window window = None
        if own_number == 0:
            own_number = lzs_add(&numbers, 1) + 1
        cdef object me = own_number
        with cython.critical_section(self):
            if self.engine is engine:
                window = self.windows.get(me)
        if window is not None:
            return window
        window = self.crew.window(engine, self.source, self.route, first)
        if window is None:
            return None
        with cython.critical_section(self):
            if lzs_load(&self.crew.closed):  # close() drops what it finds here, and may have been here
                return window
            if self.engine is not engine:
                self.engine, self.windows = engine, {}
            self.windows[me] = window
        reader = getattr(readers, "here", None)
        if reader is None:
            readers.here = reader = Reader(me)
        (<Reader>reader).visit(self)
        return window

    cdef int retire_window(self, number) except -1:
        """A thread reads here no more."""
        with cython.critical_section(self):
            engine, window = self.engine, self.windows.pop(number, None)
        if window is not None:
            self.crew.retire(engine, window)
        return 0

    cdef object read_through(self, Engine engine, Window window, Py_ssize_t i, Py_ssize_t j,
                             PrefetchIterator iterator=None):
        """Item i of the prefetch, which is item j of the window's source; or the next one of an iterator.

        Threads that share an iterator are told their index when it is their turn, so that they read in order.
        """
        cdef list dropped = None  # results that nobody wants die after the lock is released: destructors may read
        cdef object result
        cdef PyObject *taken = NULL
        cdef bint advanced = False
        window.acquire(engine)
        try:
            if iterator is not None:
                i = j = iterator.advance(&taken)
                advanced = True
            result = window.at_hand(engine, j) if taken == NULL else owned(taken)
            if result is MISSING:
                dropped = []
                if self.crew.helps and not window.reaches(j):
                    window.leave(engine, j + 1, dropped)
                else:
                    result = window.deliver(self, engine, j, dropped)
                    if iterator is not None:
                        iterator.make_ready(engine, window)
        except BaseException:
            # After a Ctrl-C, say, the item is still the next one; where reading has ended for good, it never ends.
            if advanced and engine.end is None:
                iterator.i = i
            raise
        finally:
            window.give_back()
        if type(result) is Failure:
            raise self.error_of(i, result)
        return self.evaluate(i) if result is MISSING else result

    cdef object evaluate(self, Py_ssize_t i):
        """Item i by the reader, as a worker would do it: for a read elsewhere this is sooner than to wake one."""
        global working_for
        cdef void *before = working_for
        mode = seterr()
        working_for = <void *>self.crew  # a function that reads this prefetch reads its source
        if mode is not self.crew.evaluation:
            seterr(self.crew.evaluation)
        try:
            return pull(self, i, self.source, i)
        finally:
            working_for = before
            if mode is not self.crew.evaluation:
                seterr(mode)

    cdef int look_up(self, Engine engine, Window window, lzs_status status, long long since=0) except -1:
        """After a wait: whether it makes sense to go on waiting."""
        if status == LZS_TIMEOUT and not window.noted:
            window.noted = True
            note_reader(id(engine))
        if lzs_load(&self.crew.closed):
            self.crew.refuse()
        if status == LZS_CLOSED:
            if engine.end is not None:
                raise _processes.load_error(engine.end)
            if self.crew.current_engine() is engine:
                self.crew.exchange_engine(None)  # the next read tries again
            error = engine.start_error()
            if isinstance(error, _processes.NotTransferable):
                raise error.with_traceback(None)
            raise EvaluationError(f"start_hook failed in a worker of {self.label()} made at {self.site}",
                                  stage=self.stage) from error
        if status == LZS_TIMEOUT:
            engine.start_missing()
        engine.look_after_workers(since)
        PyErr_CheckSignals()
        return 0

    cdef object error_of(self, Py_ssize_t i, Failure failure):
        """What to raise for item i."""
        crew = self.crew
        if failure.is_timeout:
            if self.route is not None:
                i = read(self.route, i)
            return TimeoutError(f"item {i} of {self.label()} made at {self.site} took longer than {crew.timeout} s")
        if isinstance(failure.error, _processes.NotTransferable):
            return stage_error(self, i, failure.error, crew.evaluation)  # the stage that fails is this one
        return source_error(self, i, self.source, i, failure.error, crew.evaluation)

    cdef list items(self, const Py_ssize_t *indices, Py_ssize_t n):
        return self.together(indices, n, False)

    cdef list tries(self, const Py_ssize_t *indices, Py_ssize_t n):
        return self.together(indices, n, True)

    cdef list together(self, const Py_ssize_t *indices, Py_ssize_t n, bint tries):
        """Neighbours through the thread's own window, which goes on ahead; others through a window of their own."""
        cdef Py_ssize_t k
        cdef list found = []
        cdef Engine engine
        cdef Window window = None
        if not self.reads_directly() and any([indices[k] != indices[0] + k for k in range(n)]):
            engine = self.crew.started()
            wanted = [indices[k] for k in range(n)]
            route = gathered(self.numbers(), wanted) if engine.arena is not None else None
            window = self.crew.window(engine, gathered(self.source, wanted), route, 0)
        try:
            for k in range(n):
                try:
                    if window is None:
                        found.append(self.item(indices[k]))
                    else:
                        found.append(self.read_through(engine, window, indices[k], k))
                except Exception as error:
                    if not tries:
                        raise
                    found.append(Raised(error))
        finally:
            if window is not None:
                self.crew.retire(engine, window)
        return found

    cdef View of_part(self, View part):
        """A part of a prefetch is a prefetch of the part, by the same workers."""
        cdef Prefetch prefetch
        crew = self.crew
        prefetch = Prefetch(rebased(part, self.source), crew.nworkers, crew.max_buffered, crew.start_hook,
                            crew.evaluation, crew.timeout, crew.process, crew)
        prefetch.route = rebased(part, self.numbers())
        return prefetch

    cdef object numbers(self):
        """numbers[i] is what the whole prefetch calls item i."""
        return Numbers(self.source) if self.route is None else self.route

    cdef object iterate(self, Py_ssize_t start):
        return PrefetchIterator(self, start)

    cdef str label(self):
        one, many = ("thread", "threads") if self.crew.process is None else ("process", "processes")
        return f"prefetch({self.crew.nworkers} {one if self.crew.nworkers == 1 else many})"

    def __reduce__(self):
        crew = self.crew
        recipe = (self.source, crew.nworkers, crew.max_buffered, crew.start_hook, crew.evaluation, crew.timeout,
                  crew.process)
        return Prefetch, recipe, self.site


@cython.final
cdef class Reader:
    """A thread that reads by index: with it ends what it has of prefetches, their windows.

    Threads: its thread adds, and is at its end when the destructor runs; a prefetch that dies anywhere leaves the set
    by one atomic call.
    """
    cdef object number
    cdef set visited  # weak references to prefetches

    def __init__(self, number):
        self.number, self.visited = number, set()

    cdef int visit(self, Prefetch prefetch) except -1:
        self.visited.add(ref(prefetch, self.visited.discard))
        return 0

    def __del__(self):
        cdef object prefetch
        for reference in list(self.visited):
            prefetch = reference()
            if prefetch is not None:
                (<Prefetch>prefetch).retire_window(self.number)
        self.visited.clear()


cdef object readers = local()  # `here` is the thread's own


@cython.final
cdef class PrefetchIterator:
    """The items of a prefetch, through a window of its own.

    Threads: what changes is read and set in critical sections; what is ready is also set under the window's lock. The
    window goes to another reader only when nobody knows the iterator any more: until then a thread may be about to read
    through it.
    """
    cdef Prefetch view
    cdef Py_ssize_t i
    cdef list ready  # the results of a finished run, item by item taken out
    cdef Py_ssize_t ready_start, ready_stop  # its items, from i on: none if i is beyond
    cdef bint ended
    cdef Engine engine
    cdef Window window

    def __init__(self, Prefetch view, Py_ssize_t start):
        self.ready_stop = 0
        self.view, self.i = view, start

    def __iter__(self):
        return self

    def __next__(self):
        cdef Prefetch view = self.view
        cdef Py_ssize_t i = 0
        cdef PyObject *result
        cdef bint is_ready
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        is_ready = self.i < self.ready_stop
        lzs_unlock(&section)
        if is_ready and not lzs_load(&view.crew.closed):
            result = self.take_ready(view.size(), &i)
            if result != NULL:
                return self.delivered(i, owned(result))
        return self.next_slowly(view)

    cdef inline PyObject *take_ready(self, Py_ssize_t n, Py_ssize_t *i) noexcept:
        """The result of the next item, whose index is put in i, if it is ready; n: the length now."""
        cdef PyObject *result = NULL
        cdef lzs_section section
        lzs_lock(&section, <PyObject *>self)
        if self.i < min(n, self.ready_stop):
            i[0] = self.i
            self.i += 1
            result = exchanged_item(<PyObject *>self.ready, i[0] - self.ready_start, <PyObject *>None)
        lzs_unlock(&section)
        return result

    cdef inline object delivered(self, Py_ssize_t i, object result):
        """What the result of item i means to the reader."""
        if type(result) is Failure:
            raise self.view.error_of(i, result)
        return result

    cdef int make_ready(self, Engine engine, Window window) except -1:
        """Take what is left of a finished run, of which the window would wait for the end before it publishes more."""
        cdef Run run = window.held
        if run is None or not window.is_in_turn(engine) or window.kept is not None or lzs_load(&run.state.cut):
            return 0
        if not run.has(run.stop - 1) or run.parcel is not None or size_of(window.source) == UNKNOWN:
            return 0
        with cython.critical_section(self):
            self.ready, self.ready_start, self.ready_stop = run.results, run.start, run.stop
        run.results = []  # an idle worker may know the run for long, and is done with it
        window.position, window.held = run.stop, None
        return 0

    cdef object next_slowly(self, Prefetch view):
        cdef Engine engine
        cdef Window window
        try:
            if view.reads_directly():
                return self.next_directly(view)
            with cython.critical_section(self):
                engine, window = self.engine, self.window
            if window is None or engine.is_over():
                engine, window = self.begin(view)  # the first read, or the workers have gone
            if window is None:
                return self.next_directly(view)
            return view.read_through(engine, window, 0, 0, self)
        except IndexError:
            if view.size() != UNKNOWN:
                raise
        with cython.critical_section(self):
            self.ended = True
        raise StopIteration

    cdef Py_ssize_t advance(self, PyObject **ready) except -1:
        """The index of the next item, or StopIteration; `ready` is its result, which another thread may have got."""
        cdef Py_ssize_t i = 0, n = self.view.size()
        ready[0] = self.take_ready(n, &i)
        if ready[0] != NULL:
            return i
        with cython.critical_section(self):
            i = self.i
            self.ready_stop = 0
            if not self.ended and (i < n or n == UNKNOWN):
                self.i = i + 1
            else:
                self.ended = True
            ended = self.ended
        if ended:
            raise StopIteration
        return i

    cdef object next_directly(self, Prefetch view):
        cdef PyObject *ready = NULL
        cdef Py_ssize_t i = self.advance(&ready)
        return view.read_directly(i) if ready == NULL else self.delivered(i, owned(ready))

    cdef tuple begin(self, Prefetch view):
        """The engine and the window, or None where there are too many."""
        cdef Engine engine = view.crew.started()
        cdef Window window = view.crew.window(engine, view.source, view.route, self.i), other
        with cython.critical_section(self):
            other = self.window if self.engine is engine else None
            if other is None:
                self.engine, self.window = engine, window
        if other is None:
            return engine, window
        if window is not None:
            view.crew.retire(engine, window)  # another thread has been faster
        return engine, other

    def __del__(self):
        if self.window is not None:
            self.view.crew.retire(self.engine, self.window)


@cython.final
cdef class CompletedIterator:
    """The items of a prefetch and their indices, in the order in which they are finished, through a window of its own.

    A run leaves the ring as soon as a worker begins it, so that a slow one keeps no other from being published. It is
    one grain of the source, so that no item waits for another that it shares nothing with.

    Threads: `window` and `engine` change under the crew's lock, all else under the window's, or in a critical section
    where there is none; a new window begins where the last one's readers have been told that their workers are gone.
    """
    cdef Prefetch view
    cdef Engine engine
    cdef Window window
    cdef object unclaimed  # the runs in the ring, as pairs (start, stop), oldest first
    cdef list running  # the runs that are begun and not delivered whole
    cdef list again  # pairs (start, stop) to publish once more
    cdef Py_ssize_t first_unpublished
    cdef Py_ssize_t owed  # how many items are published and not delivered
    cdef Py_ssize_t end  # where an unknown length was seen to end; UNKNOWN: not yet
    cdef bint failed  # reading has ended for good, as was said
    cdef long long since  # if there is a timeout, since when it has waited for a run to begin, in ns; 0: it has not

    def __init__(self, Prefetch view):
        self.view, self.unclaimed, self.running, self.again, self.end = view, deque(), [], [], UNKNOWN

    def __iter__(self):
        return self

    def __next__(self):
        cdef list dropped = []
        cdef object error
        if self.view.reads_directly():
            return self.next_in_order()
        if self.failed:
            raise StopIteration
        window = self.current_window()
        if window is None:
            return self.next_in_order()
        window.acquire(self.engine)
        try:
            found = self.next_completed(dropped)
        except WorkerDiedError:  # of no item: nobody evaluates the rest
            self.failed = True
            raise
        finally:
            window.give_back()
        if found is None:
            raise StopIteration
        i, result = found
        if type(result) is not Failure:
            return found
        error = self.view.error_of(i, result)
        if not (<Failure>result).is_timeout:
            if not isinstance(error, EvaluationError):  # those tell the way to the item
                error.add_note(f"while evaluating item {i} of {self.view.label()} made at {self.view.site}")
        raise error

    cdef object next_in_order(self):
        """Without workers, or as one of them."""
        cdef Py_ssize_t i, stop, n = self.view.size()
        with cython.critical_section(self):
            if self.again:
                i, stop = self.again.pop()
                if i + 1 < stop:
                    self.again.append((i + 1, stop))
            else:
                i = self.first_unpublished
                if i < n or n == UNKNOWN:
                    self.first_unpublished = i + 1
        if (i >= n and n != UNKNOWN) or (self.end != UNKNOWN and i >= self.end):
            raise StopIteration
        try:
            return i, self.view.read_directly(i)
        except IndexError:
            if n != UNKNOWN:
                raise
        self.end = i
        raise StopIteration

    cdef Window current_window(self):
        """The window, or None where there are too many."""
        with self.view.crew.lock:
            if self.window is not None and self.engine.is_over():
                # Go on with other workers: what the last ones had to do is done again.
                self.again.extend(self.unclaimed)
                self.again.extend([((<Run>run).next, (<Run>run).stop) for run in self.running])
                self.window, self.unclaimed, self.running, self.owed = None, deque(), [], 0
            if self.window is None:
                self.engine = self.view.crew.started()
                self.window = self.view.crew.window(self.engine, self.view.source, self.view.route, 0)
            return self.window

    cdef object next_completed(self, list dropped):
        """(i, item i or its Failure), or None at the end."""
        while True:
            self.take_runs()
            found = self.take_one(dropped)
            if found is not None:
                return found
            self.publish()
            if self.owed == 0:
                return None
            self.wait()

    cdef int take_runs(self) except -1:
        """Hold the runs that workers have begun."""
        cdef void *taken
        while lzs_ring_take(self.window.ring, &taken) == LZS_OK:
            self.running.append(run_at(processes_of(self.engine), taken))
            self.unclaimed.popleft()
            self.since = 0
        return 0

    cdef object take_one(self, list dropped):
        """(i, item i or its Failure) of the first run that has one, or None."""
        cdef Run run
        cdef Py_ssize_t i
        for run in list(self.running):
            while run.has(run.next):
                i = run.next
                result = run.take(i)
                self.owed -= 1
                if run.next == run.stop:
                    self.running.remove(run)
                if self.engine.arena is not None:
                    result = (<ProcessEngine>self.engine).judged(self.window, i, result)
                if type(result) is Failure and isinstance((<Failure>result).error, IndexError):
                    if self.view.size() == UNKNOWN:
                        self.end = i if self.end == UNKNOWN else min(self.end, i)
                if self.end == UNKNOWN or i < self.end:
                    return i, result
                dropped.append(result)
            if run.next < run.stop and lzs_load(&run.state.cut) == run.next + 1 and not lzs_load(&run.state.overdue):
                run.give_up(dropped)  # its worker has died
                self.running.remove(run)
                self.owed -= run.stop - run.next
                self.again.append((run.next, run.stop))
                continue
            if run.next < run.stop and lzs_load(&run.state.overdue):
                i = run.start + lzs_load(&run.state.overdue) - 1
                run.give_up(dropped)
                self.running.remove(run)
                self.owed -= run.stop - run.next
                # What comes before it was not sent yet.
                self.again += [part for part in ((i + 1, run.stop), (run.next, i)) if part[0] < part[1]]
                return i, Failure(None, True)
        return None

    cdef int publish(self) except -1:
        """Publish what there is room for."""
        cdef Window window = self.window
        cdef Py_ssize_t n = self.view.size(), grain = window.grain, start, stop
        cdef Py_ssize_t most = window.most if grain <= window.most else window.most * grain
        cdef lzs_run run
        while True:
            if self.again:
                start, stop = self.again[len(self.again) - 1]
            else:
                start = self.first_unpublished
                stop = start - start % grain + grain
                if n != UNKNOWN:
                    stop = min(stop, n)
            if start >= stop or (self.end != UNKNOWN and start >= self.end) or (
                    self.owed and self.owed + stop - start > most):
                break
            run.index, run.count, run.item = start, stop - start, start
            if self.engine.arena is not None:
                (<ProcessEngine>self.engine).address(&run, window.route)
                stop = start + run.count
            if lzs_ring_publish(window.ring, run) != LZS_OK:
                break
            self.unclaimed.append((start, stop))
            self.owed += stop - start
            if self.again:
                _, last = self.again.pop()
                if stop < last:
                    self.again.append((stop, last))
            else:
                self.first_unpublished = stop
        lzs_ring_flush(window.ring)
        return 0

    cdef int wait(self) except -1:
        """Wait until a worker has finished an item, or claimed a run."""
        cdef Run run = None
        cdef lzs_ring *ring = self.window.ring
        cdef lzs_progress *progress
        cdef lzs_status status = LZS_OK
        cdef bint ready = False
        cdef int64_t enough
        cdef int ms = self.window.wait_ms(self.engine, self.window.grain)
        for run in self.running:
            lzs_progress_want(&run.state.progress, run.next + 1 - run.start)
            ready = ready or run.has(run.next) or lzs_load(&run.state.overdue) != 0
        if not ready:
            if self.unclaimed:
                if self.since == 0 and self.engine.timeout_ns:
                    self.since = monotonic_ns()
                with nogil:
                    status = lzs_ring_wait(ring, 0, ms)
            else:
                progress, enough = &run.state.progress, run.next + 1 - run.start
                with nogil:
                    status = lzs_progress_wait(progress, ring, enough, ms)
        for run in self.running:
            lzs_progress_want(&run.state.progress, 0)
        self.view.look_up(self.engine, self.window, status, self.since if self.unclaimed else 0)
        return 0

    def __del__(self):
        cdef Run run
        if self.window is not None:
            for run in self.running:
                run.give_up([])
            self.view.crew.retire(self.engine, self.window)


max_workers = LZS_MAX_WORKERS
