/* What _prefetch.h promises, function by function: every return code, who owns a result, the wrap-around.
 *
 * One thread plays the reader and all workers in turn, except where sleeping and waking is what is tested.
 */
#define _DEFAULT_SOURCE /* alarm, nanosleep, MAP_ANONYMOUS */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../src/lazyseq/_prefetch.h"

/* An allocation too huge must fail as it does without a sanitizer, which would end the process; now it only warns. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* ---- Helpers ---------------------------------------------------------------------------------------------------- */

static int alive; /* results that exist; only ever touched by one thread at a time */

/* A result is a block of its own that says which run it is for. */
static int64_t *make(int64_t index)
{
    int64_t *result = malloc(sizeof *result);
    CHECK(result != NULL);
    *result = index;
    alive++;
    return result;
}

static void release(int64_t *result, int64_t expected)
{
    CHECK(result != NULL && *result == expected);
    free(result);
    alive--;
}

static lzs_crew *crew; /* of the ring that new_ring made last */

static lzs_ring *new_ring(uint32_t nworkers, uint64_t capacity, uint64_t first)
{
    lzs_ring *ring;
    crew = lzs_crew_new(nworkers, 0);
    CHECK(crew != NULL);
    ring = lzs_ring_new(crew, capacity, first);
    CHECK(ring != NULL && lzs_crew_ring(crew, 0) == ring);
    CHECK(alive == 0);
    return ring;
}

static void free_ring(lzs_ring *ring)
{
    CHECK(lzs_crew_ring(crew, 0) == ring);
    lzs_crew_free(crew);
    CHECK(alive == 0);
}

static void publish(lzs_ring *ring, int64_t index)
{
    CHECK(lzs_ring_publish(ring, (lzs_run){index, 1, 0}) == LZS_OK);
    lzs_ring_flush(ring);
}

static lzs_claim claim(lzs_ring *ring, uint32_t worker, int64_t expected)
{
    lzs_claim c;
    CHECK(lzs_crew_claim(crew, worker, &c) == LZS_OK);
    CHECK(c.ring == ring && c.run.index == expected && c.run.count == 1);
    return c;
}

static void deliver(lzs_ring *ring, const lzs_claim *c)
{
    CHECK(c->ring == ring && lzs_ring_deliver(c, make(c->run.index)) == LZS_OK);
}

/* Deliver what is no longer wanted: the result stays with the caller. */
static void deliver_in_vain(lzs_ring *ring, const lzs_claim *c)
{
    int64_t *result = make(c->run.index);
    CHECK(c->ring == ring && lzs_ring_deliver(c, result) == LZS_CANCELLED);
    release(result, c->run.index);
}

static void take(lzs_ring *ring, int64_t expected)
{
    void *result = NULL;
    CHECK(lzs_ring_take(ring, &result) == LZS_OK);
    release(result, expected);
}

static void take_is_busy(lzs_ring *ring)
{
    void *untouched = ring, *result = untouched;
    CHECK(lzs_ring_take(ring, &result) == LZS_BUSY);
    CHECK(result == untouched);
}

static void drop_done(lzs_ring *ring, int64_t expected)
{
    void *result = NULL;
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK);
    release(result, expected);
}

static void drop_unfinished(lzs_ring *ring)
{
    void *result = ring;
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK);
    CHECK(result == NULL);
}

static void head_is(const lzs_ring *ring, int64_t index, int64_t count)
{
    lzs_run run;
    CHECK(lzs_ring_head(ring, &run) == LZS_OK);
    CHECK(run.index == index && run.count == count);
}

static void nap(long milliseconds)
{
    struct timespec t = {0, milliseconds * 1000000L};
    nanosleep(&t, NULL);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- new -------------------------------------------------------------------------------------------------------- */

static void bad_arguments_give_null(void)
{
    lzs_crew *small = lzs_crew_new(1, 0);
    CHECK(small != NULL && lzs_crew_ring(small, 0) == NULL);
    CHECK(lzs_crew_new(0, 0) == NULL);
    CHECK(lzs_crew_new(LZS_MAX_WORKERS + 1, 0) == NULL);
    CHECK(lzs_crew_new(UINT32_MAX, 0) == NULL);
    CHECK(lzs_ring_new(small, 0, 0) == NULL);
    /* The next power of two, or the size in bytes, would overflow; the last is only more than there is. */
    CHECK(lzs_ring_new(small, UINT64_MAX, 0) == NULL);
    CHECK(lzs_ring_new(small, UINT64_MAX / 2 + 2, 0) == NULL);
    CHECK(lzs_ring_new(small, UINT64_MAX / 2, 0) == NULL);
    CHECK(lzs_ring_new(small, UINT64_MAX / 4, 0) == NULL);
    CHECK(lzs_ring_new(small, UINT64_C(1) << 58, 0) == NULL);
    CHECK(lzs_ring_new(small, UINT64_C(1) << 56, 0) == NULL);
    CHECK(lzs_crew_ring(small, 0) == NULL);
    for (uint32_t k = 0; k < LZS_MAX_RINGS; k++) {
        lzs_ring *ring = lzs_ring_new(small, 1, 0);
        CHECK(ring != NULL && lzs_crew_ring(small, k) == ring && lzs_crew_ring(small, k + 1) == NULL);
    }
    CHECK(lzs_ring_new(small, 1, 0) == NULL);
    lzs_crew_free(small);
}

/* ---- The reader's and the workers' functions -------------------------------------------------------------------- */

static void smoke(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 2, first);
    lzs_claim c;

    publish(ring, 7);
    head_is(ring, 7, 1);
    c = claim(ring, 0, 7);
    deliver(ring, &c);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_OK);
    take(ring, 7);
    free_ring(ring);
}

static void an_empty_ring_says_so(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 2, first);
    lzs_claim c;
    lzs_run run;
    void *result = ring;

    for (int round = 0; round < 5; round++) {
        lzs_ring_flush(ring);
        CHECK(lzs_ring_head(ring, &run) == LZS_EMPTY);
        CHECK(lzs_ring_take(ring, &result) == LZS_EMPTY);
        CHECK(lzs_ring_drop(ring, &result) == LZS_EMPTY && result == NULL);
        CHECK(lzs_ring_wait(ring, 0, -1) == LZS_EMPTY);
        CHECK(lzs_crew_claim(crew, 0, &c) == LZS_EMPTY);
        publish(ring, round);
        c = claim(ring, 0, round);
        deliver(ring, &c);
        take(ring, round);
    }
    free_ring(ring);
}

/* Most of these capacities are not a power of two, which the number of slots is. */
static void capacity_is_exact(uint64_t first)
{
    for (int64_t capacity = 1; capacity <= 9; capacity++) {
        lzs_ring *ring = new_ring(1, (uint64_t)capacity, first);
        for (int round = 0; round < 5; round++) {
            for (int64_t i = 0; i < capacity; i++)
                publish(ring, i);
            CHECK(lzs_ring_publish(ring, (lzs_run){-1, 1, 0}) == LZS_FULL);
            for (int64_t i = 0; i < capacity; i++) {
                lzs_claim c = claim(ring, 0, i);
                deliver(ring, &c);
                CHECK(lzs_ring_publish(ring, (lzs_run){-1, 1, 0}) == LZS_FULL);
            }
            for (int64_t i = 0; i < capacity; i++) {
                take(ring, i);
                CHECK(lzs_ring_publish(ring, (lzs_run){-2, 1, 0}) == LZS_OK); /* room for exactly one */
                CHECK(lzs_ring_publish(ring, (lzs_run){-3, 1, 0}) == LZS_FULL);
            }
            for (int64_t i = 0; i < capacity; i++)
                drop_unfinished(ring);
        }
        free_ring(ring);
    }
}

static void runs_keep_their_shape(uint64_t first)
{
    const lzs_run runs[] = {{0, 1, 5}, {INT64_MAX - 7, 7, INT64_MIN}, {INT64_MIN, INT64_MAX, -1}, {-1, 0, INT64_MAX}};
    lzs_ring *ring = new_ring(1, 4, first);
    lzs_claim c;

    for (int i = 0; i < 4; i++)
        CHECK(lzs_ring_publish(ring, runs[i]) == LZS_OK);
    lzs_ring_flush(ring);
    for (int i = 0; i < 4; i++) {
        head_is(ring, runs[i].index, runs[i].count);
        CHECK(lzs_crew_claim(crew, 0, &c) == LZS_OK);
        CHECK(c.run.index == runs[i].index && c.run.count == runs[i].count && c.run.item == runs[i].item);
        deliver(ring, &c);
        take(ring, runs[i].index);
    }
    free_ring(ring);
}

static void flush_shows_what_is_published(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 4, first);
    lzs_claim c;

    CHECK(lzs_ring_publish(ring, (lzs_run){1, 1, 0}) == LZS_OK);
    CHECK(lzs_ring_publish(ring, (lzs_run){2, 1, 0}) == LZS_OK);
    CHECK(lzs_crew_claim(crew, 0, &c) == LZS_EMPTY); /* not promised, but so it is in slots never used */
    lzs_ring_flush(ring);
    claim(ring, 0, 1);
    claim(ring, 0, 2);
    CHECK(lzs_crew_claim(crew, 0, &c) == LZS_EMPTY);
    drop_unfinished(ring);
    drop_unfinished(ring);
    free_ring(ring);
}

static void claim_gives_the_first_run_to_one_worker(uint64_t first)
{
    lzs_ring *ring = new_ring(3, 5, first);
    lzs_claim c;

    for (int64_t i = 0; i < 5; i++)
        publish(ring, i);
    claim(ring, 2, 0);
    claim(ring, 0, 1);
    CHECK(lzs_crew_claim_wait(crew, 1, &c) == LZS_OK && c.run.index == 2);
    claim(ring, 1, 3);
    drop_unfinished(ring);
    publish(ring, 5);
    claim(ring, 0, 4);
    claim(ring, 0, 5);
    CHECK(lzs_crew_claim(crew, 0, &c) == LZS_EMPTY);
    free_ring(ring);
}

/* The owner's number fills its field of the word. */
static void the_last_of_most_workers(uint64_t first)
{
    lzs_ring *ring = new_ring(LZS_MAX_WORKERS, 1, first);

    for (int64_t i = 0; i < 6; i++) {
        lzs_claim old, c;
        publish(ring, i);
        old = claim(ring, LZS_MAX_WORKERS - 1, i);
        drop_unfinished(ring);
        publish(ring, i + 100);
        c = claim(ring, LZS_MAX_WORKERS - 1, i + 100);
        deliver_in_vain(ring, &old);
        deliver(ring, &c);
        take(ring, i + 100);
    }
    free_ring(ring);
}

/* Four runs, finished in each of the 24 orders, and read as soon as they can be. */
static void delivery_is_in_the_order_of_publication(uint64_t first)
{
    lzs_ring *ring = new_ring(4, 4, first);

    for (int order = 0; order < 4 * 4 * 4 * 4; order++) {
        const int which[] = {order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6 & 3};
        lzs_claim claims[4];
        int finished = 0, read = 0;
        if ((1 << which[0] | 1 << which[1] | 1 << which[2] | 1 << which[3]) != 15)
            continue; /* not a permutation */
        for (int i = 0; i < 4; i++)
            publish(ring, 40 - 10 * i);
        for (uint32_t i = 0; i < 4; i++)
            claims[i] = claim(ring, i, 40 - 10 * i);
        for (int i = 0; i < 4; i++) {
            deliver(ring, &claims[which[i]]);
            finished |= 1 << which[i];
            while (finished >> read & 1) {
                CHECK(lzs_ring_wait(ring, 0, 0) == LZS_OK);
                take(ring, 40 - 10 * read++);
            }
            if (read < 4)
                take_is_busy(ring);
        }
        CHECK(read == 4);
    }
    free_ring(ring);
}

static void take_is_busy_until_it_is_done(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 2, first);
    lzs_claim c;

    CHECK(lzs_ring_publish(ring, (lzs_run){1, 1, 0}) == LZS_OK);
    take_is_busy(ring); /* not shown yet */
    lzs_ring_flush(ring);
    take_is_busy(ring); /* TODO */
    c = claim(ring, 0, 1);
    take_is_busy(ring); /* CLAIMED */
    deliver(ring, &c);
    take(ring, 1);
    free_ring(ring);
}

static void a_null_result_is_a_result(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 1, first);
    lzs_claim c;
    void *result = ring;

    publish(ring, 1);
    c = claim(ring, 0, 1);
    CHECK(lzs_ring_deliver(&c, NULL) == LZS_OK);
    CHECK(lzs_ring_take(ring, &result) == LZS_OK && result == NULL);
    free_ring(ring);
}

static void drop_takes_back_a_run_in_any_state(uint64_t first)
{
    lzs_ring *ring = new_ring(2, 5, first);

    for (int round = 0; round < 5; round++) {
        lzs_claim done, claimed, c;
        for (int64_t i = 1; i <= 3; i++)
            publish(ring, i);
        CHECK(lzs_ring_publish(ring, (lzs_run){4, 1, 0}) == LZS_OK);
        done = claim(ring, 0, 1);
        claimed = claim(ring, 1, 2);
        deliver(ring, &done);
        CHECK(alive == 1);
        drop_done(ring, 1);
        drop_unfinished(ring); /* CLAIMED */
        drop_unfinished(ring); /* TODO */
        drop_unfinished(ring); /* TODO, and not shown */
        CHECK(lzs_ring_drop(ring, &(void *){NULL}) == LZS_EMPTY);
        lzs_ring_flush(ring);
        CHECK(alive == 0);
        CHECK(lzs_crew_claim(crew, 0, &c) == LZS_EMPTY);
        CHECK(!lzs_ring_wanted(&claimed));
        deliver_in_vain(ring, &claimed);
        deliver_in_vain(ring, &done);
    }
    free_ring(ring);
}

/* The slot is the same each time, and so is the worker: the generation alone tells the claims apart. */
static void an_old_claim_never_delivers(uint64_t first)
{
    lzs_ring *ring = new_ring(2, 1, first);
    lzs_claim old[6], new;

    for (int n = 0; n < 6; n++) {
        publish(ring, n);
        old[n] = claim(ring, 0, n);
        drop_unfinished(ring);
        for (int k = 0; k <= n; k++)
            deliver_in_vain(ring, &old[k]); /* OWNED */
        publish(ring, 100 + n);
        for (int k = 0; k <= n; k++)
            deliver_in_vain(ring, &old[k]); /* TODO */
        new = claim(ring, 0, 100 + n);
        for (int k = 0; k <= n; k++)
            deliver_in_vain(ring, &old[k]); /* CLAIMED */
        deliver(ring, &new);
        for (int k = 0; k <= n; k++)
            deliver_in_vain(ring, &old[k]); /* DONE */
        deliver_in_vain(ring, &new);        /* twice is once */
        take(ring, 100 + n);
        deliver_in_vain(ring, &new);
    }
    free_ring(ring);
}

/* Everything that one thread can do, at random, against a plain queue. */
static void any_sequence_of_calls(uint64_t first)
{
    enum { WORKERS = 3, STEPS = 10000, HELD = 8 };
    uint64_t state = UINT64_C(88172645463325252);

    for (int64_t capacity = 1; capacity <= 5; capacity++) {
        lzs_ring *ring = new_ring(WORKERS, (uint64_t)capacity, first);
        struct {
            lzs_run run;
            enum { TODO, CLAIMED, DONE } state;
        } queue[8];
        struct {
            lzs_claim claim;
            int64_t number;
        } held[HELD], h;
        /* Publications are numbered; those in [head, tail) are in the queue, and those before `shown` were flushed. */
        int64_t head = 0, tail = 0, shown = 0, number, todo;
        int nheld = 0;

        for (int step = 0; step < STEPS; step++) {
            const lzs_run run = {tail, (int64_t)(draw(&state) % 9), 0};
            void *result = NULL;
            lzs_status status;
            unsigned k;

            switch (draw(&state) % 12) {
            case 0:
            case 1:
            case 2:
                status = lzs_ring_publish(ring, run);
                CHECK(status == (tail - head == capacity ? LZS_FULL : LZS_OK));
                if (status == LZS_OK) {
                    queue[tail & 7].run = run;
                    queue[tail & 7].state = TODO;
                    tail++;
                }
                break;
            case 3:
            case 4:
                lzs_ring_flush(ring);
                shown = tail;
                break;
            case 5:
            case 6:
            case 7:
                if (nheld == HELD)
                    break;
                for (todo = head; todo < tail && queue[todo & 7].state != TODO; todo++)
                    ;
                status = lzs_crew_claim(crew, (uint32_t)(draw(&state) % WORKERS), &h.claim);
                if (status == LZS_EMPTY) {
                    CHECK(todo >= shown || todo == tail);
                    break;
                }
                CHECK(status == LZS_OK);
                number = h.number = h.claim.run.index;
                CHECK(head <= number && number < tail && queue[number & 7].state == TODO);
                CHECK(h.claim.run.count == queue[number & 7].run.count);
                /* What is not shown may come all the same, and even before the others. */
                CHECK(number == todo || number >= shown);
                queue[number & 7].state = CLAIMED;
                held[nheld++] = h;
                break;
            case 8:
            case 9:
                if (nheld == 0)
                    break;
                k = (unsigned)(draw(&state) % (uint64_t)nheld);
                h = held[k];
                if (h.number >= head && queue[h.number & 7].state == CLAIMED) {
                    deliver(ring, &h.claim);
                    queue[h.number & 7].state = DONE;
                } else {
                    deliver_in_vain(ring, &h.claim);
                }
                if (draw(&state) % 4 != 0) /* otherwise it is kept, to be delivered once more */
                    held[k] = held[--nheld];
                break;
            case 10:
                status = lzs_ring_take(ring, &result);
                CHECK(status == (head == tail ? LZS_EMPTY : queue[head & 7].state == DONE ? LZS_OK : LZS_BUSY));
                if (status == LZS_OK)
                    release(result, head++);
                break;
            default: /* drop one, or all */
                for (int n = draw(&state) % 4 ? 1 : 8; n > 0 && head < tail; n--, head++) {
                    head_is(ring, head, queue[head & 7].run.count);
                    CHECK(lzs_ring_wait(ring, 0, 0) == (queue[head & 7].state == DONE ? LZS_OK : LZS_TIMEOUT));
                    if (queue[head & 7].state == DONE)
                        drop_done(ring, head);
                    else
                        drop_unfinished(ring);
                }
                CHECK(head < tail || lzs_ring_drop(ring, &result) == LZS_EMPTY);
            }
        }
        for (; head < tail; head++) {
            if (queue[head & 7].state == DONE)
                drop_done(ring, head);
            else
                drop_unfinished(ring);
        }
        free_ring(ring);
    }
}

/* A worker takes from the rings in turn, and from those that have something. */
static void rings_take_turns(uint64_t first)
{
    const int expected[] = {1, 2, 0, 1, 2, 1, 1};
    lzs_ring *rings[3] = {new_ring(1, 4, first)};
    const int runs[] = {1, 4, 2};

    for (int k = 1; k < 3; k++) {
        rings[k] = lzs_ring_new(crew, 4, first);
        CHECK(rings[k] != NULL);
    }
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < runs[k]; i++)
            publish(rings[k], 10 * k + i);
    for (unsigned i = 0; i < sizeof expected / sizeof *expected; i++) {
        lzs_claim c;
        CHECK(lzs_crew_claim(crew, 0, &c) == LZS_OK);
        CHECK(c.number == (uint32_t)expected[i] && c.ring == rings[expected[i]]);
    }
    free_ring(rings[0]);
}

/* How long it takes to have some runs claimed, in seconds, at best. */
static double time_of_claims(lzs_ring *ring)
{
    double best = 1e9;

    for (int round = 0; round < 5; round++) {
        double start = seconds();
        for (int64_t i = 0; i < 100; i++) {
            publish(ring, i);
            claim(ring, 0, i);
            drop_unfinished(ring);
        }
        best = seconds() - start < best ? seconds() - start : best;
    }
    return best;
}

/* A large ring costs the readers of others nothing once its own has left it, whatever had become of its runs. */
static void an_empty_ring_is_not_looked_through(uint64_t first)
{
    enum { MANY = 1 << 16 };
    lzs_ring *small = new_ring(1, 4, first), *large = lzs_ring_new(crew, MANY, first);
    double before = time_of_claims(small);

    CHECK(large != NULL);
    for (int claimed = 0; claimed <= MANY; claimed += MANY / 2) {
        lzs_claim c;
        for (int64_t i = 0; i < MANY; i++)
            CHECK(lzs_ring_publish(large, (lzs_run){i, 1, 0}) == LZS_OK);
        lzs_ring_flush(large);
        for (int i = 0; i < claimed; i++) {
            c = claim(large, 0, i);
            deliver(large, &c);
        }
        for (int i = 0; i < claimed / 2; i++)
            take(large, i);
        for (int i = claimed / 2; i < claimed; i++)
            drop_done(large, i);
        for (int i = claimed; i < MANY; i++)
            drop_unfinished(large);
        CHECK(lzs_ring_drop(large, &(void *){NULL}) == LZS_EMPTY);
        CHECK(time_of_claims(small) < 20 * before); /* or hundreds of times as long */
    }
    publish(large, 7); /* and it can be used again */
    CHECK(lzs_ring_retract(large) == LZS_OK);
    CHECK(lzs_ring_drop(large, &(void *){NULL}) == LZS_EMPTY);
    publish(large, 8);
    claim(large, 0, 8);
    drop_unfinished(large);
    free_ring(small);
}

static void a_result_in_parts(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 1, first);
    lzs_progress progress = {0};
    lzs_claim c;
    void *result;

    publish(ring, 1);
    c = claim(ring, 0, 1);
    CHECK(lzs_ring_attach(&c, &progress) == LZS_OK);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_OK);
    CHECK(lzs_ring_take(ring, &result) == LZS_OK && result == &progress);
    CHECK(lzs_ring_attach(&c, &progress) == LZS_CANCELLED);
    CHECK(lzs_progress_wait(&progress, ring, 0, -1) == LZS_OK);
    for (int64_t n = 1; n <= 3; n++) {
        CHECK(lzs_progress_wait(&progress, ring, n, 0) == LZS_TIMEOUT);
        CHECK(atomic_load(&progress.wanted) == 0);
        lzs_progress_add(&progress, ring, 1, (int)n & 1);
        lzs_ring_wake(&c);
        CHECK(lzs_progress_done(&progress) == n);
        CHECK(lzs_progress_wait(&progress, ring, n, -1) == LZS_OK);
    }
    lzs_crew_close(crew);
    CHECK(lzs_progress_wait(&progress, ring, 3, -1) == LZS_OK); /* it is there all the same */
    for (int i = 0; i < 3; i++)
        CHECK(lzs_progress_wait(&progress, ring, 4, -1) == LZS_CLOSED);
    free_ring(ring);
}

static void parts_may_come_together(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 1, first);
    lzs_progress progress = {0};

    lzs_progress_add(&progress, ring, 3, 1);
    CHECK(lzs_progress_done(&progress) == 3 && lzs_progress_wait(&progress, ring, 3, -1) == LZS_OK);
    lzs_progress_add(&progress, ring, 4, 0);
    CHECK(lzs_progress_done(&progress) == 7 && lzs_progress_wait(&progress, ring, 8, 0) == LZS_TIMEOUT);
    free_ring(ring);
}

/* ---- A crew in shared memory ------------------------------------------------------------------------------------ */

#define SHARED_BYTES (1 << 16)
#define SHARED_RUNS 5000

static void processes_share_a_crew(uint64_t first)
{
    FILE *file = tmpfile();
    lzs_crew *shared;
    lzs_ring *ring;
    pid_t children[2];
    int status;

    CHECK(file != NULL && ftruncate(fileno(file), SHARED_BYTES) == 0);
    shared = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    CHECK(shared != MAP_FAILED && lzs_crew_at(shared, SHARED_BYTES, 2, 8) == shared);
    ring = lzs_ring_new(shared, 16, first);
    CHECK(ring != NULL);
    for (uint32_t w = 0; w < 2; w++) {
        children[w] = fork();
        CHECK(children[w] >= 0);
        if (children[w] == 0) {
            lzs_claim c;
            lzs_crew *mine = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
            if (mine == MAP_FAILED || mine == shared || munmap(shared, SHARED_BYTES))
                _exit(1);
            while (lzs_crew_claim_wait(mine, w, &c) == LZS_OK)
                if (lzs_ring_deliver(&c, (void *)(uintptr_t)(-c.run.item * c.run.count)) != LZS_OK)
                    _exit(2);
            _exit(0);
        }
    }
    for (int64_t head = 0, tail = 0; head < SHARED_RUNS; head++) {
        void *result;
        while (tail < SHARED_RUNS && lzs_ring_publish(ring, (lzs_run){tail, tail % 7, -tail}) == LZS_OK)
            tail++;
        while (lzs_ring_take(ring, &result) != LZS_OK)
            CHECK(lzs_ring_wait(ring, 0, -1) != LZS_CLOSED);
        CHECK((int64_t)(uintptr_t)result == head * (head % 7));
    }
    lzs_crew_close(shared);
    for (int w = 0; w < 2; w++)
        CHECK(waitpid(children[w], &status, 0) == children[w] && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    lzs_crew_free(shared);
    CHECK(munmap(shared, SHARED_BYTES) == 0 && fclose(file) == 0);
}

static void the_dead_are_buried(uint64_t first)
{
    lzs_ring *ring = new_ring(3, 4, first);
    lzs_claim dead, other, again;
    void *result;

    for (int64_t i = 0; i < 4; i++)
        CHECK(lzs_ring_publish(ring, (lzs_run){i, 1, 10 * i}) == LZS_OK);
    lzs_ring_flush(ring);
    other = claim(ring, 1, 0);
    dead = claim(ring, 0, 1);
    lzs_crew_bury(crew, 0);
    lzs_crew_bury(crew, 2); /* which has nothing */
    CHECK(lzs_crew_claim(crew, 2, &again) == LZS_OK && (again.run.index == 1 || again.run.index == 2));
    if (again.run.index == 2) { /* the hint may be beyond it */
        deliver(ring, &again);
        again = claim(ring, 2, 3);
        deliver(ring, &again);
        again = claim(ring, 2, 1);
    } else {
        deliver(ring, &again);
        again = claim(ring, 2, 2);
        deliver(ring, &again);
        again = claim(ring, 2, 3);
    }
    CHECK(!lzs_ring_stands(&dead) && lzs_ring_deliver(&dead, &result) == LZS_CANCELLED);
    deliver(ring, &again);
    CHECK(lzs_ring_stands(&other)); /* the living keep what they have */
    deliver(ring, &other);
    lzs_crew_bury(crew, 1); /* what is done stays */
    for (int64_t i = 0; i < 4; i++)
        take(ring, i);
    publish(ring, 4);
    dead = claim(ring, 0, 4);
    drop_unfinished(ring);
    lzs_crew_bury(crew, 0); /* and what was taken back */
    CHECK(lzs_crew_claim(crew, 1, &again) == LZS_EMPTY);
    free_ring(ring);
}

#ifndef LZS_PARK_WITH_PTHREAD /* whose mutex stays locked when its holder is killed */
#define KILLS 40

static pid_t employ(lzs_crew *shared, uint32_t w)
{
    pid_t child = fork();
    lzs_claim c;

    CHECK(child >= 0);
    if (child != 0)
        return child;
    while (lzs_crew_claim_wait(shared, w, &c) == LZS_OK)
        lzs_ring_deliver(&c, (void *)(uintptr_t)(c.run.item + 1));
    _exit(0);
}

/* Workers are killed at any moment, also asleep, and nothing is lost. */
static void killed_at_random(uint64_t first)
{
    lzs_crew *shared = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    lzs_ring *ring;
    pid_t children[3];
    uint64_t state = first + 1;
    int64_t head = 0, tail = 0;
    int kills = 0;

    CHECK(shared != MAP_FAILED && lzs_crew_at(shared, SHARED_BYTES, 3, 8) == shared);
    ring = lzs_ring_new(shared, 8, first);
    for (uint32_t w = 0; w < 3; w++)
        children[w] = employ(shared, w);
    while (kills < KILLS) {
        void *result;
        while (lzs_ring_publish(ring, (lzs_run){tail, 1, 3 * tail}) == LZS_OK)
            tail++;
        while (lzs_ring_take(ring, &result) != LZS_OK) {
            uint32_t w = (uint32_t)(draw(&state) % 3);
            if (lzs_ring_wait(ring, 0, 1) == LZS_TIMEOUT || draw(&state) % 64 == 0) {
                CHECK(kill(children[w], SIGKILL) == 0 && waitpid(children[w], NULL, 0) == children[w]);
                lzs_crew_bury(shared, w);
                children[w] = employ(shared, w);
                kills++;
            }
        }
        CHECK((int64_t)(uintptr_t)result == 3 * head + 1);
        head++;
        if (draw(&state) % 32 == 0) { /* jump */
            lzs_status status;
            while (head < tail && (status = lzs_ring_drop(ring, &result)) != LZS_EMPTY) {
                if (status == LZS_BUSY)
                    for (uint32_t w = 0; w < 3; w++) {
                        CHECK(kill(children[w], SIGKILL) == 0 && waitpid(children[w], NULL, 0) == children[w]);
                        lzs_crew_bury(shared, w);
                        children[w] = employ(shared, w);
                    }
                else
                    head++;
            }
        }
        if (draw(&state) % 64 == 0) {
            uint32_t w = (uint32_t)(draw(&state) % 3);
            CHECK(kill(children[w], SIGKILL) == 0 && waitpid(children[w], NULL, 0) == children[w]);
            lzs_crew_bury(shared, w);
            children[w] = employ(shared, w);
            kills++;
        }
    }
    lzs_crew_close(shared);
    for (uint32_t w = 0; w < 3; w++)
        CHECK(waitpid(children[w], NULL, 0) == children[w]);
    lzs_crew_free(shared);
    CHECK(munmap(shared, SHARED_BYTES) == 0);
}
#endif

static void a_crew_stays_within_its_memory(uint64_t first)
{
    _Alignas(64) static unsigned char memory[SHARED_BYTES];
    lzs_crew *within;
    uint64_t size;
    int n = 0;

    CHECK(lzs_crew_at(memory, 64, 1, 0) == NULL);
    CHECK(lzs_crew_at(memory, SHARED_BYTES, 0, 0) == NULL);
    CHECK(lzs_crew_at(memory, lzs_crew_size(2) - 64, 2, 0) == NULL);
    memset(memory, 0, sizeof memory);
    size = lzs_crew_size(2) + 12 * lzs_ring_size(13) + 64;
    CHECK(size + 100 < SHARED_BYTES);
    memset(memory + size, 77, 100);
    within = lzs_crew_at(memory, size, 2, 0);
    while (lzs_ring_new(within, 13, first) != NULL)
        n++;
    CHECK(n == 12 && lzs_ring_new(within, 1 << 20, first) == NULL && lzs_crew_ring(within, (uint32_t)n) == NULL);
    for (int i = 0; i < 100; i++)
        CHECK(memory[size + (uint64_t)i] == 77);
    lzs_crew_free(within);
    memset(memory, 0, sizeof memory);
}

/* ---- Waiting and waking ----------------------------------------------------------------------------------------- */

static void wait_ends_in_time(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 1, first);
    double start;

    publish(ring, 1);
    CHECK(lzs_ring_wait(ring, 0, 0) == LZS_TIMEOUT);
    CHECK(lzs_ring_wait(ring, 0, 1) == LZS_TIMEOUT);
    /* Spurious wake-ups may shorten a few of these waits, but not most of them. */
    start = seconds();
    for (int i = 0; i < 5; i++)
        CHECK(lzs_ring_wait(ring, 0, 20) == LZS_TIMEOUT);
    CHECK(seconds() - start > 0.05);
    claim(ring, 0, 1);
    CHECK(lzs_ring_wait(ring, 0, 0) == LZS_TIMEOUT);
    drop_unfinished(ring);
    free_ring(ring);
}

static void wait_looks_at_the_run_that_is_named(uint64_t first)
{
    lzs_ring *ring = new_ring(2, 4, first);
    lzs_claim a, b;

    for (int n = 0; n < 3; n++)
        publish(ring, n);
    CHECK(lzs_ring_length(ring) == 3);
    CHECK(lzs_ring_wait(ring, 3, -1) == LZS_EMPTY);
    CHECK(lzs_ring_wait(ring, UINT64_MAX, -1) == LZS_EMPTY);
    a = claim(ring, 0, 0);
    b = claim(ring, 1, 1);
    deliver(ring, &b);
    CHECK(lzs_ring_wait(ring, 1, -1) == LZS_OK);
    CHECK(lzs_ring_wait(ring, 0, 0) == LZS_TIMEOUT);
    deliver(ring, &a);
    CHECK(lzs_ring_wait(ring, 2, 0) == LZS_TIMEOUT);
    take(ring, 0);
    CHECK(lzs_ring_length(ring) == 2);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_OK);
    CHECK(lzs_ring_wait(ring, 2, -1) == LZS_EMPTY);
    take(ring, 1);
    drop_unfinished(ring);
    CHECK(lzs_ring_length(ring) == 0);
    free_ring(ring);
}

typedef struct {
    lzs_ring *ring;
    uint32_t number;
    atomic_int *started; /* how many workers have a claim */
    lzs_claim claim;
    lzs_status status;
} actor;

static void *wait_for_the_head(void *argument)
{
    actor *reader = argument;
    do
        reader->status = lzs_ring_wait(reader->ring, 0, -1);
    while (reader->status == LZS_TIMEOUT);
    return NULL;
}

static void *claim_one(void *argument)
{
    actor *worker = argument;
    worker->status = lzs_crew_claim_wait(crew, worker->number, &worker->claim);
    atomic_fetch_add(worker->started, 1);
    return NULL;
}

static void deliver_wakes_the_reader(uint64_t first)
{
    for (int asleep = 0; asleep <= 1; asleep++) {
        lzs_ring *ring = new_ring(2, 2, first);
        actor reader = {.ring = ring};
        pthread_t thread;
        lzs_claim a, b;

        publish(ring, 1);
        publish(ring, 2);
        a = claim(ring, 0, 1);
        b = claim(ring, 1, 2);
        CHECK(!lzs_ring_wanted(&a) && !lzs_ring_wanted(&b));
        CHECK(pthread_create(&thread, NULL, wait_for_the_head, &reader) == 0);
        while (!lzs_ring_wanted(&a))
            sched_yield();
        if (asleep)
            nap(10); /* it has announced its sleep, and now it will be sleeping */
        CHECK(!lzs_ring_wanted(&b));
        deliver(ring, &b);
        deliver(ring, &a);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(reader.status == LZS_OK);
        CHECK(!lzs_ring_wanted(&a));
        take(ring, 1);
        take(ring, 2);
        free_ring(ring);
    }
}

/* One flush of three runs: each worker ends with its first claim, so all three must have been woken. */
static void flush_wakes_a_sleeper_for_each_run(uint64_t first)
{
    for (int asleep = 0; asleep <= 1; asleep++) {
        lzs_ring *ring = new_ring(3, 3, first);
        atomic_int started = 0;
        actor workers[3];
        pthread_t threads[3];
        int seen = 0;

        for (uint32_t i = 0; i < 3; i++) {
            workers[i] = (actor){.ring = ring, .number = i, .started = &started};
            CHECK(pthread_create(&threads[i], NULL, claim_one, &workers[i]) == 0);
        }
        if (asleep)
            nap(10);
        for (int64_t i = 0; i < 3; i++)
            CHECK(lzs_ring_publish(ring, (lzs_run){i, 1, 0}) == LZS_OK);
        lzs_ring_flush(ring);
        for (int i = 0; i < 3; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            CHECK(workers[i].status == LZS_OK);
            seen |= 1 << workers[i].claim.run.index;
            deliver(ring, &workers[i].claim);
        }
        CHECK(seen == 7);
        for (int64_t i = 0; i < 3; i++)
            take(ring, i);
        free_ring(ring);
    }
}

/* One run for three sleepers, three times: whoever still sleeps can be woken later. */
static void flush_wakes_again(uint64_t first)
{
    lzs_ring *ring = new_ring(3, 1, first);
    atomic_int started = 0;
    actor workers[3];
    pthread_t threads[3];

    for (uint32_t i = 0; i < 3; i++) {
        workers[i] = (actor){.ring = ring, .number = i, .started = &started};
        CHECK(pthread_create(&threads[i], NULL, claim_one, &workers[i]) == 0);
    }
    nap(10);
    for (int i = 1; i <= 3; i++) {
        publish(ring, i);
        while (atomic_load(&started) < i)
            sched_yield();
        drop_unfinished(ring);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(workers[i].status == LZS_OK);
        deliver_in_vain(ring, &workers[i].claim);
    }
    free_ring(ring);
}

/* ---- close ------------------------------------------------------------------------------------------------------ */

static void close_ends_claims_and_waits(uint64_t first)
{
    lzs_ring *ring = new_ring(1, 2, first);
    lzs_claim c, under_way;

    publish(ring, 1);
    publish(ring, 2);
    under_way = claim(ring, 0, 1);
    CHECK(!lzs_crew_closed(crew));
    lzs_crew_close(crew);
    lzs_crew_close(crew);
    CHECK(lzs_crew_closed(crew));
    CHECK(lzs_crew_claim(crew, 0, &c) == LZS_CLOSED); /* although there is one */
    CHECK(lzs_crew_claim_wait(crew, 0, &c) == LZS_CLOSED);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_CLOSED);
    take_is_busy(ring);
    deliver(ring, &under_way); /* still taken, so that it is not lost */
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_OK);
    take(ring, 1);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_CLOSED);
    drop_unfinished(ring);
    CHECK(lzs_ring_wait(ring, 0, -1) == LZS_EMPTY);
    CHECK(lzs_ring_publish(ring, (lzs_run){3, 1, 0}) == LZS_OK); /* the reader may, but nobody will come for it */
    lzs_ring_flush(ring);
    CHECK(lzs_crew_claim(crew, 0, &c) == LZS_CLOSED);
    drop_unfinished(ring);
    free_ring(ring);
}

static void close_wakes_the_reader(uint64_t first)
{
    for (int asleep = 0; asleep <= 1; asleep++) {
        lzs_ring *ring = new_ring(1, 1, first);
        actor reader = {.ring = ring};
        pthread_t thread;
        lzs_claim c;

        publish(ring, 1);
        c = claim(ring, 0, 1);
        CHECK(pthread_create(&thread, NULL, wait_for_the_head, &reader) == 0);
        while (!lzs_ring_wanted(&c))
            sched_yield();
        if (asleep)
            nap(10);
        lzs_crew_close(crew);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(reader.status == LZS_CLOSED);
        drop_unfinished(ring);
        deliver_in_vain(ring, &c);
        free_ring(ring);
    }
}

static void close_wakes_every_worker(uint64_t first)
{
    for (int asleep = 0; asleep <= 1; asleep++) {
        lzs_ring *ring = new_ring(4, 1, first);
        atomic_int started = 0;
        actor workers[4];
        pthread_t threads[4];

        for (uint32_t i = 0; i < 4; i++) {
            workers[i] = (actor){.ring = ring, .number = i, .started = &started};
            CHECK(pthread_create(&threads[i], NULL, claim_one, &workers[i]) == 0);
        }
        if (asleep)
            nap(10);
        lzs_crew_close(crew);
        for (int i = 0; i < 4; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            CHECK(workers[i].status == LZS_CLOSED);
        }
        free_ring(ring);
    }
}

int main(void)
{
    /* From the start; so that generations wrap within each test; so that positions wrap too. */
    const struct {
        const char *name;
        uint64_t first;
    } starts[] = {{"0", 0}, {"2^48-3", (UINT64_C(1) << 48) - 3}, {"2^64-3", UINT64_MAX - 2}};
    const struct {
        const char *name;
        void (*test)(uint64_t first);
    } tests[] = {
#define TEST(name) {#name, name}
        TEST(smoke),
        TEST(an_empty_ring_says_so),
        TEST(capacity_is_exact),
        TEST(runs_keep_their_shape),
        TEST(flush_shows_what_is_published),
        TEST(claim_gives_the_first_run_to_one_worker),
        TEST(the_last_of_most_workers),
        TEST(delivery_is_in_the_order_of_publication),
        TEST(take_is_busy_until_it_is_done),
        TEST(a_null_result_is_a_result),
        TEST(drop_takes_back_a_run_in_any_state),
        TEST(an_old_claim_never_delivers),
        TEST(any_sequence_of_calls),
        TEST(rings_take_turns),
        TEST(an_empty_ring_is_not_looked_through),
        TEST(a_result_in_parts),
        TEST(parts_may_come_together),
        TEST(processes_share_a_crew),
        TEST(the_dead_are_buried),
#ifndef LZS_PARK_WITH_PTHREAD
        TEST(killed_at_random),
#endif
        TEST(a_crew_stays_within_its_memory),
        TEST(wait_ends_in_time),
        TEST(wait_looks_at_the_run_that_is_named),
        TEST(deliver_wakes_the_reader),
        TEST(flush_wakes_a_sleeper_for_each_run),
        TEST(flush_wakes_again),
        TEST(close_ends_claims_and_waits),
        TEST(close_wakes_the_reader),
        TEST(close_wakes_every_worker),
#undef TEST
    };

    alarm(WATCHDOG_SECONDS);
    bad_arguments_give_null();
    OK("bad_arguments_give_null");
    for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++) {
        for (unsigned t = 0; t < sizeof tests / sizeof *tests; t++) {
            tests[t].test(starts[s].first);
            OK("%s, first position %s", tests[t].name, starts[s].name);
        }
    }
    REPORT();
    return 0;
}
