"""Results on their way from one process to another, for the engine."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from ._arena cimport lzs_arena

@cython.final
cdef class Arena:
    cdef char *base
    cdef lzs_arena *arena
    cdef uint64_t common  # where the engine's own memory begins, zeroed at first
    cdef uint64_t size
    cdef uint64_t limit
    cdef long long held  # how many bytes the buffers take that readers have
    cdef long made_by  # the process
    cdef bint warned
    cdef object memory
    cdef int file
    cdef Py_buffer mapped

    cdef int map(self) except -1
    cdef bint is_ours(self) noexcept
    cdef uint64_t allocate(self, uint32_t owner, uint64_t size) except 0
    cdef void release(self, uint64_t block) noexcept nogil
    cdef uint64_t write(self, uint32_t owner, object value) except 0
    cdef object read(self, uint64_t message)
    cdef void drop(self, uint64_t message) noexcept nogil
    cdef object received(self, uint64_t block, uint64_t size, bint readonly)
