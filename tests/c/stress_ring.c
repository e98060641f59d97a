/* One reader against real worker threads: jumps, runs of any length, delays, ends at any moment.
 *
 *   stress_ring [SEED [ITEMS]]
 *
 * The seed decides what each thread does, not how their steps mix. Every result is a block of its own, so that ASan
 * sees one that is lost or freed twice, and TSan one that is not handed over properly.
 */
#define _POSIX_C_SOURCE 200809L /* alarm, nanosleep */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "../../src/lazyseq/_prefetch.h"

enum { MAX_WORKERS = 4, MAX_CAPACITY = 512, MAX_RUNS = 1 << 20, LOOKS = 20 };

/* What a round is like. A "one in" of 0 means never. */
typedef struct {
    const char *name;
    unsigned jump_one_in; /* the reader takes runs back and goes on elsewhere */
    unsigned all_one_in;  /* if it jumps: all runs, not only the first few */
    unsigned delay_one_in;
    unsigned close_one_in; /* somebody closes the ring; the reader finds out */
    unsigned polls;        /* most tries before a sleep: sleeps and wakings then meet within nanoseconds */
    long times;            /* how many times as many items, 0 is 1 */
    int greedy;            /* the reader fills the ring, flushes once for all, and waits without end */
} manner;

/* Neither the ring nor anything that a thread of a round sees outlives the round. */
typedef struct {
    lzs_crew *crew;
    lzs_ring *ring;
    const manner *manner;
    uint32_t nworkers;
    long capacity;
} arena;

typedef struct {
    arena *arena;
    uint32_t number;
    uint64_t random;
} worker;

typedef struct {
    lzs_run run;
    uint64_t seal;
} result;

static atomic_long alive;   /* results that exist */
static atomic_long started; /* claims neither cancelled nor taken back yet: evaluations under way, results that wait */
static atomic_uchar claims[MAX_RUNS]; /* how often each run of this round was claimed */
static atomic_long sink;
static uint64_t seed = 1;

/* xorshift64: any fast generator will do. */
static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int one_in(uint64_t *state, unsigned n)
{
    return n != 0 && (draw(state) >> 20) % n == 0;
}

/* Started from any number, zero too; neighbours must differ widely. */
static uint64_t generator(uint64_t n)
{
    n = (n + UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
    n = (n ^ n >> 31) * UINT64_C(0x94D049BB133111EB);
    return (n ^ n >> 29) | 1;
}

static void delay(uint64_t *state)
{
    uint64_t how = draw(state) >> 20;
    if (how % 4 == 0)
        sched_yield();
    else
        for (uint64_t n = how % 512; n > 0; n--)
            atomic_fetch_add_explicit(&sink, 1, memory_order_relaxed);
}

/* How often to look before sleeping. */
static uint64_t tries(uint64_t *state, const manner *m)
{
    return (draw(state) >> 20) % (1 + (m->polls ? m->polls : 1));
}

/* ---- Results ---------------------------------------------------------------------------------------------------- */

static uint64_t seal_of(lzs_run run)
{
    return generator(((uint64_t)run.index * 31 + (uint64_t)run.count) * 31 + (uint64_t)run.item);
}

static result *make(lzs_run run)
{
    result *r = malloc(sizeof *r);
    CHECK(r != NULL);
    *r = (result){run, seal_of(run)};
    atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
    return r;
}

static void release(result *r, lzs_run expected)
{
    CHECK(r->run.index == expected.index && r->run.count == expected.count && r->run.item == expected.item &&
          r->seal == seal_of(expected));
    r->seal = 0;
    free(r);
    atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
}

/* ---- Workers ---------------------------------------------------------------------------------------------------- */

static void *work(void *argument)
{
    worker *w = argument;
    arena *a = w->arena;
    /* Without jumps nothing is cancelled; with them, each worker may be busy with a run that left the ring. */
    const long most = a->capacity + (a->manner->jump_one_in ? (long)a->nworkers : 0);
    lzs_claim c;
    lzs_status status;

    for (;;) {
        result *r;
        status = LZS_EMPTY;
        for (uint64_t n = tries(&w->random, a->manner); n > 0 && status == LZS_EMPTY; n--)
            status = lzs_crew_claim(a->crew, w->number, &c);
        if (status == LZS_EMPTY)
            status = lzs_crew_claim_wait(a->crew, w->number, &c);
        if (status == LZS_CLOSED)
            return NULL;
        CHECK(status == LZS_OK);
        CHECK(atomic_fetch_add_explicit(&started, 1, memory_order_relaxed) < most);
        CHECK(atomic_fetch_add_explicit(&claims[c.run.index & (MAX_RUNS - 1)], 1, memory_order_relaxed) == 0);
        if (one_in(&w->random, a->manner->delay_one_in))
            delay(&w->random);
        r = make(c.run);
        (void)lzs_ring_wanted(&c);
        status = lzs_ring_deliver(&c, r);
        if (status != LZS_OK) {
            CHECK(status == LZS_CANCELLED);
            release(r, c.run);
            atomic_fetch_sub_explicit(&started, 1, memory_order_relaxed);
        }
    }
}

static void start(arena *a, worker *workers, pthread_t *threads)
{
    for (uint32_t i = 0; i < a->nworkers; i++) {
        workers[i] = (worker){a, i, generator(seed * 1000 + i)};
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
}

/* ---- The reader ------------------------------------------------------------------------------------------------- */

/* The runs in the ring, as the reader remembers them: numbers from `head` up to `tail`. */
typedef struct {
    lzs_run runs[MAX_CAPACITY];
    uint64_t head, tail;
} window;

static lzs_run *remembered(window *w, uint64_t number)
{
    return &w->runs[number % MAX_CAPACITY];
}

/* Take back the first run. */
static void drop(arena *a, window *w)
{
    void *r = a;
    CHECK(lzs_ring_drop(a->ring, &r) == LZS_OK);
    if (r != NULL) {
        release(r, *remembered(w, w->head));
        atomic_fetch_sub_explicit(&started, 1, memory_order_relaxed);
    }
    w->head++;
}

/* Publish at least one run, if there is none. The low bits of an index number the run, the others are the place. */
static void fill(arena *a, window *w, int64_t place, uint64_t *random)
{
    for (;;) {
        lzs_run run = {(int64_t)((uint64_t)place * MAX_RUNS | w->tail), 1 + (int64_t)(draw(random) >> 50),
                       (int64_t)draw(random)};
        lzs_status status = lzs_ring_publish(a->ring, run);
        if (w->tail - w->head == (uint64_t)a->capacity) {
            CHECK(status == LZS_FULL);
            break;
        }
        CHECK(status == LZS_OK);
        *remembered(w, w->tail++) = run;
        if (!a->manner->greedy && one_in(random, 4))
            lzs_ring_flush(a->ring);
        if (!a->manner->greedy && one_in(random, 4))
            break;
    }
    lzs_ring_flush(a->ring);
}

/* Read one run, which is the first of the window. Whether the ring is not closed. */
static int read_one(arena *a, window *w, uint64_t *random)
{
    const int timeouts[] = {-1, 0, 1, 1000};
    lzs_run expected = *remembered(w, w->head), run;
    uint64_t ahead;
    void *r = NULL;

    CHECK(lzs_ring_head(a->ring, &run) == LZS_OK);
    CHECK(run.index == expected.index && run.count == expected.count);
    for (;;) {
        lzs_status status = LZS_BUSY;
        for (uint64_t n = 1 + tries(random, a->manner); n > 0 && status == LZS_BUSY; n--)
            status = lzs_ring_take(a->ring, &r);
        if (status == LZS_OK)
            break;
        CHECK(status == LZS_BUSY);
        ahead = one_in(random, 2) ? draw(random) % (w->tail - w->head) : 0;
        /* A wake-up that is lost shows only where a wait has no end. */
        status = lzs_ring_wait(a->ring, ahead, timeouts[a->manner->greedy ? 0 : draw(random) >> 20 & 3]);
        if (status == LZS_CLOSED) {
            CHECK(a->manner->close_one_in != 0);
            return 0;
        }
        CHECK(status == LZS_OK || status == LZS_TIMEOUT);
    }
    release(r, expected);
    atomic_fetch_sub_explicit(&started, 1, memory_order_relaxed);
    w->head++;
    return 1;
}

static void *close_it(void *argument)
{
    lzs_crew_close(argument);
    return NULL;
}

static void round_of(const manner *m, uint32_t nworkers, long capacity, long items, uint64_t *random)
{
    /* Positions and generations wrap somewhere in most rounds. */
    uint64_t wrap = draw(random) % (uint64_t)items;
    const uint64_t firsts[] = {0, (UINT64_C(1) << 48) - wrap, UINT64_MAX - wrap};
    arena a = {.manner = m, .nworkers = nworkers, .capacity = capacity};
    static window w;
    worker workers[MAX_WORKERS];
    pthread_t threads[MAX_WORKERS], closer;
    int closing = 0;
    int64_t place = 0;

    a.crew = lzs_crew_new(nworkers, one_in(random, 2) ? 0 : LOOKS);
    CHECK(a.crew != NULL);
    a.ring = lzs_ring_new(a.crew, (uint64_t)capacity, firsts[draw(random) % 3]);
    CHECK(a.ring != NULL);
    w.head = w.tail = 0;
    start(&a, workers, threads);
    for (long i = 0; i < items && w.tail + MAX_CAPACITY < MAX_RUNS; i++) {
        if (one_in(random, m->jump_one_in)) {
            uint64_t n = one_in(random, m->all_one_in) ? MAX_CAPACITY : 1 + (draw(random) >> 20) % 4;
            for (; n > 0 && w.head != w.tail; n--)
                drop(&a, &w);
            place = (int64_t)(draw(random) >> 22);
        }
        fill(&a, &w, place, random);
        if (one_in(random, m->delay_one_in))
            delay(random);
        if (!closing && one_in(random, m->close_one_in)) {
            CHECK(pthread_create(&closer, NULL, close_it, a.crew) == 0);
            closing = 1;
        }
        if (!read_one(&a, &w, random))
            break;
    }
    /* The end, in one order or the other: workers may still deliver while the reader takes everything back. */
    if (one_in(random, 2))
        while (w.head != w.tail)
            drop(&a, &w);
    lzs_crew_close(a.crew);
    if (one_in(random, 2))
        while (w.head != w.tail)
            drop(&a, &w);
    for (uint32_t i = 0; i < nworkers; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    if (closing)
        CHECK(pthread_join(closer, NULL) == 0);
    while (w.head != w.tail)
        drop(&a, &w);
    CHECK(lzs_ring_drop(a.ring, &(void *){NULL}) == LZS_EMPTY);
    CHECK(atomic_load(&started) == 0);
    CHECK(atomic_load(&alive) == 0);
    lzs_crew_free(a.crew);
    for (uint64_t i = 0; i < w.tail; i++)
        atomic_store_explicit(&claims[i], 0, memory_order_relaxed);
}

/* ---- Closing while all sleep ------------------------------------------------------------------------------------ */

static void *wait_for_the_head(void *argument)
{
    lzs_status status;
    do
        status = lzs_ring_wait(argument, 0, -1);
    while (status == LZS_TIMEOUT);
    CHECK(status == LZS_CLOSED);
    return NULL;
}

/* A reader beside others, with a ring of its own. */
typedef struct {
    arena arena;
    window window;
    uint64_t random;
    long items;
} companion;

static void *read_beside_others(void *argument)
{
    companion *me = argument;
    for (long i = 0; i < me->items; i++) {
        fill(&me->arena, &me->window, 0, &me->random);
        if (one_in(&me->random, 8))
            drop(&me->arena, &me->window);
        else
            CHECK(read_one(&me->arena, &me->window, &me->random));
    }
    while (me->window.head != me->window.tail)
        drop(&me->arena, &me->window);
    return NULL;
}

/* Several readers share the workers; some rings are made while these work. */
static void several_readers(int rounds, long items, uint64_t *random)
{
    enum { READERS = 4 };
    const manner busy = {.name = "busy", .jump_one_in = 8, .delay_one_in = 8, .greedy = 1};
    static companion readers[READERS];

    for (int i = 0; i < rounds; i++) {
        uint32_t nworkers = 1u << i % 3;
        arena a = {.crew = lzs_crew_new(nworkers, i % 2 ? 0 : LOOKS), .manner = &busy, .nworkers = nworkers, .capacity = 16 * READERS};
        worker workers[MAX_WORKERS];
        pthread_t threads[MAX_WORKERS], reading[READERS];

        CHECK(a.crew != NULL);
        start(&a, workers, threads);
        for (unsigned k = 0; k < READERS; k++) {
            companion *r = &readers[k];
            r->arena = a;
            r->arena.capacity = 1 + (long)(draw(random) >> 20) % 16;
            r->arena.ring = lzs_ring_new(a.crew, (uint64_t)r->arena.capacity, k % 2 ? UINT64_MAX - 9 : 0);
            CHECK(r->arena.ring != NULL);
            r->window.head = r->window.tail = (uint64_t)k * (MAX_RUNS / READERS); /* runs of its own */
            r->random = generator(draw(random));
            r->items = items;
            CHECK(pthread_create(&reading[k], NULL, read_beside_others, r) == 0);
        }
        for (unsigned k = 0; k < READERS; k++)
            CHECK(pthread_join(reading[k], NULL) == 0);
        lzs_crew_close(a.crew);
        for (uint32_t k = 0; k < nworkers; k++)
            CHECK(pthread_join(threads[k], NULL) == 0);
        CHECK(atomic_load(&started) == 0 && atomic_load(&alive) == 0);
        lzs_crew_free(a.crew);
        for (unsigned k = 0; k < MAX_RUNS; k++)
            atomic_store_explicit(&claims[k], 0, memory_order_relaxed);
    }
}

/* Workers have nothing to do, and the reader waits for a run that nobody will finish. */
static void close_while_all_sleep(int rounds, uint64_t *random)
{
    const manner idle = {.name = "idle"};

    for (int i = 0; i < rounds; i++) {
        arena a = {.crew = lzs_crew_new(MAX_WORKERS, i % 2 ? 0 : LOOKS), .manner = &idle, .nworkers = MAX_WORKERS, .capacity = 4};
        worker workers[MAX_WORKERS];
        pthread_t threads[MAX_WORKERS], reader;
        lzs_claim stuck;
        void *r;

        CHECK(a.crew != NULL);
        a.ring = lzs_ring_new(a.crew, 4, 0);
        CHECK(a.ring != NULL);
        CHECK(lzs_ring_publish(a.ring, (lzs_run){1, 1, 0}) == LZS_OK);
        lzs_ring_flush(a.ring);
        CHECK(lzs_crew_claim(a.crew, 0, &stuck) == LZS_OK);
        start(&a, workers, threads);
        CHECK(pthread_create(&reader, NULL, wait_for_the_head, a.ring) == 0);
        /* Sometimes all do sleep by then; sometimes they are about to. */
        if (one_in(random, 4))
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        else
            delay(random);
        lzs_crew_close(a.crew);
        CHECK(pthread_join(reader, NULL) == 0);
        for (uint32_t k = 0; k < MAX_WORKERS; k++)
            CHECK(pthread_join(threads[k], NULL) == 0);
        CHECK(lzs_ring_drop(a.ring, &r) == LZS_OK && r == NULL);
        CHECK(lzs_ring_deliver(&stuck, &r) == LZS_CANCELLED);
        lzs_crew_free(a.crew);
    }
}

int main(int argc, char **argv)
{
    const long capacities[] = {1, 2, 3, 16, MAX_CAPACITY};
    const manner manners[] = {
        {.name = "straight on", .greedy = 1},
        {.name = "straight on, with delays", .delay_one_in = 4},
        {.name = "jumps", .jump_one_in = 8, .all_one_in = 2, .delay_one_in = 4},
        {.name = "jumps all the time", .jump_one_in = 2, .all_one_in = 4, .greedy = 1},
        {.name = "hardly asleep", .polls = 60, .times = 10, .greedy = 1},
        {.name = "hardly asleep, jumps", .jump_one_in = 4, .all_one_in = 8, .polls = 60, .times = 5, .greedy = 1},
    };
    const manner ending = {.name = "", .jump_one_in = 8, .all_one_in = 2, .delay_one_in = 4, .close_one_in = 20};
    long items = 1500;
    uint64_t random;

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        items = strtol(argv[2], NULL, 10);
    CHECK(items > 0);
    printf("seed %llu, %ld items\n", (unsigned long long)seed, items);
    fflush(stdout);
    random = generator(seed);
    alarm(WATCHDOG_SECONDS);
    for (uint32_t nworkers = 1; nworkers <= MAX_WORKERS; nworkers *= 2) {
        for (unsigned i = 0; i < sizeof capacities / sizeof *capacities; i++) {
            for (unsigned k = 0; k < sizeof manners / sizeof *manners; k++) {
                const long times = manners[k].times ? manners[k].times : 1;
                round_of(&manners[k], nworkers, capacities[i], items * times, &random);
                OK("%s: %u workers, capacity %ld", manners[k].name, (unsigned)nworkers, capacities[i]);
            }
        }
    }
    for (int i = 0; i < 200; i++)
        round_of(&ending, 1u << i % 3, capacities[i % 5], 100, &random);
    OK("close_at_any_moment");
    several_readers(10, items, &random);
    OK("several_readers");
    close_while_all_sleep(200, &random);
    OK("close_while_all_sleep");
    REPORT();
    return 0;
}
