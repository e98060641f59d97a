/* Blocks of memory that processes share; _arena.h says what each function promises.
 *
 *   field                written by                   read by
 *   arena.*, region.end  lzs_arena_make               everyone
 *   region.returned      whoever releases A1, owner   the owner A1
 *   region.fresh .free   the owner                    the owner
 *   block.owner .kind    the owner, when it is new    everyone
 *   block.next           who has the block            the owner after A1
 *
 * A block that is given back is pushed onto its region's stack of returned blocks. The owner takes the whole stack at
 * once, so that no compare-and-swap can mistake a stack that has changed and changed back (ABA), and sorts it into lists
 * by size, of which it uses the block that was added last: its pages and cache lines are warm. A block keeps its size: a
 * pipeline whose items vary needs a window's worth of blocks of each size.
 */
#include "_arena.h"

#include <stdatomic.h>
#include <stddef.h>

#define CACHE_LINE 64
#define PAGE 4096
#define STEPS 4 /* sizes for each power of two: at most a quarter of a block is wasted */
#define SMALLEST 6 /* a power of two */
#define KINDS ((58 - SMALLEST) * STEPS)

typedef struct {
    _Alignas(CACHE_LINE) uint64_t next; /* the offset of the block under it in a stack; 0: none */
    uint32_t owner;
    uint32_t kind; /* of size */
} block;

typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t returned; /* the block that was given back last; 0: none */
    _Alignas(CACHE_LINE) uint64_t fresh;            /* from here to the end, nothing was ever used */
    uint64_t end;
    uint64_t free[KINDS]; /* stacks of blocks */
} region;

struct lzs_arena {
    uint64_t common;
    uint64_t regions;
};

static uint64_t rounded(uint64_t size, uint64_t unit)
{
    return (size + unit - 1) & ~(unit - 1);
}

static void *at(const lzs_arena *arena, uint64_t offset)
{
    return (char *)(uintptr_t)arena + offset;
}

static region *region_of(const lzs_arena *arena, uint32_t owner)
{
    return (region *)at(arena, arena->regions) + owner;
}

static block *block_at(const lzs_arena *arena, uint64_t offset)
{
    return (block *)at(arena, offset) - 1;
}

static uint64_t size_of(uint32_t kind)
{
    return (uint64_t)(STEPS + kind % STEPS) << (SMALLEST - 2 + kind / STEPS);
}

/* The least kind of at least that size, or KINDS. */
static uint32_t kind_of(uint64_t size)
{
    uint32_t kind = 0;

    if (size > size_of(KINDS - 1))
        return KINDS;
    while (size_of(kind + STEPS) < size)
        kind += STEPS;
    while (size_of(kind) < size)
        kind++;
    return kind;
}

lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common)
{
    lzs_arena *arena = memory;
    uint64_t start, each;

    if (owners < 1 || common > size)
        return NULL;
    arena->common = rounded(sizeof *arena, CACHE_LINE);
    arena->regions = arena->common + rounded(common, CACHE_LINE);
    start = rounded(arena->regions + owners * (uint64_t)sizeof(region), PAGE);
    if (start > size)
        return NULL;
    each = ((size - start) / owners) & ~(uint64_t)(PAGE - 1);
    for (uint32_t w = 0; w < owners; w++) {
        region_of(arena, w)->fresh = start + w * each;
        region_of(arena, w)->end = start + (w + 1) * each;
    }
    return arena;
}

uint64_t lzs_arena_common(const lzs_arena *arena)
{
    return arena->common;
}

/* Sort what was given back. */
static void collect(lzs_arena *arena, region *own)
{
    /* A1 acquire <- A1 release: whoever gave it back has read it for the last time, and `next` is visible. */
    uint64_t offset = atomic_exchange_explicit(&own->returned, 0, memory_order_acquire);

    while (offset != 0) {
        block *b = block_at(arena, offset);
        uint64_t next = b->next;
        b->next = own->free[b->kind];
        own->free[b->kind] = offset;
        offset = next;
    }
}

uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size)
{
    region *own = region_of(arena, owner);
    uint32_t kind = kind_of(size);
    uint64_t offset, stride;

    if (kind == KINDS)
        return 0;
    if (own->free[kind] == 0)
        collect(arena, own);
    offset = own->free[kind];
    if (offset != 0) {
        own->free[kind] = block_at(arena, offset)->next;
        return offset;
    }
    stride = sizeof(block) + rounded(size_of(kind), CACHE_LINE);
    if (stride > own->end - own->fresh)
        return 0;
    offset = own->fresh + sizeof(block);
    own->fresh += stride;
    block_at(arena, offset)->owner = owner;
    block_at(arena, offset)->kind = kind;
    return offset;
}

void lzs_arena_release(lzs_arena *arena, uint64_t offset)
{
    block *b = block_at(arena, offset);
    region *its = region_of(arena, b->owner);
    uint64_t last = atomic_load_explicit(&its->returned, memory_order_relaxed); /* Relaxed: only a guess. */

    do
        b->next = last;
    /* A1 release -> A1 acquire. Relaxed when it fails: the guess was wrong. */
    while (!atomic_compare_exchange_weak_explicit(&its->returned, &last, offset, memory_order_release,
                                                  memory_order_relaxed));
}
