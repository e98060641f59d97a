"""_arena.h as Cython sees it, in its order."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "_arena.h" nogil:
    ctypedef struct lzs_arena

    ctypedef struct lzs_extent:
        uint64_t start "from"
        uint64_t to
        uint64_t block

    uint64_t lzs_arena_head(uint32_t owners, uint64_t common)
    lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common, int reserving)
    uint64_t lzs_arena_common(const lzs_arena *arena)
    uint64_t lzs_arena_spare(lzs_arena *arena, uint64_t bytes)
    uint64_t lzs_arena_given(const lzs_arena *arena)
    uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size, lzs_extent *missing)
    void lzs_arena_reserved(lzs_arena *arena, uint32_t owner, lzs_extent done)
    uint64_t lzs_arena_allocate_larger(lzs_arena *arena, uint32_t owner, uint64_t size)
    void lzs_arena_keep(lzs_arena *arena, uint64_t payload)
    void lzs_arena_release(lzs_arena *arena, uint64_t payload)
    uint64_t lzs_arena_used(const lzs_arena *arena, uint32_t owner)
    uint64_t lzs_arena_reclaim(lzs_arena *arena, uint32_t owner)
