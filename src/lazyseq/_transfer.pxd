"""What the engine needs of the transfer of results."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from ._arena cimport lzs_arena, lzs_extent

cdef struct Message:
    int64_t count  # the caller's, 0 at first
    uint64_t pickled  # how many bytes
    uint64_t shaped  # whether these are no pickle, but the shape of one array
    uint64_t nparts  # how many buffers travel beside

cdef unsigned forks() noexcept nogil
cdef bint keep_last(list values) except -1


@cython.final
cdef class Sink:
    cdef list chunks, buffers
    cdef bint shaped  # see Message

    cdef uint64_t size(self) except? 0
    cdef bint put_array(self, list values) except -1


@cython.final
cdef class Arena:
    cdef char *base  # where the mapping begins in this process
    cdef uint64_t common  # the offset of the caller's part
    cdef readonly uint64_t limit
    cdef uint64_t span
    cdef uint32_t owners
    cdef lzs_arena *arena
    cdef Py_buffer mapping
    cdef object folder
    cdef list aside  # blocks for what must be said when there is no memory
    cdef int descriptor
    cdef long long held_bytes, warned
    cdef unsigned forks
    cdef bint spawned

    cdef int map(self, int descriptor, uint64_t size) except -1
    cdef uint64_t room(self) except? 0
    cdef int reserve(self, uint64_t start, uint64_t stop) except -1
    cdef uint64_t allocate(self, uint32_t owner, uint64_t size) except 0
    cdef int set_aside(self, uint32_t owner) except -1
    cdef uint64_t allocate_surely(self, uint32_t owner, uint64_t size) except 0
    cdef void release(self, uint64_t offset) noexcept nogil
    cdef void keep_block(self, uint64_t offset) noexcept nogil
    cdef bint is_ours(self) noexcept nogil
    cdef Sink pickled(self, object value)
    cpdef uint64_t write(self, uint32_t owner, object value) except 0
    cdef uint64_t write_surely(self, uint32_t owner, object value) except 0
    cdef uint64_t write_patiently(self, uint32_t owner, object value, const long long *unwanted) except 0
    cdef uint64_t filled(self, uint32_t owner, Sink sink, bint surely) except 0
    cpdef object read(self, uint64_t message, list interruptions=*)
    cpdef void drop(self, uint64_t message) noexcept nogil
    cdef void keep(self, uint64_t message) noexcept nogil
    cpdef uint64_t reclaim(self, uint32_t owner) noexcept nogil
    cpdef uint64_t used(self) noexcept nogil
    cdef object receive(self, uint64_t offset, uint64_t length)
