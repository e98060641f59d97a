/* The arena. _arena.h says what each function promises; here is why it holds.
 *
 *   head | common | regions' records | region 0: block block block ... fresh ... | region 1 | ...
 *
 * A block is a header of 64 bytes and a payload, whose size is one of four to a power of two. A region's blocks lie
 * side by side from its start up to `fresh`, so that their headers are enough to walk it. They are never split or joined.
 *
 *   state       is                                              is left by
 *   OWNED       the owner's, who fills it                       whoever receives it (KEPT) or drops it (RELEASED)
 *   KEPT        the receiver's                                  anyone who releases it
 *   RELEASED    on the stack of its region, or on its way       the owner
 *   FREE        the owner's, in one of its lists                the owner
 *   GAP         nobody's: it aligns the next block
 *
 *   field                written by                            read by
 *   lzs_arena.spare .given  anyone                             everyone
 *   the rest of it       who makes it                          everyone
 *   region.released      anyone A1                             the owner A1
 *   region.taken         the owner A3                          reclaim
 *   region.fresh         the owner A2                          the owner, used A2, reclaim
 *   region.free .reserved .touched  the owner                  the owner
 *   block.span .owner .class  the owner, before A2             everyone
 *   block.absent         whose it is                           whose it is
 *   block.state          whose it is                           used, reclaim
 *   block.next           releaser A1, the owner                the owner
 *
 * Releasing pushes onto a stack; the owner alone pops, and always all of it, so that the top cannot be popped and
 * pushed again between the two halves of a pop. From there blocks go into the owner's lists, one for each size, last released
 * first: their pages are mapped, and perhaps in a cache.
 *
 * What the death of an owner leaves, at any instruction: lists and links in any state, but, by the order of its stores,
 *   - headers that are complete, since `fresh` moves after them (A2);
 *   - a block that is FREE or OWNED by its state and is on no stack;
 *   - blocks popped and not yet marked FREE, all of them reachable from `taken` (A3).
 * So reclaim finds everything by walking the region, and makes the lists anew. What dies with a releaser is the block
 * that it has marked RELEASED and not pushed yet: lost for as long as the arena lives.
 *
 * A block of one size never serves another one, so that free blocks of sizes that are not asked for any more would hold
 * memory for ever. Therefore the pages within a free block's payload can be given back to the system; its header stays,
 * and `absent` says so until it is used again. An owner does that to all its free blocks when so many bytes have got
 * pages since the last time as a region may have to spare. So a region has no more pages than were once in use together,
 * and for as many bytes as are spare. A free block of the class that has its pages costs nothing of all this. Where
 * nothing is spare, since others want the memory, whoever releases a block gives its pages back at once.
 *
 * `absent` is set before the pages go and cleared after they are reserved again: a death in between leaves an absent
 * block that has pages, which does no harm.
 *
 * Labels: each A<n> stands on exactly the two sides that meet.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MADV_REMOVE */
#endif
#include "_arena.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#define CACHE_LINE 64
#define NCLASSES 228 /* up to 2^64 bytes */

/* Both sides of a mapping must agree without a lock that only one of them knows. */
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "atomics without locks");

enum { FREE, OWNED, KEPT, RELEASED, GAP };

typedef struct {
    _Alignas(CACHE_LINE) uint64_t span; /* bytes from here to the next header */
    uint32_t owner;
    uint32_t class;
    _Atomic uint32_t state;
    uint32_t absent; /* its pages were given back */
    _Atomic uint64_t next; /* the next block's offset in the stack or list, 0: none */
} block;

typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t released; /* the top of the stack */
    _Alignas(CACHE_LINE) _Atomic uint64_t taken;    /* what was popped, or is about to be, and is in no list yet */
    _Atomic uint64_t fresh;                         /* where blocks end */
    uint64_t reserved;                              /* where what may be written to ends */
    uint64_t touched;                               /* bytes of blocks that got pages since free ones gave theirs back */
    uint64_t free[NCLASSES];
} region;

struct lzs_arena {
    _Alignas(CACHE_LINE) uint64_t records; /* where the regions' are */
    uint64_t first;                        /* where region 0 begins */
    uint64_t span;                         /* of each region */
    uint32_t owners;
    uint32_t reserving;      /* pages are to be reserved before they are written to */
    _Atomic uint64_t spare;  /* bytes of free blocks whose pages a region may keep */
    _Atomic uint64_t given;  /* how many KEPT blocks were released since there are none */
};

/* ---- Sizes ------------------------------------------------------------------------------------------------------ */

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* The smallest class of at least so many bytes. Classes 0-7 are 1-8 units of 64 bytes, the next four 10-16 by 2, ... */
static uint32_t class_of(uint64_t size)
{
    uint64_t units = size == 0 ? 0 : (size - 1) / CACHE_LINE;
    uint32_t shift = 0;

    while (units >> shift > 7)
        shift++;
    return 4 * shift + (uint32_t)(units >> shift);
}

static uint64_t size_of(uint32_t class)
{
    uint32_t shift = class < 8 ? 0 : class / 4 - 1;
    return ((uint64_t)(class - 4 * shift) + 1) * CACHE_LINE << shift;
}

uint64_t lzs_arena_head(uint32_t owners, uint64_t common)
{
    uint64_t records = (uint64_t)owners * sizeof(region) + sizeof(lzs_arena);

    if (common > UINT64_MAX - records - CACHE_LINE - LZS_ARENA_PAGE)
        return 0;
    return round_up(records + round_up(common, CACHE_LINE), LZS_ARENA_PAGE);
}

/* ---- Where things are ------------------------------------------------------------------------------------------- */

static inline block *block_at(const lzs_arena *arena, uint64_t offset)
{
    return (block *)((char *)arena + offset);
}

static inline region *region_of(const lzs_arena *arena, uint32_t owner)
{
    return (region *)((char *)arena + arena->records) + owner;
}

static inline uint64_t start_of(const lzs_arena *arena, uint32_t owner)
{
    return arena->first + owner * arena->span;
}

lzs_arena *lzs_arena_make(void *memory, uint64_t size, uint32_t owners, uint64_t common, int reserving)
{
    lzs_arena *arena = memory;
    uint64_t head = lzs_arena_head(owners, common);

    if (owners == 0 || head == 0 || size < head || (size - head) / owners < LZS_ARENA_PAGE)
        return NULL;
    arena->records = sizeof *arena + round_up(common, CACHE_LINE);
    arena->first = head;
    arena->span = (size - head) / owners / LZS_ARENA_PAGE * LZS_ARENA_PAGE;
    arena->owners = owners;
    arena->reserving = reserving != 0;
    atomic_init(&arena->spare, UINT64_MAX);
    for (uint32_t k = 0; k < owners; k++) {
        region *r = region_of(arena, k);
        atomic_init(&r->fresh, start_of(arena, k));
        r->reserved = start_of(arena, reserving ? k : k + 1);
    }
    return arena;
}

uint64_t lzs_arena_common(const lzs_arena *arena)
{
    (void)arena;
    return sizeof *arena;
}

/* ---- Pages ------------------------------------------------------------------------------------------------------ */

/* The pages that lie within a block's payload. */
static lzs_extent pages_of(uint64_t offset, uint32_t class)
{
    uint64_t page = LZS_ARENA_PAGE, from = offset + sizeof(block), to = from + size_of(class);

#ifdef MADV_REMOVE
    page = (uint64_t)sysconf(_SC_PAGESIZE);
#endif
    from = round_up(from, page);
    to = to / page * page;
    return (lzs_extent){from, to < from ? from : to, offset};
}

/* Give the pages of a block that nobody uses back to the system, where it takes them. */
static void give_back(lzs_arena *arena, uint64_t offset)
{
#ifdef MADV_REMOVE
    block *b = block_at(arena, offset);
    lzs_extent pages = pages_of(offset, b->class);

    if (b->absent || pages.from == pages.to)
        return;
    b->absent = 1;
    madvise((char *)arena + pages.from, pages.to - pages.from, MADV_REMOVE);
#else
    (void)arena;
    (void)offset;
#endif
}

/* An absent block is about to be used again. */
static void has_pages(lzs_arena *arena, region *r, lzs_extent pages)
{
    block_at(arena, pages.block)->absent = 0;
    r->touched += pages.to - pages.from;
}

/* Relaxed, here and where it is set: who sees it late keeps some pages for some time longer. */
static uint64_t spare_of(const lzs_arena *arena)
{
    return atomic_load_explicit(&arena->spare, memory_order_relaxed);
}

/* If so many bytes have got pages since the last time, all free blocks give back theirs. */
static void keep_spare(lzs_arena *arena, region *r)
{
    if (r->touched < spare_of(arena))
        return;
    r->touched = 0;
    for (uint32_t class = class_of(LZS_ARENA_PAGE); class < NCLASSES; class++)
        for (uint64_t offset = r->free[class]; offset != 0;
             offset = atomic_load_explicit(&block_at(arena, offset)->next, memory_order_relaxed))
            give_back(arena, offset);
}

/* ---- The owner -------------------------------------------------------------------------------------------------- */

static void push_free(region *r, block *b, uint64_t offset)
{
    /* A3 release: after what says that it is FREE and no longer taken; the link is lost to the stack here. */
    atomic_store_explicit(&b->next, r->free[b->class], memory_order_release);
    r->free[b->class] = offset;
}

static uint64_t pop_free(lzs_arena *arena, region *r, uint32_t class)
{
    uint64_t offset = r->free[class];
    block *b = block_at(arena, offset);

    r->free[class] = atomic_load_explicit(&b->next, memory_order_relaxed);
    atomic_store_explicit(&b->state, OWNED, memory_order_relaxed);
    return offset + sizeof *b;
}

/* The same of a larger block than need be, which needs nothing that is not there, or 0. */
static uint64_t pop_larger(lzs_arena *arena, region *r, uint32_t class)
{
    while (++class < NCLASSES) {
        block *b = block_at(arena, r->free[class]);
        if (r->free[class] == 0 || (b->absent && arena->reserving))
            continue;
        b->absent = 0;
        return pop_free(arena, r, class);
    }
    return 0;
}

/* Move all that was released into the lists. */
static void take_released(lzs_arena *arena, region *r)
{
    uint64_t top = atomic_load_explicit(&r->released, memory_order_relaxed), next, reversed = 0;

    if (top == 0)
        return;
    do {
        /* A3 release -> reclaim: before they leave the stack. A death in between leaves this one on the stack. */
        atomic_store_explicit(&r->taken, top, memory_order_release);
        /* A1 acquire <- A1: links, and the releasers' last reads of the payloads, come before our use. The pushes are
         * read-modify-writes, so that the last one stands for all before. Release: A3, after `taken`. */
    } while (!atomic_compare_exchange_weak_explicit(&r->released, &top, 0, memory_order_acq_rel, memory_order_relaxed));
    for (; top != 0; top = next) {
        block *b = block_at(arena, top);
        next = atomic_load_explicit(&b->next, memory_order_relaxed);
        /* A3 release -> reclaim: FREE by its state, then no longer taken, then the link may go. */
        atomic_store_explicit(&b->state, FREE, memory_order_release);
        atomic_store_explicit(&r->taken, next, memory_order_release);
        atomic_store_explicit(&b->next, reversed, memory_order_release);
        reversed = top;
    }
    for (; reversed != 0; reversed = next) {
        block *b = block_at(arena, reversed);
        next = atomic_load_explicit(&b->next, memory_order_relaxed);
        push_free(r, b, reversed);
    }
}

/* A new block behind the last one. */
static void add_block(lzs_arena *arena, uint32_t owner, uint64_t at, uint64_t end, uint32_t class, uint32_t state)
{
    block *b = block_at(arena, at);

    b->span = end - at;
    b->owner = owner;
    b->class = class;
    atomic_store_explicit(&b->state, state, memory_order_relaxed);
    /* A2 release -> A2: the header is complete before it is reached. */
    atomic_store_explicit(&region_of(arena, owner)->fresh, end, memory_order_release);
}

uint64_t lzs_arena_allocate(lzs_arena *arena, uint32_t owner, uint64_t size, lzs_extent *missing)
{
    region *r = region_of(arena, owner);
    uint32_t class = class_of(size);
    uint64_t fresh, payload, end;

    *missing = (lzs_extent){0, 0, 0};
    if (size > arena->span)
        return 0;
    take_released(arena, r);
    if (r->free[class] != 0 && !block_at(arena, r->free[class])->absent)
        return pop_free(arena, r, class);

    keep_spare(arena, r);
    if (r->free[class] != 0) {
        lzs_extent pages = pages_of(r->free[class], class);
        if (arena->reserving) {
            *missing = pages;
            return 0;
        }
        has_pages(arena, r, pages);
        return pop_free(arena, r, class);
    }

    fresh = atomic_load_explicit(&r->fresh, memory_order_relaxed);
    payload = round_up(fresh + sizeof(block), size_of(class) < LZS_ARENA_LARGE ? CACHE_LINE : LZS_ARENA_PAGE);
    end = payload + size_of(class);
    if (end <= r->reserved) {
        if (payload - sizeof(block) != fresh)
            add_block(arena, owner, fresh, payload - sizeof(block), 0, GAP);
        add_block(arena, owner, payload - sizeof(block), end, class, OWNED);
        r->touched += size_of(class);
        return payload;
    }
    if (end > start_of(arena, owner + 1))
        return pop_larger(arena, r, class);
    *missing = (lzs_extent){r->reserved, end, 0};
    return 0;
}

void lzs_arena_reserved(lzs_arena *arena, uint32_t owner, lzs_extent done)
{
    region *r = region_of(arena, owner);

    if (done.block == 0)
        r->reserved = done.to;
    else
        has_pages(arena, r, done);
}

uint64_t lzs_arena_allocate_larger(lzs_arena *arena, uint32_t owner, uint64_t size)
{
    return pop_larger(arena, region_of(arena, owner), class_of(size));
}

/* ---- Everyone --------------------------------------------------------------------------------------------------- */

uint64_t lzs_arena_spare(lzs_arena *arena, uint64_t bytes)
{
    return atomic_exchange_explicit(&arena->spare, bytes, memory_order_relaxed);
}

uint64_t lzs_arena_given(const lzs_arena *arena)
{
    return atomic_load_explicit(&arena->given, memory_order_relaxed); /* Relaxed: a figure of the moment. */
}

void lzs_arena_keep(lzs_arena *arena, uint64_t payload)
{
    /* Relaxed: who hands over a block orders this after the owner's stores, and before its next ones. */
    atomic_store_explicit(&block_at(arena, payload - sizeof(block))->state, KEPT, memory_order_relaxed);
}

void lzs_arena_release(lzs_arena *arena, uint64_t payload)
{
    uint64_t offset = payload - sizeof(block), top;
    block *b = block_at(arena, offset);
    region *r = region_of(arena, b->owner);

    if (spare_of(arena) == 0) {
        give_back(arena, offset);
        if (atomic_load_explicit(&b->state, memory_order_relaxed) == KEPT)
            atomic_fetch_add_explicit(&arena->given, 1, memory_order_relaxed);
    }
    /* Relaxed: ordered by A1; and reclaim leaves alone what it may still see KEPT. */
    atomic_store_explicit(&b->state, RELEASED, memory_order_relaxed);
    top = atomic_load_explicit(&r->released, memory_order_relaxed);
    do
        atomic_store_explicit(&b->next, top, memory_order_relaxed);
    /* A1 release -> A1: the link, and all that was read from the payload. */
    while (!atomic_compare_exchange_weak_explicit(&r->released, &top, offset, memory_order_release,
                                                  memory_order_relaxed));
}

/* ---- Walks ------------------------------------------------------------------------------------------------------ */

uint64_t lzs_arena_used(const lzs_arena *arena, uint32_t owner)
{
    /* A2 acquire <- A2. */
    uint64_t end = atomic_load_explicit(&region_of(arena, owner)->fresh, memory_order_acquire), used = 0;

    for (uint64_t offset = start_of(arena, owner); offset != end; offset += block_at(arena, offset)->span) {
        /* Relaxed: a figure of the moment. */
        uint32_t state = atomic_load_explicit(&block_at(arena, offset)->state, memory_order_relaxed);
        if (state == OWNED || state == KEPT)
            used += size_of(block_at(arena, offset)->class);
    }
    return used;
}

/* Mark FREE what the owner had popped and was about to move. */
static void finish_taking(lzs_arena *arena, region *r)
{
    uint64_t taken = atomic_load_explicit(&r->taken, memory_order_acquire); /* A3 */
    /* A1 acquire <- A1: the links. */
    uint64_t offset = atomic_load_explicit(&r->released, memory_order_acquire);

    while (offset != 0 && offset != taken)
        offset = atomic_load_explicit(&block_at(arena, offset)->next, memory_order_relaxed);
    if (offset == 0)
        for (; taken != 0; taken = atomic_load_explicit(&block_at(arena, taken)->next, memory_order_relaxed))
            atomic_store_explicit(&block_at(arena, taken)->state, FREE, memory_order_relaxed);
    atomic_store_explicit(&r->taken, 0, memory_order_relaxed);
}

uint64_t lzs_arena_reclaim(lzs_arena *arena, uint32_t owner)
{
    region *r = region_of(arena, owner);
    /* A2 acquire <- A2. */
    uint64_t end = atomic_load_explicit(&r->fresh, memory_order_acquire), freed = 0;

    finish_taking(arena, r);
    memset(r->free, 0, sizeof r->free);
    for (uint64_t offset = start_of(arena, owner); offset != end; offset += block_at(arena, offset)->span) {
        block *b = block_at(arena, offset);
        uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
        if (state == OWNED) {
            atomic_store_explicit(&b->state, FREE, memory_order_relaxed);
            freed += size_of(b->class);
        }
        if (state != OWNED && state != FREE)
            continue;
        if (spare_of(arena) == 0)
            give_back(arena, offset);
        push_free(r, b, offset);
    }
    return freed;
}
