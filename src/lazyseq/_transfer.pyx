# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""How results travel between processes: pickled into blocks of an arena that they share.

A message is a block with the pickle of a value; each large buffer of the value has a block of its own, which is
filled by one copy and never copied again: the reader's objects are views of it, and the last one gives it back.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
)
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memcpy
from ._arena cimport *

import copyreg
import errno
import mmap
import os
import sys
import time
import warnings
from pickle import PickleBuffer, Pickler, loads
from time import monotonic_ns

import numpy

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    #include <io.h>
    #define lzs_add(p, v) (_InterlockedExchangeAdd64(p, v) + (v))
    #define lzs_close _close
    #define MAP_NORESERVE 0
    static void lzs_count_forks(void) { } /* there are none */
    #else
    #include <pthread.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #define lzs_add(p, v) __atomic_add_fetch(p, v, __ATOMIC_RELAXED)
    #define lzs_close close
    static void lzs_count_fork(void);
    static void lzs_count_forks(void) { pthread_atfork(NULL, NULL, lzs_count_fork); }
    #endif
    static unsigned lzs_forks;
    static void lzs_count_fork(void) { lzs_forks++; }
    """
    const unsigned lzs_forks  # how many lie between this process and the first that had this module
    void lzs_count_forks() noexcept
    long long lzs_add(long long *p, long long value) noexcept nogil
    int lzs_close(int descriptor) noexcept nogil
    int MAP_NORESERVE

cdef extern from "Python.h":
    enum:
        PyBUF_READ
    const Py_buffer *PyPickleBuffer_GetBuffer(object buffer) except NULL

cdef enum:
    LARGE = 16384  # buffers from so many bytes on have a block of their own
    LEAST_SPAN = 64 << 20  # of a worker's region
    LEAST_SPARE = 16 << 20  # bytes of its free blocks whose memory it may keep
    TIGHT = 1 << 30  # a file system with less room shall have back at once what is not in use
    NSET_ASIDE = 4  # blocks of a worker for what must be said when there is no memory
    SET_ASIDE = 2048  # their size
    PATIENCE_NS = 1_000_000_000  # how long to wait for memory while nobody gives any back

cdef struct array_shape:
    # What an array is beside its buffer; the lengths of its dimensions follow.
    int64_t kind  # numpy's letter for its type
    int64_t ndim

cdef struct Part:
    uint64_t offset  # 0: no longer the message's
    uint64_t length

# Not by os.register_at_fork: other functions that it has on its list may collect garbage before it comes to ours.
lzs_count_forks()

TOO_LARGE = {errno.ENOMEM, errno.EFBIG, errno.EINVAL}  # what the system says of a file or mapping


cdef unsigned forks() noexcept nogil:
    """A number that tells this process from those that it was forked from."""
    return lzs_forks


cdef inline Part *parts_of(Message *message) noexcept nogil:
    return <Part *>(message + 1)


cdef inline int copy(char *to, const void *source, uint64_t length) except -1:
    if length < LARGE:
        memcpy(to, source, length)
    else:
        with nogil:
            memcpy(to, source, length)
    return 0


@cython.final
@cython.no_gc  # no cycle leads through it
cdef class Block:
    """A buffer that was received. It can be written to: where the original could not, pickle makes a view that cannot.

    Its end, in any thread, gives the block back; not in a forked child, whose parent may still use it.
    """
    cdef Arena arena
    cdef uint64_t offset
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.arena.base + self.offset, self.length, 0, flags)

    def __dealloc__(self):
        if self.arena.is_ours():
            lzs_add(&self.arena.held_bytes, -self.length)
            lzs_arena_release(self.arena.arena, self.offset)


@cython.final
cdef class Sink:
    """What a pickler writes: the pickle, in chunks, and the buffers that travel beside it."""

    def __cinit__(self):
        self.chunks, self.buffers = [], []

    def write(self, chunk):
        # A view, so that nobody resizes what is not immutable.
        self.chunks.append(chunk if type(chunk) is bytes else memoryview(chunk))

    cdef uint64_t size(self) except? 0:
        return sum([memoryview(part).nbytes for part in self.chunks + self.buffers])

    def __call__(self, buffer):
        """Whether this one is to be part of the pickle."""
        cdef const Py_buffer *view = PyPickleBuffer_GetBuffer(buffer)
        if view.len < LARGE or not PyBuffer_IsContiguous(view, b"A"):
            return True
        self.buffers.append(buffer)
        return False

    cdef bint put_array(self, list values) except -1:
        """Take a list of nothing but one array, where its shape and its buffer are all of it. False: they are not."""
        cdef const Py_buffer *view
        cdef array_shape *shape
        cdef int k
        if len(values) != 1 or type(values[0]) is not numpy.ndarray or numpy.ndarray in copyreg.dispatch_table:
            return False
        array = values[0]
        char = array.dtype.char
        if not is_plain(array, char) or not array.flags.c_contiguous:
            return False
        buffer = PickleBuffer(array)
        view = PyPickleBuffer_GetBuffer(buffer)
        chunk = PyBytes_FromStringAndSize(NULL, sizeof(array_shape) + view.ndim * sizeof(Py_ssize_t))
        shape = <array_shape *>PyBytes_AS_STRING(chunk)
        shape.kind, shape.ndim = ord(char), view.ndim
        for k in range(view.ndim):
            (<Py_ssize_t *>(shape + 1))[k] = view.shape[k]
        self.chunks.append(chunk)
        self.buffers.append(buffer)
        self.shaped = True
        return True


@cython.final
@cython.no_gc
cdef class Arena:
    """Blocks in memory that is shared with the workers, one region of it for each of them to write to.

    At most `limit` bytes of what was received are views, or less where there is little shared memory; the rest is
    copied out. Can be pickled for a process that is being spawned.

    Threads: `arena` says who may call what of its functions; `held_bytes` and `warned` are counted atomically; `aside`
    is a worker's, in the thread that evaluates.
    """

    def __cinit__(self):
        self.descriptor, self.forks, self.aside = -1, forks(), []

    cdef bint is_ours(self) noexcept nogil:
        """Whether what we let go of is ours: a forked child has only copies of its parent's objects."""
        return self.forks == forks()

    def __init__(self, uint32_t owners, uint64_t common, uint64_t limit, uint64_t later=0):
        """The caller reserves the last `later` bytes of the common part before it writes to them."""
        cdef uint64_t head = lzs_arena_head(owners, common), stop
        cdef uint32_t owner
        cdef uint64_t span = memory_of_machine() // mmap.PAGESIZE * mmap.PAGESIZE
        if self.arena is not NULL:
            raise RuntimeError("an arena is made once")
        if owners == 0 or head == 0:
            raise ValueError(f"no arena has {owners} owners and {common} bytes in common")
        descriptor, self.folder = shared_file()
        self.descriptor = descriptor
        while True:
            try:
                os.ftruncate(descriptor, head + owners * span)
                self.map(descriptor, head + owners * span)
                break
            except (OSError, OverflowError) as error:
                if isinstance(error, OSError) and error.errno not in TOO_LARGE:
                    raise
                if span <= LEAST_SPAN:
                    raise MemoryError(
                        f"the system gives no shared memory: {head + owners * span:,} bytes of addresses were asked "
                        f"for, for {owners} workers ({error}). Raise the limit of the address space or of the size of "
                        "a file (ulimit -v, ulimit -f), or have fewer workers."
                    ) from None
                span = max(span // 2, <uint64_t>LEAST_SPAN)
        # What is kept must leave room for what comes, which may all be one worker's.
        self.limit = min(limit, span // 2)
        self.owners, self.span, self.common = owners, span, lzs_arena_common(NULL)
        if self.folder is not None:
            self.reserve(0, self.common + common - later)
            self.reserve(self.common + common, head)
        self.arena = lzs_arena_make(self.base, head + owners * span, owners, common, self.folder is not None)
        lzs_arena_spare(self.arena, max(self.limit // owners, <uint64_t>LEAST_SPARE))
        if self.folder is not None:
            for owner in range(owners):
                stop = head + owner * span + NSET_ASIDE * 2 * SET_ASIDE
                self.reserve(head + owner * span, stop)
                lzs_arena_reserved(self.arena, owner, lzs_extent(0, stop, 0))
            self.limit = min(self.limit, self.room() // 4)
            if self.room() < TIGHT:
                lzs_arena_spare(self.arena, 0)

    cdef int map(self, int descriptor, uint64_t size) except -1:
        memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | MAP_NORESERVE)
        PyObject_GetBuffer(memory, &self.mapping, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.base = <char *>self.mapping.buf
        return 0

    def __dealloc__(self):
        PyBuffer_Release(&self.mapping)
        if self.descriptor >= 0:
            lzs_close(self.descriptor)

    def __reduce__(self):
        from multiprocessing import context, reduction
        context.assert_spawning(self)
        return _attached, (
            reduction.DupFd(self.descriptor), self.mapping.len, self.owners, self.span, self.limit,
            self.folder,
        )

    cdef uint64_t room(self) except? 0:
        """How many bytes the file system has left."""
        room = os.fstatvfs(self.descriptor)
        return room.f_bavail * room.f_frsize

    cdef int reserve(self, uint64_t start, uint64_t stop) except -1:
        """Have the file system set memory aside. Else who writes where it has none left is killed by a signal."""
        if self.folder is None:
            return 0
        try:
            fill(self.descriptor, start, stop - start)
        except OSError as error:
            raise MemoryError(
                f"shared memory is full: {stop - start:,} more bytes were asked for, and "
                f"{self.room():,} are free in {self.folder} ({error.strerror}). Make it larger "
                f"(docker run --shm-size=..., mount -o remount,size=... {self.folder}), or lower shm_size or "
                "max_buffered."
            ) from None
        return 0

    cdef uint64_t allocate(self, uint32_t owner, uint64_t size) except 0:
        """A block that is the caller's to fill and to release."""
        cdef lzs_extent missing
        cdef uint64_t offset = lzs_arena_allocate(self.arena, owner, size, &missing)
        while offset == 0 and missing.to != 0:
            try:
                self.reserve(missing.start, missing.to)
                lzs_arena_reserved(self.arena, owner, missing)
            except MemoryError:
                if lzs_arena_spare(self.arena, 0) == 0:
                    offset = lzs_arena_allocate_larger(self.arena, owner, size)
                    if offset == 0:
                        raise
                    break
            offset = lzs_arena_allocate(self.arena, owner, size, &missing)
        if offset == 0:
            lzs_arena_spare(self.arena, 0)
            raise MemoryError(
                f"shared memory is full: {size:,} bytes were asked for, and {lzs_arena_used(self.arena, owner):,} of "
                f"the {self.span:,} that a worker has are in use. Lower shm_size or max_buffered, or make items "
                "smaller."
            )
        return offset

    cdef int set_aside(self, uint32_t owner) except -1:
        """Have blocks for what must not fail, if there is memory. Only this process knows them."""
        try:
            while len(self.aside) < NSET_ASIDE:
                self.aside.append(self.allocate(owner, SET_ASIDE))
        except MemoryError:
            pass
        return 0

    cdef uint64_t allocate_surely(self, uint32_t owner, uint64_t size) except 0:
        """The same, if need be one that was set aside, or as soon as others give theirs back.

        If none does for long, the error ends this process, which its reader sees: it may wait for us alone.
        """
        cdef uint64_t given, seen = 0
        cdef long long since = 0
        while True:
            given = lzs_arena_given(self.arena)
            try:
                return self.allocate(owner, size)
            except MemoryError:
                if size <= SET_ASIDE and self.aside:
                    return self.aside.pop()
                if since == 0 or given != seen:
                    since, seen = monotonic_ns(), given
                elif monotonic_ns() - since > 5 * <long long>PATIENCE_NS:
                    raise
            time.sleep(0.001)

    cdef void release(self, uint64_t offset) noexcept nogil:
        lzs_arena_release(self.arena, offset)

    cdef void keep_block(self, uint64_t offset) noexcept nogil:
        """Others know the block now: the death of its worker does not free it."""
        lzs_arena_keep(self.arena, offset)

    cdef Sink pickled(self, object value):
        cdef Sink sink = Sink()
        if type(value) is list and sink.put_array(value):  # a tenth of what pickle takes
            return sink
        pickler = Pickler(sink, 5, buffer_callback=sink)
        pickler.dispatch_table = reducers
        try:
            pickler.dump(value)
        except Exception:
            if not self.spawned:
                raise
            sink = Sink()
            import cloudpickle
            cloudpickle.Pickler(sink, 5, buffer_callback=sink).dump(value)
        return sink

    cpdef uint64_t write(self, uint32_t owner, object value) except 0:
        """The message with a pickled value. When that cannot be pickled, the error is pickle's.

        In a process that was spawned, classes may have come pickled by value, and so may go back.
        """
        return self.filled(owner, self.pickled(value), False)

    cdef uint64_t write_surely(self, uint32_t owner, object value) except 0:
        """The same of a value without large buffers; if there is no memory, a small one all the same, others later."""
        return self.filled(owner, self.pickled(value), True)

    cdef uint64_t write_patiently(self, uint32_t owner, object value, const long long *unwanted) except 0:
        """The same; if there is no memory, it waits while some is given back, and the message is wanted."""
        cdef Sink sink = self.pickled(value)
        cdef uint64_t given, seen = 0
        cdef long long since = 0
        while True:
            given = lzs_arena_given(self.arena)
            try:
                return self.filled(owner, sink, False)
            except MemoryError:
                if unwanted[0] or sink.size() > (self.span if self.folder is None else self.room() + self.used()):
                    raise
                if since == 0 or given != seen:
                    since, seen = monotonic_ns(), given
                elif monotonic_ns() - since > PATIENCE_NS:
                    raise
            time.sleep(0.001)  # holding nothing

    cdef uint64_t filled(self, uint32_t owner, Sink sink, bint surely) except 0:
        """A message with what a pickler has written."""
        cdef uint64_t pickled = 0, size, offset
        cdef Message *message
        cdef Part *part
        cdef const Py_buffer *view
        cdef Py_buffer chunk_view
        cdef char *to
        for chunk in sink.chunks:
            pickled += len(chunk)
        size = sizeof(Message) + len(sink.buffers) * sizeof(Part) + pickled
        offset = self.allocate_surely(owner, size) if surely else self.allocate(owner, size)
        message = <Message *>(self.base + offset)
        message.count = message.nparts = 0
        message.pickled, message.shaped = pickled, sink.shaped
        part = parts_of(message)
        to = <char *>(part + len(sink.buffers))
        try:
            for chunk in sink.chunks:
                PyObject_GetBuffer(chunk, &chunk_view, PyBUF_SIMPLE)
                copy(to, chunk_view.buf, chunk_view.len)
                to += chunk_view.len
                PyBuffer_Release(&chunk_view)
            for buffer in sink.buffers:
                view = PyPickleBuffer_GetBuffer(buffer)
                part.offset = self.allocate(owner, view.len)
                part.length = view.len
                message.nparts += 1
                copy(self.base + part.offset, view.buf, view.len)
                part += 1
        except BaseException:
            self.drop(offset)
            raise
        return offset

    cpdef object read(self, uint64_t message, list interruptions=None):
        """The value of a message, which is given back.

        What a signal handler raises meanwhile, or a warning that is an error, is no reason to lose the value: it is
        appended to interruptions if there is such a list, else raised.
        """
        cdef Message *m = <Message *>(self.base + message)
        cdef Part *part = parts_of(m)
        cdef uint64_t k, offset
        cdef bint copied = False
        cdef list buffers = [], raised = [] if interruptions is None else interruptions
        try:
            for k in range(m.nparts):
                offset, part[k].offset = part[k].offset, 0
                buffer = self.receive(offset, part[k].length)
                copied |= type(buffer) is bytearray
                buffers.append(buffer)
            if m.shaped:
                value = [shaped(<array_shape *>(part + 1), buffers[0])]
            else:
                pickled = PyMemoryView_FromMemory(<char *>(part + m.nparts), m.pickled, PyBUF_READ)
                try:
                    value = loads(pickled, buffers=buffers)
                except BaseException as error:
                    value = loads(pickled, buffers=buffers)  # which raises again what is the value's own error
                    raised.append(error)
        finally:
            self.drop(message)
        if copied and lzs_add(&self.warned, 1) == 1:
            try:
                warnings.warn(
                    f"More than shm_size={self.limit:,} bytes of items are kept: from here on they are copied, which "
                    "takes longer. Keep fewer of them, or set a larger shm_size.",
                    RuntimeWarning,
                )
            except BaseException as error:
                raised.append(error)
        if interruptions is None and raised:
            raise raised[0]
        return value

    cdef object receive(self, uint64_t offset, uint64_t length):
        """What stands for a buffer: its block, or a copy where too much is held."""
        cdef Block block
        if <uint64_t>lzs_add(&self.held_bytes, length) <= self.limit:
            lzs_arena_keep(self.arena, offset)
            block = Block.__new__(Block)
            block.arena, block.offset, block.length = self, offset, length
            return block
        lzs_add(&self.held_bytes, -<long long>length)
        try:
            copied = PyByteArray_FromStringAndSize(NULL, length)
            copy(PyByteArray_AS_STRING(copied), self.base + offset, length)
        finally:
            lzs_arena_release(self.arena, offset)
        return copied

    cpdef void drop(self, uint64_t message) noexcept nogil:
        """Give a message back that nobody will read."""
        cdef Message *m = <Message *>(self.base + message)
        cdef uint64_t k
        for k in range(m.nparts):
            if parts_of(m)[k].offset != 0:
                lzs_arena_release(self.arena, parts_of(m)[k].offset)
        lzs_arena_release(self.arena, message)

    cdef void keep(self, uint64_t message) noexcept nogil:
        """The message was received: the death of the worker that wrote it does not matter any more."""
        cdef Message *m = <Message *>(self.base + message)
        cdef uint64_t k
        lzs_arena_keep(self.arena, message)
        for k in range(m.nparts):
            lzs_arena_keep(self.arena, parts_of(m)[k].offset)

    cpdef uint64_t reclaim(self, uint32_t owner) noexcept nogil:
        """Free what a dead worker wrote and nobody kept: whatever it handed over must be kept, or read, before."""
        return lzs_arena_reclaim(self.arena, owner)

    cpdef uint64_t used(self) noexcept nogil:
        """How many bytes are in messages and buffers."""
        cdef uint64_t used = 0
        cdef uint32_t owner
        for owner in range(self.owners):
            used += lzs_arena_used(self.arena, owner)
        return used

    @property
    def held(self):
        """How many bytes of what was received are views."""
        return self.held_bytes


cdef object shaped(const array_shape *shape, object buffer):
    """The array of that shape in a buffer."""
    cdef int64_t k
    lengths = tuple([(<Py_ssize_t *>(shape + 1))[k] for k in range(shape.ndim)])
    return numpy.ndarray(lengths, plain_types[chr(shape.kind)], buffer)


def _attached(duplicate, size, uint32_t owners, uint64_t span, uint64_t limit, folder):
    """An arena in a process that was spawned."""
    cdef Arena arena = Arena.__new__(Arena)
    arena.descriptor = duplicate.detach()
    os.set_inheritable(arena.descriptor, False)  # it came through an exec: its own children need not have it
    arena.map(arena.descriptor, size)
    arena.arena, arena.spawned = <lzs_arena *>arena.base, True
    arena.common = lzs_arena_common(arena.arena)
    arena.owners, arena.span, arena.limit, arena.folder = owners, span, limit, folder
    return arena


# ---- What may change -------------------------------------------------------------------------------------------------


cdef inline bint never_changes(object value) noexcept:
    kind = type(value)
    return (value is None or kind is int or kind is float or kind is str or kind is bool or kind is bytes
            or kind is complex)


cdef object copy_of(object value):
    """A list, tuple or dict as it is now, else None."""
    if type(value) is list:
        return (<list>value)[:]
    if type(value) is dict:
        return (<dict>value).copy()
    return value if type(value) is tuple else None


cdef object containers_in(object container):
    """The keys of what in a container may change, None if there are too many, or a key of it may."""
    cdef list found = []
    cdef Py_ssize_t k
    if type(container) is dict:
        for key, value in (<dict>container).items():
            if not never_changes(key):
                return None
            if not never_changes(value):
                found.append(key)
    else:
        for k, value in enumerate(container):
            if not never_changes(value):
                found.append(k)
    return found if len(found) < 2 else None


cdef bint keep_last(list values) except -1:
    """Put in the place of the last value what stays as it is, whatever becomes of the value. False: nothing does.

    Plain values, and a list, tuple or dict of them, with one such within at most: two could be the same one.
    """
    cdef Py_ssize_t last = len(values) - 1
    cdef object value = values[last], inner
    if never_changes(value):
        return True
    value = copy_of(value)
    if value is None:
        return False
    keys = containers_in(value)
    if keys is None:
        return False
    for key in <list>keys:
        inner = copy_of(value[key])
        if inner is None or containers_in(inner) != []:
            return False
        if type(value) is tuple:
            value = (*value[:key], inner, *value[key + 1:])
        else:
            value[key] = inner
    values[last] = value
    return True


# ---- The system ----------------------------------------------------------------------------------------------------

cdef tuple shared_file():
    """A new file without a name, and the folder whose file system must set memory aside for it, None if none need."""
    try:
        return os.memfd_create("lazyseq"), None
    except AttributeError:
        pass
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no other file can be opened either
    try:
        return unnamed_file("/dev/shm")
    except OSError:
        import tempfile
        return unnamed_file(tempfile.gettempdir())


cdef tuple unnamed_file(folder):
    import tempfile
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno()), folder


cdef int fill(int descriptor, uint64_t start, uint64_t length) except -1:
    """Have a file system set a part of a file aside that was never written to."""
    cdef uint64_t stop = start + length
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, length)
        return 0
    zeros = bytes(min(length, 1 << 20))
    while start < stop:
        start += os.pwrite(descriptor, zeros[:stop - start], start)
    return 0


cdef uint64_t memory_of_machine() except 0:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _text_of(path):
    with open(path) as file:
        return file.read()


cdef list memory_limits():
    """Of the control groups that this process is in."""
    limits = []
    try:
        groups = _text_of("/proc/self/cgroup").splitlines()
    except OSError:
        return limits
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":
            root, name = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        names = path.split("/")[1:]
        for depth in range(len(names) + 1):  # each group is bound by those around it
            try:
                limits.append(int(_text_of(os.path.join(root, *names[:depth], name))))
            except (OSError, ValueError):  # no such file, or "max"
                pass
    return limits


def usable_memory():
    """How many bytes of memory this process may use."""
    return min([memory_of_machine()] + memory_limits())


# ---- Arrays and tensors ----------------------------------------------------------------------------------------------

cdef dict plain_types = {
    char: numpy.dtype(char) for char in numpy.typecodes["AllFloat"] + numpy.typecodes["AllInteger"] + "?"
}
cdef object tensor_type = None  # torch's, once somebody has imported that
cdef frozenset tensor_types = frozenset()  # the types of items for which numpy has one


cdef bint knows_tensors() except -1:
    global tensor_type, tensor_types
    if tensor_type is None:
        torch = sys.modules.get("torch")
        if torch is None:
            return False
        names = "bool uint8 int8 int16 int32 int64 float16 float32 float64 complex64 complex128 bfloat16".split()
        if not all(hasattr(torch, name) for name in [*names, "Tensor", "from_numpy"]):
            return False  # it is being imported
        tensor_types = frozenset(getattr(torch, name) for name in names)
        tensor_type = torch.Tensor
    return True


cdef bint is_plain(object array, object char) except -1:
    """Whether an array, with this letter for its type, is large, and numpy.ndarray() can make it from a buffer.

    Of what is read-only it would make what can be set to be written to.
    """
    return array.nbytes >= LARGE and plain_types.get(char) is array.dtype and array.flags.writeable


@cython.final
cdef class Reducers:
    """Pickle's table of how to take things apart, with arrays and tensors."""

    def __getitem__(self, kind):
        if kind is numpy.ndarray and kind not in copyreg.dispatch_table:
            return _reduced_array
        if knows_tensors() and kind is tensor_type:
            return _reduced
        return copyreg.dispatch_table[kind]


cdef Reducers reducers = Reducers()


def _reduced_array(array):
    """An array as the call that makes it, where that is all: numpy's own way takes three times as long."""
    char = array.dtype.char
    if is_plain(array, char):
        flags = array.flags
        if flags.c_contiguous:
            return numpy.ndarray, (array.shape, char, PickleBuffer(array))
        if flags.f_contiguous:
            return numpy.ndarray, (array.shape, char, PickleBuffer(array), 0, None, "F")
    return array.__reduce_ex__(5)


def _reduced(tensor):
    """A tensor by way of numpy, which pickles buffers without a copy. What that would lose goes torch's way."""
    torch = sys.modules["torch"]
    if (
        tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.dtype not in tensor_types
        or tensor.requires_grad or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg() or tensor.__dict__
    ):
        return tensor.__reduce_ex__(5)
    if tensor.dtype is torch.bfloat16:
        return _tensor_of, (tensor.view(torch.int16).numpy(), True)
    return _tensor_of, (tensor.numpy(), False)


def _tensor_of(array, bint is_bfloat16):
    import torch
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor
