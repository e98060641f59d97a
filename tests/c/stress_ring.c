/* One reader against real worker threads: jumps, runs of any length, workers that dawdle.
 *
 *   stress_ring [SEED [ITEMS]]
 *
 * Every result is a block of its own, so that a sanitizer sees one that is lost or freed twice.
 */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "../../src/lazyseq/_prefetch.h"

enum { MAX_WORKERS = 4 };

typedef struct {
    lzs_run run;
} result;

typedef struct {
    lzs_ring *ring;
    uint32_t number;
    uint64_t seed;
    int dawdle;
} worker;

static atomic_long alive; /* results that exist */
static uint64_t seed = 1;

/* xorshift64: any fast generator will do. */
static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *work(void *argument)
{
    worker *w = argument;
    lzs_claim c;

    while (lzs_ring_claim_wait(w->ring, w->number, &c) == LZS_OK) {
        result *r = malloc(sizeof *r);
        CHECK(r != NULL);
        atomic_fetch_add(&alive, 1);
        r->run = c.run;
        if (w->dawdle)
            for (uint64_t n = draw(&w->seed) % 64; n > 60; n--)
                sched_yield();
        if (lzs_ring_deliver(w->ring, &c, r) != LZS_OK) {
            free(r);
            atomic_fetch_sub(&alive, 1);
        }
    }
    return NULL;
}

static void release(void *r)
{
    if (r != NULL) {
        free(r);
        atomic_fetch_sub(&alive, 1);
    }
}

static void start(lzs_ring *ring, uint32_t nworkers, int dawdle, worker *workers, pthread_t *threads)
{
    for (uint32_t i = 0; i < nworkers; i++) {
        workers[i] = (worker){ring, i, seed * 7919 + i + 1, dawdle};
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
}

static void end(lzs_ring *ring, uint32_t nworkers, pthread_t *threads)
{
    void *r;

    lzs_ring_close(ring);
    for (uint32_t i = 0; i < nworkers; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    while (lzs_ring_drop(ring, &r) == LZS_OK)
        release(r);
    lzs_ring_free(ring);
    CHECK(atomic_load(&alive) == 0);
}

/* Read `items` runs; every result must be that of the run at the head, which must be the next one published. */
static void read_with_jumps(uint32_t nworkers, uint64_t capacity, long items, unsigned jump_one_in, int dawdle)
{
    lzs_ring *ring = lzs_ring_new(nworkers, capacity, UINT64_MAX - (uint64_t)items / 2); /* wraps half-way */
    worker workers[MAX_WORKERS];
    pthread_t threads[MAX_WORKERS];
    uint64_t state = seed;
    int64_t next = 0, published = 0;

    start(ring, nworkers, dawdle, workers, threads);
    for (long i = 0; i < items; i++) {
        lzs_run run;
        void *taken;
        lzs_status status;

        if (jump_one_in && draw(&state) % jump_one_in == 0) {
            while (lzs_ring_drop(ring, &taken) == LZS_OK)
                release(taken);
            next = published = (int64_t)(draw(&state) >> 8);
        }
        for (;;) {
            run = (lzs_run){published, 1 + published % 5};
            if (lzs_ring_publish(ring, run) != LZS_OK)
                break;
            published += run.count;
        }
        lzs_ring_flush(ring);
        CHECK(lzs_ring_head(ring, &run) == LZS_OK && run.index == next && run.count == 1 + next % 5);
        while ((status = lzs_ring_take(ring, &taken)) == LZS_BUSY)
            lzs_ring_wait(ring, -1);
        CHECK(status == LZS_OK);
        CHECK(memcmp(&((result *)taken)->run, &run, sizeof run) == 0);
        CHECK(atomic_load(&alive) <= (long)capacity + (long)nworkers); /* the window, and cancelled ones in hand */
        release(taken);
        next += run.count;
    }
    end(ring, nworkers, threads);
}

static void *wait_for_the_head(void *ring)
{
    lzs_status status;
    while ((status = lzs_ring_wait(ring, -1)) == LZS_TIMEOUT)
        ;
    CHECK(status == LZS_CLOSED);
    return NULL;
}

/* Close while workers sleep, and while the reader waits for a run that nobody will finish. */
static void close_wakes_everyone(int rounds)
{
    for (int i = 0; i < rounds; i++) {
        lzs_ring *ring = lzs_ring_new(MAX_WORKERS, 4, 0);
        worker workers[MAX_WORKERS];
        pthread_t threads[MAX_WORKERS], reader;
        lzs_claim stuck;

        CHECK(lzs_ring_publish(ring, (lzs_run){1, 1}) == LZS_OK);
        lzs_ring_flush(ring);
        CHECK(lzs_ring_claim(ring, 0, &stuck) == LZS_OK);
        start(ring, MAX_WORKERS, 0, workers, threads);
        CHECK(pthread_create(&reader, NULL, wait_for_the_head, ring) == 0);
        for (int k = 0; k < i % 50; k++)
            sched_yield();
        lzs_ring_close(ring);
        CHECK(pthread_join(reader, NULL) == 0);
        end(ring, MAX_WORKERS, threads);
    }
}

int main(int argc, char **argv)
{
    const uint64_t capacities[] = {1, 2, 3, 16, 512};
    long items = argc > 2 ? atol(argv[2]) : 3000;

    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    CHECK(seed != 0);
    printf("seed %llu\n", (unsigned long long)seed);
    alarm(120); /* a hang is a failure */
    for (uint32_t nworkers = 1; nworkers <= MAX_WORKERS; nworkers *= 2) {
        for (unsigned i = 0; i < sizeof capacities / sizeof *capacities; i++) {
            RUN(read_with_jumps(nworkers, capacities[i], items, 0, 0));
            RUN(read_with_jumps(nworkers, capacities[i], items, 7, 1));
            RUN(read_with_jumps(nworkers, capacities[i], items, 2, 0));
        }
    }
    RUN(close_wakes_everyone(200));
    REPORT();
    return 0;
}
