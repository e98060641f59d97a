"""_arena.h as Cython sees it, in its order."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "_arena.h" nogil:
    ctypedef struct lzs_arena

    lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common)
    uint64_t lzs_arena_common(const lzs_arena *arena)
    uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size)
    void lzs_arena_release(lzs_arena *arena, uint64_t block)
