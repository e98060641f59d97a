/* Owners that allocate, fill and hand over, against releasers that check and release in any order; owners that die.
 *
 *   stress_arena [SEED [BLOCKS]]
 *
 * The seed decides what each thread does, not how their steps mix. An owner's death is the end of its thread, whatever
 * it still holds: another takes the region over.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/lazyseq/_arena.h"

enum { OWNERS = 3, RELEASERS = 3, HELD = 24, LENGTH = 32, ROUNDS = 20, SIZE = 48 << 20 };

typedef struct {
    uint64_t offset; /* 0: the owners have ended */
    uint64_t size;
    uint64_t fill;
} parcel;

/* From all owners to all releasers: the handover that an arena needs, here with a lock. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    parcel parcels[LENGTH];
    unsigned head, tail;
} queue = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

typedef struct {
    uint32_t number;
    uint64_t random;
    long blocks;
} thread;

static lzs_arena *arena;
static atomic_long handed_over;
static atomic_uchar seen[SIZE / 64]; /* where there ever was a block */

/* xorshift64: any fast generator will do. */
static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void send(parcel p)
{
    CHECK(pthread_mutex_lock(&queue.mutex) == 0);
    while (queue.tail - queue.head == LENGTH)
        CHECK(pthread_cond_wait(&queue.changed, &queue.mutex) == 0);
    queue.parcels[queue.tail++ % LENGTH] = p;
    CHECK(pthread_cond_broadcast(&queue.changed) == 0);
    CHECK(pthread_mutex_unlock(&queue.mutex) == 0);
}

static parcel receive(void)
{
    parcel p;
    CHECK(pthread_mutex_lock(&queue.mutex) == 0);
    while (queue.tail == queue.head)
        CHECK(pthread_cond_wait(&queue.changed, &queue.mutex) == 0);
    p = queue.parcels[queue.head++ % LENGTH];
    if (p.offset != 0) /* kept before its owner can be found dead */
        lzs_arena_keep(arena, p.offset);
    CHECK(pthread_cond_broadcast(&queue.changed) == 0);
    CHECK(pthread_mutex_unlock(&queue.mutex) == 0);
    return p;
}

static uint64_t *words(uint64_t offset)
{
    return (uint64_t *)((char *)arena + offset);
}

static void *own(void *argument)
{
    thread *t = argument;

    for (long k = 0; k < t->blocks; k++) {
        lzs_extent missing;
        /* Many small, some large; sizes that come again, so that blocks do. */
        uint64_t r = draw(&t->random) >> 20, size = UINT64_C(8) << (r % 6 ? r / 6 % 8 : r / 6 % 15);
        parcel p = {lzs_arena_allocate(arena, t->number, size, &missing), size, draw(&t->random)};
        if (p.offset == 0) { /* the releasers hold much: never all */
            CHECK(missing.to == 0);
            sched_yield();
            continue;
        }
        atomic_store_explicit(&seen[p.offset / 64], 1, memory_order_relaxed);
        for (uint64_t i = 0; i < size / 8; i++)
            words(p.offset)[i] = p.fill + i;
        if (k > t->blocks - 10)
            continue; /* dies with it */
        if (r % 64 == 0)
            lzs_arena_release(arena, p.offset); /* nobody wants it */
        else
            send(p);
        atomic_fetch_add_explicit(&handed_over, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *release(void *argument)
{
    thread *t = argument;
    parcel held[HELD];
    unsigned n = 0;

    for (;;) {
        parcel p = receive();
        if (p.offset != 0)
            held[n++] = p;
        while (n == HELD || (n > 0 && (p.offset == 0 || draw(&t->random) >> 20 & 1))) {
            unsigned k = (unsigned)((draw(&t->random) >> 20) % n);
            for (uint64_t i = 0; i < held[k].size / 8; i++)
                CHECK(words(held[k].offset)[i] == held[k].fill + i);
            lzs_arena_release(arena, held[k].offset);
            held[k] = held[--n];
        }
        if (p.offset == 0)
            return NULL;
    }
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    long blocks = argc > 2 ? strtol(argv[2], NULL, 10) : 200000;
    pthread_t owners[OWNERS], releasers[RELEASERS];
    thread of_owners[OWNERS], of_releasers[RELEASERS];

    alarm(WATCHDOG_SECONDS);
    arena = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(arena != MAP_FAILED && lzs_arena_make(arena, SIZE, OWNERS, 0, 0) == arena);
    for (uint32_t k = 0; k < RELEASERS; k++) {
        of_releasers[k] = (thread){k, seed * 31 + k + 101, 0};
        CHECK(pthread_create(&releasers[k], NULL, release, &of_releasers[k]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t k = 0; k < OWNERS; k++) {
            of_owners[k] = (thread){k, seed * 77 + k + (uint64_t)round * 13 + 1, blocks / ROUNDS / OWNERS + 10};
            CHECK(pthread_create(&owners[k], NULL, own, &of_owners[k]) == 0);
        }
        for (uint32_t k = 0; k < OWNERS; k++) {
            CHECK(pthread_join(owners[k], NULL) == 0);
            /* What it handed over is kept first, as it is by an engine that finds a worker dead. */
            CHECK(pthread_mutex_lock(&queue.mutex) == 0);
            for (unsigned i = queue.head; i != queue.tail; i++)
                lzs_arena_keep(arena, queue.parcels[i % LENGTH].offset);
            lzs_arena_reclaim(arena, k);
            CHECK(pthread_mutex_unlock(&queue.mutex) == 0);
        }
    }
    for (int k = 0; k < RELEASERS; k++)
        send((parcel){0, 0, 0});
    for (int k = 0; k < RELEASERS; k++)
        CHECK(pthread_join(releasers[k], NULL) == 0);
    OK("%ld blocks handed over, %d owners died", atomic_load(&handed_over), ROUNDS * OWNERS);

    for (uint32_t k = 0; k < OWNERS; k++) {
        lzs_extent missing;
        CHECK(lzs_arena_used(arena, k) == 0);
        CHECK(lzs_arena_reclaim(arena, k) == 0);
        for (uint64_t offset, size = UINT64_C(1) << 20; size >= 64; size /= 2) {
            while ((offset = lzs_arena_allocate(arena, k, size, &missing)) != 0) {
                CHECK(atomic_load(&seen[offset / 64]) != 2);
                atomic_store(&seen[offset / 64], 2);
            }
        }
    }
    for (unsigned k = 0; k < SIZE / 64; k++)
        CHECK(atomic_load(&seen[k]) != 1);
    OK("every block is there again, once");
    REPORT();
    return 0;
}
