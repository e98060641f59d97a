/* An arena: blocks of memory that several processes share and use again and again.
 *
 * The memory is one mapping, which each process may have at another address: what is passed on are offsets from its
 * start. Behind a part that is the caller's comes one region for each owner, which is the only one to allocate there.
 *
 * Who may call what:
 *   owner w     allocate, reserved, allocate_larger, for region w.   One thread of one process at a time.
 *   anyone      common, spare, given, keep, release, used.
 *   whoever knows that owner w is dead, and has kept what it handed over   reclaim, before there is a new owner w.
 */
#ifndef LAZYSEQ_ARENA_H
#define LAZYSEQ_ARENA_H

#include <stdint.h>

#define LZS_ARENA_LARGE 65536 /* payloads of so many bytes begin at a multiple of LZS_ARENA_PAGE; all, of 64 */
#define LZS_ARENA_PAGE 4096

/* The start of the mapping, in whichever process. */
typedef struct lzs_arena lzs_arena;

/* A part of the mapping. */
typedef struct {
    uint64_t from;
    uint64_t to;
    uint64_t block; /* the arena's own */
} lzs_extent;

/* How many bytes of the mapping precede the regions, 0 when that is too much for an integer. */
uint64_t lzs_arena_head(uint32_t owners, uint64_t common);

/* An arena in memory that is zero, begins at a multiple of LZS_ARENA_PAGE, and will be shared; NULL when it is too
 * small for a page for each owner, or there is none. Only the head is written to. With `reserving`, nothing else ever is
 * before the caller has called reserved for it. */
lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common, int reserving);

/* The caller's part: `common` bytes of zeros, aligned to 64. */
uint64_t lzs_arena_common(const lzs_arena *arena);

/* How many bytes of its free blocks each region may keep the memory of; all, at first. With 0, whoever releases a block
 * gives its memory back at once. Only where the system takes parts of a mapping back. How many it was before. */
uint64_t lzs_arena_spare(lzs_arena *arena, uint64_t bytes);

/* How many blocks that were kept were released while there was nothing to spare. */
uint64_t lzs_arena_given(const lzs_arena *arena);

/* The payload of a block of at least `size` bytes, the one that was released last where there is one. 0: *missing is
 * what the owner must reserve before it tries again, or empty when the region is full. */
uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size, lzs_extent *missing);

/* What allocate has found missing is reserved; or, before the first block, all up to done.to. */
void lzs_arena_reserved(lzs_arena *arena, uint32_t owner, lzs_extent done);

/* The payload of a free block that is larger than need be, for when nothing more can be reserved, or 0. */
uint64_t lzs_arena_allocate_larger(lzs_arena *arena, uint32_t owner, uint64_t size);

/* The block is somebody else's now: its allocator's death does not free it any more. */
void lzs_arena_keep(lzs_arena *arena, uint64_t payload);

/* Give a block back to its region. */
void lzs_arena_release(lzs_arena *arena, uint64_t payload);

/* How many bytes of payload an owner's region has in blocks that are neither released nor free. */
uint64_t lzs_arena_used(const lzs_arena *arena, uint32_t owner);

/* Free what a dead owner allocated and nobody kept, and leave the region to its successor. How many bytes that was. */
uint64_t lzs_arena_reclaim(lzs_arena *arena, uint32_t owner);

#endif
