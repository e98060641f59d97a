/* An arena: blocks of memory that several processes share and use again and again.
 *
 * The memory is one mapping, which each process may have at another address: what is passed on are offsets from its
 * start. Behind a part that is the caller's comes one region for each owner, which is the only one to allocate there.
 *
 * Who may call what:
 *   owner w     allocate, reserved, for region w.   One thread of one process at a time.
 *   anyone      common, keep, release, used.
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
} lzs_extent;

/* How many bytes of the mapping precede the regions, 0 when that is too much for an integer. */
uint64_t lzs_arena_head(uint32_t owners, uint64_t common);

/* An arena in memory that is zero, begins at a multiple of LZS_ARENA_PAGE, and will be shared; NULL when it is too
 * small for a page for each owner, or there is none. Only the head is written to. With `reserving`, nothing else ever is
 * before the caller has called reserved for it. */
lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common, int reserving);

/* The caller's part: `common` bytes of zeros, aligned to 64. */
uint64_t lzs_arena_common(const lzs_arena *arena);

/* The payload of a block of at least `size` bytes, the one that was released last where there is one. 0: *missing is
 * what the owner must reserve before it tries again, or empty when the region is full. */
uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size, lzs_extent *missing);

/* All before `end`, up to which allocate asked for, is reserved. */
void lzs_arena_reserved(lzs_arena *arena, uint32_t owner, uint64_t end);

/* The block is somebody else's now: its allocator's death does not free it any more. */
void lzs_arena_keep(lzs_arena *arena, uint64_t payload);

/* Give a block back to its region. */
void lzs_arena_release(lzs_arena *arena, uint64_t payload);

/* How many bytes of payload an owner's region has in blocks that are neither released nor free. */
uint64_t lzs_arena_used(const lzs_arena *arena, uint32_t owner);

/* Free what a dead owner allocated and nobody kept, and leave the region to its successor. How many bytes that was. */
uint64_t lzs_arena_reclaim(lzs_arena *arena, uint32_t owner);

#endif
