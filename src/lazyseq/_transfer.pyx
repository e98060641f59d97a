# cython: language_level=3, auto_pickle=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Results on their way from one process to another, through memory that both have.

A value is pickled, and its large buffers travel beside the pickle (PEP 574), each in a block of the arena. The reader's
arrays look at these very blocks; one that dies gives its block back to the worker that had filled it.
"""

cimport cython
from cpython.buffer cimport (PyBUF_READ, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memcpy
from ._arena cimport *

import mmap
import multiprocessing.reduction
import os
import pickle
import tempfile
import warnings
from multiprocessing.context import get_spawning_popen

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <process.h>
    #define lzs_add(p, n) (_InterlockedExchangeAdd64(p, n) + (n))
    #define lzs_process() ((long)_getpid())
    #else
    #include <unistd.h>
    #define lzs_add(p, n) __atomic_add_fetch(p, n, __ATOMIC_RELAXED)
    #define lzs_process() ((long)getpid())
    #endif
    """
    long long lzs_add(long long *p, long long n) noexcept
    long lzs_process() noexcept

cdef enum:
    OUT_OF_BAND = 1 << 14  # the least buffer that is worth a block of its own
    LEAST_REGION = 1 << 26


cdef struct message:
    # Behind it: `nbuffers` of sent_buffer, then the pickle.
    uint64_t length  # of the pickle
    uint64_t nbuffers


cdef struct sent_buffer:
    uint64_t block
    uint64_t size
    uint64_t readonly


cdef inline sent_buffer *buffers_of(message *m) noexcept nogil:
    return <sent_buffer *>(m + 1)


@cython.final
cdef class Arena:
    """Memory that a reader and its workers share; what they keep in it are offsets.

    Threads: blocks and messages belong to one thread at a time. `held` is changed by atomic additions; `warned` is only
    ever set; the rest never changes.
    """

    def __cinit__(self):
        self.file, self.made_by = -1, lzs_process()

    def __init__(self, uint32_t owners, uint64_t common, uint64_t limit, uint64_t memory):
        """For so many workers, with `common` bytes for the caller; readers hold at most `limit` bytes of buffers, and
        the machine has `memory` bytes."""
        self.limit = limit
        if hasattr(os, "memfd_create"):
            self.reserve_sparsely(owners, common, memory)
        else:
            self.reserve_in_file(owners, common)
        self.arena = lzs_arena_make(self.base, self.size, owners, common)
        self.common = lzs_arena_common(self.arena)

    def reserve_sparsely(self, uint32_t owners, uint64_t common, uint64_t memory):
        """A file without a name, which takes no memory until it is written to: each worker may fill the machine's."""
        cdef uint64_t region = max(<uint64_t>LEAST_REGION, min(memory, (<uint64_t>1 << 46) // owners))
        try:
            self.file = os.memfd_create("lazyseq")
        except OSError:  # a kernel or a sandbox that has none
            self.reserve_in_file(owners, common)
            return
        while True:
            self.size = needed(owners, common, region)
            try:
                os.ftruncate(self.file, self.size)
                self.map()
                return
            except (OSError, ValueError, OverflowError) as error:  # a limit on the address space, or on files
                if region == LEAST_REGION:
                    raise MemoryError(f"prefetch: {self.size >> 20} MiB of address space for results cannot be had: "
                                      f"{error}") from error
                region = max(<uint64_t>LEAST_REGION, region // 2)

    def reserve_in_file(self, uint32_t owners, uint64_t common):
        """The same in a file system, which must have room for all of it: to run out of it later would be fatal."""
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
        self.size = needed(owners, common, LEAST_REGION + self.limit // owners)
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, self.size)
            except OSError as error:
                status = os.statvfs(folder)
                raise MemoryError(
                    f"prefetch: {self.size >> 20} MiB for results cannot be had in {folder}, where "
                    f"{status.f_bavail * status.f_frsize >> 20} MiB are free: make shm_size smaller, or it larger"
                ) from error
            self.file = os.dup(file.fileno())
        self.map()

    cdef int map(self) except -1:
        self.memory = mmap.mmap(self.file, self.size, mmap.MAP_SHARED | getattr(mmap, "MAP_NORESERVE", 0))
        PyObject_GetBuffer(self.memory, &self.mapped, PyBUF_SIMPLE)
        self.base = <char *>self.mapped.buf
        return 0

    def __dealloc__(self):
        if self.base != NULL:
            PyBuffer_Release(&self.mapped)
        if self.file >= 0:
            os.close(self.file)

    def __reduce__(self):
        if get_spawning_popen() is None:
            raise TypeError("an arena is shared with processes that are being started, and with nobody else")
        return attached, (multiprocessing.reduction.DupFd(self.file), self.size, self.limit)

    cdef bint is_ours(self) noexcept:
        """Whether what we let go of is ours: a forked child only has copies of its parent's objects."""
        return lzs_process() == self.made_by

    cdef uint64_t allocate(self, uint32_t owner, uint64_t size) except 0:
        cdef uint64_t block = lzs_arena_allocate(self.arena, owner, size)
        if block == 0:
            raise MemoryError(f"prefetch: no room for a result of {size} bytes in the worker's part of "
                              f"{self.size >> 20} MiB of shared memory")
        return block

    cdef void release(self, uint64_t block) noexcept nogil:
        lzs_arena_release(self.arena, block)

    cdef uint64_t write(self, uint32_t owner, object value) except 0:
        """A message of the value; pickle's errors come through, and leave nothing behind."""
        cdef list large = []
        cdef bytes data = pickled(value, large)
        cdef Py_ssize_t k, n = len(large), length = PyBytes_GET_SIZE(data)
        cdef uint64_t found = self.allocate(owner, sizeof(message) + n * sizeof(sent_buffer) + length)
        cdef message *m = <message *>(self.base + found)
        cdef sent_buffer *sent
        cdef Py_buffer source
        m.length, m.nbuffers = length, 0
        try:
            for k in range(n):
                sent = buffers_of(m) + k
                PyObject_GetBuffer(large[k], &source, PyBUF_SIMPLE)
                try:
                    sent.size, sent.readonly = source.len, source.readonly
                    sent.block = self.allocate(owner, source.len)
                    m.nbuffers += 1
                    with nogil:
                        memcpy(self.base + sent.block, source.buf, source.len)
                finally:
                    PyBuffer_Release(&source)
        except BaseException:
            self.drop(found)
            raise
        memcpy(buffers_of(m) + n, PyBytes_AS_STRING(data), length)
        return found

    cdef object read(self, uint64_t message_at):
        """The value of a message, which is given back."""
        cdef message *m = <message *>(self.base + message_at)
        cdef sent_buffer *sent = buffers_of(m)
        cdef list buffers = []
        cdef Py_ssize_t k
        try:
            for k in range(<Py_ssize_t>m.nbuffers):
                buffers.append(self.received(sent[k].block, sent[k].size, sent[k].readonly))
            data = PyMemoryView_FromMemory(<char *>(sent + m.nbuffers), m.length, PyBUF_READ)
            return pickle.loads(data, buffers=buffers)
        finally:
            self.release(message_at)

    cdef void drop(self, uint64_t message_at) noexcept nogil:
        """Give a message back unread."""
        cdef message *m = <message *>(self.base + message_at)
        cdef uint64_t k
        for k in range(m.nbuffers):
            self.release(buffers_of(m)[k].block)
        self.release(message_at)

    cdef object received(self, uint64_t block, uint64_t size, bint readonly):
        """A block as a buffer; a copy of it, where readers have too much already."""
        cdef Block found
        cdef bytearray copy
        if lzs_add(&self.held, size) <= <long long>self.limit:
            found = Block.__new__(Block)
            found.arena, found.block, found.size, found.readonly = self, block, size, readonly
            return found
        lzs_add(&self.held, -<long long>size)
        if self.limit and not self.warned:
            self.warned = True
            warnings.warn(f"prefetch: results that are kept take more than shm_size={self.limit} bytes of shared "
                          "memory, and are copied from now on; a larger shm_size avoids it", RuntimeWarning)
        copy = bytearray(size)
        memcpy(<char *>copy, self.base + block, size)
        self.release(block)
        return bytes(copy) if readonly else copy


def attached(descriptor, uint64_t size, uint64_t limit):
    """The arena of the process that has started this one."""
    cdef Arena arena = Arena.__new__(Arena)
    arena.file, arena.size, arena.limit = descriptor.detach(), size, limit
    arena.map()
    arena.arena = <lzs_arena *>arena.base
    arena.common = lzs_arena_common(arena.arena)
    return arena


cdef uint64_t needed(uint32_t owners, uint64_t common, uint64_t region) noexcept:
    return common + owners * (region + (1 << 14)) + (1 << 14)


@cython.final
cdef class Block:
    """The buffer of a received array: memory of the arena, which gets it back when nobody looks at it any more."""
    cdef Arena arena
    cdef uint64_t block, size
    cdef bint readonly

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.arena.base + self.block, self.size, self.readonly, flags)

    def __dealloc__(self):
        if self.arena is not None and self.arena.is_ours():
            lzs_add(&self.arena.held, -<long long>self.size)
            self.arena.release(self.block)


cdef bytes pickled(object value, list large):
    """The pickle of a value without its large buffers, which are added to the list."""
    def keep(buffer):
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        large.append(raw)
        return False

    return pickle.dumps(value, 5, buffer_callback=keep)
