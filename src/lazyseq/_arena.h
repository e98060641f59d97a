/* Blocks of memory that processes share, recycled.
 *
 * A worker allocates from a region of its own; whoever has got a block gives it back, from any thread or process, by one
 * call that waits for nobody. Blocks are known by their offset from the arena: processes may see it at different
 * addresses.
 *
 * Who may call what:
 *   worker w   allocate with owner w.   One thread at a time.
 *   anyone     at, release, of a block that it has got, once.
 */
#ifndef LAZYSEQ_ARENA_H
#define LAZYSEQ_ARENA_H

#include <stdint.h>

typedef struct lzs_arena lzs_arena;

/* An arena in `size` bytes of zeroed memory on a page: `common` bytes for the caller, and a region for each worker. NULL
 * if that is too little. What is not used is not touched. */
lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common);

/* Where the caller's own bytes begin, on a cache line. */
uint64_t lzs_arena_common(const lzs_arena *arena);

/* A block of at least `size` bytes, on a cache line, or 0 when the region is full. What is in it is undefined. */
uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size);

/* Give a block back. */
void lzs_arena_release(lzs_arena *arena, uint64_t block);

#endif
