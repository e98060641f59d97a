/* Deaths at every step: a worker process is killed before its K-th atomic operation or system call on the ring and the
 * arena, or after its K-th change of them, for each K until it comes to its end; and everything is there all the same.
 *
 *   kill_ring [-v] [-s N] [SCENARIO [J K]]   all, or one, or one case of it
 *
 * -v tells each death; -s: every N-th K and J only.
 *
 * In a case there are a reader and two worker processes, which share an arena, and in its common part a crew and a ring.
 * Worker 0 has the counter. What the reader and the workers do beside the ring is what _engine.pyx has them do: runs go
 * in records, whose items are sent one by one; the reader finds out about a death as it waits.
 *
 * Until worker 0 is dead or asleep, it runs alone, so that its steps are the same each time: worker 1 sleeps, and is held
 * up when it wakes. What the reader does meanwhile, its act, is done by the worker's own process, between two steps of
 * its: at the J-th, for each J and each K from J on. For J = K the reader does it after the death and before it knows.
 * Then all run freely: the reader receives everything in order, the workers go to sleep, and what they left behind is
 * looked at. In the scenario `free`, all run freely from the beginning.
 */
#define _GNU_SOURCE /* syscall, MAP_ANONYMOUS */
#include "check.h"

#include <inttypes.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Steps ------------------------------------------------------------------------------------------------------ */

/* Where a process died. The texts are the same in all. */
typedef struct {
    const char *function, *what;
    int line;
    int may_lose; /* blocks that nobody else knows of, see evaluate */
} place;

static int counting; /* only in a worker that is to be killed */
static int may_lose;
static long steps, act_at, kill_at;

static void act_now(void);
static _Noreturn void die(place here);

static void step(const char *function, int line, const char *what)
{
    if (!counting)
        return;
    steps++;
    if (steps == act_at && act_at != kill_at) {
        counting = 0;
        act_now();
        counting = 1;
    }
    if (steps == kill_at)
        die((place){function, what, line, may_lose});
}

/* As the kernel has it; what follows has its steps counted. */
static long futex(void *word, int operation, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_exchange_explicit
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit
#undef atomic_fetch_or_explicit
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak_explicit
#define VALUE_OF(object) __typeof__((void)0, *(object))
#define PLAIN(object) ((VALUE_OF(object) *)(object))
#define STEP(what) step(__func__, __LINE__, what)
#define atomic_load_explicit(object, order)                                                                         \
    __extension__({                                                                                                 \
        STEP("before load " #object);                                                                               \
        __atomic_load_n(PLAIN(object), order);                                                                      \
    })
#define atomic_store_explicit(object, value, order)                                                                 \
    __extension__({                                                                                                 \
        VALUE_OF(object) value_ = (value);                                                                          \
        STEP("before store " #object);                                                                              \
        __atomic_store_n(PLAIN(object), value_, order);                                                             \
        STEP("after store " #object);                                                                               \
    })
#define REPLACE(operation, object, value, order)                                                                    \
    __extension__({                                                                                                 \
        VALUE_OF(object) old_, value_ = (value);                                                                    \
        STEP("before " #operation " " #object);                                                                     \
        old_ = __atomic_##operation(PLAIN(object), value_, order);                                                  \
        STEP("after " #operation " " #object);                                                                      \
        old_;                                                                                                       \
    })
#define atomic_exchange_explicit(object, value, order) REPLACE(exchange_n, object, value, order)
#define atomic_fetch_add_explicit(object, value, order) REPLACE(fetch_add, object, value, order)
#define atomic_fetch_sub_explicit(object, value, order) REPLACE(fetch_sub, object, value, order)
#define atomic_fetch_or_explicit(object, value, order) REPLACE(fetch_or, object, value, order)
/* A weak one fails where a strong one does, so that steps can be counted. */
#define atomic_compare_exchange_strong_explicit(object, expected, desired, success, failure)                        \
    __extension__({                                                                                                 \
        VALUE_OF(object) desired_ = (desired);                                                                      \
        int done_;                                                                                                  \
        STEP("before compare_exchange " #object);                                                                   \
        done_ = __atomic_compare_exchange_n(PLAIN(object), expected, desired_, 0, success, failure);                \
        if (done_)                                                                                                  \
            STEP("after compare_exchange " #object);                                                                \
        done_;                                                                                                      \
    })
#define atomic_compare_exchange_weak_explicit atomic_compare_exchange_strong_explicit

static void about_to_sleep(void);
static void woken(void);

static long futex_in_steps(const char *function, int line, _Atomic uint32_t *word, int operation, uint32_t value,
                           const struct timespec *timeout)
{
    int sleeps = operation == FUTEX_WAIT;
    long result;

    step(function, line, sleeps ? "before futex_wait" : "before futex_wake");
    if (sleeps && *word == value)
        about_to_sleep();
    result = futex(word, operation, value, timeout);
    if (sleeps)
        woken();
    step(function, line, sleeps ? "after futex_wait" : "after futex_wake");
    return result;
}

#define syscall(number, word, operation, value, timeout, second, bits)                                              \
    futex_in_steps(__func__, __LINE__, word, operation, value, timeout)
#include "../../src/lazyseq/_prefetch.c"
#undef syscall

/* Both have one. */
#define OWNED BLOCK_OWNED
#include "../../src/lazyseq/_arena.c"
#undef OWNED

/* ---- What all processes of a case share ------------------------------------------------------------------------- */

enum { WORKERS = 2, SLOTS = 4, MOST = 5 /* items published ahead */, AFTER_JUMP = 1, ARENA_BYTES = 1 << 18 };
enum { CASE_SECONDS = 10, MISSES = 20 };
enum { RUNNING, ASLEEP, DYING }; /* worker 0 */
enum { NOTHING, PUBLISHES, READS, JUMPS, WAITS };
enum { BY_READER = 1, BY_WORKER = 2 };

/* Where a reader goes on that jumps: nothing it wanted before has such a number. */
#define ELSEWHERE 99

typedef struct {
    lzs_progress progress; /* first: the ring knows the run by it */
    _Atomic int64_t unwanted, cut, ends;
    int64_t start, count;
    _Atomic uint64_t messages[]; /* the offset of each item's, 0: there is none, or it is read */
} record;

typedef struct {
    int64_t item;
} message;

typedef struct {
    _Alignas(64) _Atomic uint64_t record; /* of the run that the worker evaluates; 0: none */
} desk;

typedef struct {
    _Alignas(64) desk desks[WORKERS];
    /* The reader's. */
    int64_t next, tail, stop; /* what to read, to publish, and not to */
    uint64_t held;            /* the record of the run that was taken last, 0: none */
    int jumping, acted;
    /* What is done between two steps of worker 0. */
    _Alignas(64) _Atomic uint32_t worker0, freed; /* freed: nobody is held up */
    place deaths[2];
    _Atomic int ndeaths;
} board;

typedef struct {
    const char *name;
    int act;
    int64_t published; /* how many items are, before worker 0 starts */
    uint32_t looks;
    int free;  /* all is, from the beginning; else worker 0 is not killed any more once it has slept */
    int twice; /* its substitute dies too */
    int64_t items;
} scenario;

static const scenario scenarios[] = {
    {"alone", NOTHING, 4, 0, 0, 0, 6},
    {"alone, looking for work", NOTHING, 4, 2, 0, 0, 6},
    {"and so does its substitute", NOTHING, 4, 2, 0, 1, 6},
    {"the reader publishes", PUBLISHES, 0, 0, 0, 0, 4},
    {"the reader publishes, as it looks for work", PUBLISHES, 0, 1, 0, 0, 1},
    {"the reader reads", READS, 3, 0, 0, 0, 4},
    {"the reader waits", WAITS, 3, 0, 0, 0, 4},
    {"the reader jumps", JUMPS, 3, 0, 0, 0, 4},
    {"free", NOTHING, 0, 2, 1, 0, 12},
    {"free, and so does its substitute", NOTHING, 0, 2, 1, 1, 12},
};

static const scenario *now;
static lzs_arena *arena;
static lzs_crew *crew;
static lzs_ring *ring;
static board *all;
static uint32_t me = WORKERS; /* which worker; WORKERS: the reader */
static pid_t children[WORKERS];
static int telling, buried;
static long jobs = 4, stride = 1;
static place last_death;

/* Of a scenario, by all who share its cases. */
typedef struct {
    _Atomic long points, cases;
    _Atomic long lossy, miscounted; /* deaths that left something behind, see look_at_what_is_left */
} figures;

static figures *found;

static void *at(uint64_t offset)
{
    return (char *)arena + offset;
}

static record *record_at(uint64_t offset)
{
    return at(offset);
}

static void tell_deaths(FILE *to)
{
    fprintf(to, "%s, J = %ld, K = %ld:", now->name, act_at, kill_at);
    for (int k = 0; all != NULL && k < all->ndeaths; k++)
        fprintf(to, " death in %s, line %d, %s%s", all->deaths[k].function, all->deaths[k].line, all->deaths[k].what,
                all->deaths[k].may_lose ? " (with blocks nobody else knows)" : "");
    fprintf(to, "\n");
}

static void say_state(void)
{
    fprintf(stderr, "the reader is at %" PRId64 " of %" PRId64 ", has published up to %" PRId64 ", holds %" PRIu64 "\n",
            all->next, all->stop, all->tail, all->held);
    for (uint32_t w = 0; w < WORKERS; w++) {
        fprintf(stderr, "worker %u: asleep %u, parker %u, record %" PRIu64 "\n", w,
                (unsigned)worker_of(crew, w)->asleep, (unsigned)worker_of(crew, w)->parker.word,
                (uint64_t)all->desks[w].record);
        if (children[w] > 0)
            kill(children[w], SIGKILL);
    }
}

/* Stdio in a handler: the reader has one thread, and the signals come from abort, and after a hang from an alarm. */
static void say_case(int number)
{
    fflush(stdout);
    fprintf(stderr, number == SIGALRM ? "hangs: " : "failed: ");
    tell_deaths(stderr);
    if (all != NULL)
        say_state();
    signal(number, SIG_DFL);
    raise(number);
}
/* ---- What reader and worker do in _engine.pyx ------------------------------------------------------------------- */

static void let_go(uint64_t offset, int64_t side)
{
    record *r = record_at(offset);

    if (atomic_fetch_or_explicit(&r->ends, side, memory_order_acq_rel) == 0)
        return;
    for (int64_t k = 0; k < r->count; k++) {
        uint64_t unread = atomic_load_explicit(&r->messages[k], memory_order_relaxed);
        if (unread != 0)
            lzs_arena_release(arena, unread);
    }
    lzs_arena_release(arena, offset);
}

static uint64_t allocate_block(uint32_t w, uint64_t size)
{
    lzs_extent missing;
    uint64_t offset = lzs_arena_allocate(arena, w, size, &missing);

    CHECK(offset != 0);
    return offset;
}

/* evaluate_in_process. A block that is kept while neither the reader nor its desk knows it dies with the worker. */
static void evaluate(uint32_t w, const lzs_claim *claim)
{
    desk *mine = &all->desks[w];
    int64_t count = claim->run.count;
    uint64_t size = sizeof(record) + (uint64_t)count * sizeof(uint64_t), offset = allocate_block(w, size);
    record *r = record_at(offset);

    memset(at(offset), 0, size);
    r->start = claim->run.index;
    r->count = count;
    may_lose = 1;
    lzs_arena_keep(arena, offset);
    atomic_store_explicit(&mine->record, offset, memory_order_relaxed);
    if (lzs_ring_attach(claim, (void *)(uintptr_t)offset) != LZS_OK) {
        atomic_store_explicit(&mine->record, 0, memory_order_relaxed);
        lzs_arena_release(arena, offset);
        may_lose = 0;
        return;
    }
    may_lose = 0;
    for (int64_t k = 0; k < count; k++) {
        uint64_t sent;
        if (atomic_load_explicit(&r->unwanted, memory_order_relaxed))
            break;
        sent = allocate_block(w, claim->run.item % 3 ? sizeof(message) : 200);
        ((message *)at(sent))->item = claim->run.item + k;
        may_lose = 1;
        lzs_arena_keep(arena, sent);
        atomic_store_explicit(&r->messages[k], sent, memory_order_relaxed);
        may_lose = 0;
        lzs_progress_add(&r->progress, claim->ring, 1, 1);
        lzs_ring_wake(claim);
    }
    may_lose = 1;
    atomic_store_explicit(&mine->record, 0, memory_order_relaxed);
    let_go(offset, BY_WORKER);
    may_lose = 0;
}

static _Noreturn void work(uint32_t w)
{
    lzs_claim claim;

    while (lzs_crew_claim_wait(crew, w, &claim) == LZS_OK)
        evaluate(w, &claim);
    _exit(0);
}

static void start(uint32_t w, int to_be_killed)
{
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        me = w;
        counting = to_be_killed;
        steps = 0;
        work(w);
    }
    children[w] = child;
}

static void look_after_workers(void)
{
    for (uint32_t w = 0; w < WORKERS; w++) {
        desk *its = &all->desks[w];
        uint64_t offset;
        int status;
        pid_t reaped = waitpid(children[w], &status, WNOHANG);

        CHECK(reaped >= 0);
        if (reaped == 0)
            continue;
        buried++;
        CHECK(w == 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        offset = its->record;
        if (offset != 0)
            record_at(offset)->cut = record_at(offset)->start + lzs_progress_done(&record_at(offset)->progress) + 1;
        its->record = 0;
        lzs_crew_bury(crew, w);
        if (offset != 0)
            let_go(offset, BY_WORKER);
        lzs_arena_reclaim(arena, w);
        start(w, now->twice && all->ndeaths == 1);
    }
}

static void release_held(void)
{
    record_at(all->held)->unwanted = 1;
    let_go(all->held, BY_READER);
    all->held = 0;
}

/* Take everything back, to go on elsewhere. No if a worker may be dead that somebody must look after first. */
static int clear(void)
{
    void *result;
    lzs_status status;

    if (all->held != 0)
        release_held();
    while ((status = lzs_ring_drop(ring, &result)) == LZS_OK) {
        if (result != NULL) {
            all->held = (uint64_t)(uintptr_t)result;
            release_held();
        }
    }
    return status == LZS_EMPTY;
}

static void clear_in_time(void)
{
    while (!clear())
        look_after_workers();
}

static int64_t item_of(int64_t index)
{
    return 7 * index + 1;
}

static void publish(void)
{
    while (all->tail < all->stop) {
        /* Some run has several items, so that it may be there in part; they must be of neighbouring numbers. */
        int64_t count = all->tail % 3 == 1 && all->tail + 1 < all->stop ? 2 : 1;
        if (all->tail + count - all->next > MOST ||
            lzs_ring_publish(ring, (lzs_run){all->tail, count, item_of(all->tail)}) != LZS_OK)
            break;
        all->tail += count;
    }
    lzs_ring_flush(ring);
}

static void set_out_from(int64_t index)
{
    all->next = all->tail = index;
    all->stop = index + AFTER_JUMP;
    publish();
}

/* Nothing is gained by real time while a death waits to be found out, and there are thousands. */
static int wait_ms(void)
{
    return now->free || buried == all->ndeaths ? 1 : 0;
}

/* Take the next item. No if it is not there, and the reader may not wait. */
static int receive(int may_wait)
{
    for (;;) {
        record *r = record_at(all->held);
        void *result;
        int64_t part, first;
        if (all->held == 0) {
            if (lzs_ring_take(ring, &result) == LZS_OK) {
                all->held = (uint64_t)(uintptr_t)result;
                continue;
            }
            if (!may_wait)
                return 0;
            CHECK(lzs_ring_wait(ring, 0, wait_ms()) != LZS_CLOSED);
            look_after_workers();
            continue;
        }
        part = all->next - r->start;
        CHECK(part >= 0 && part < r->count); /* all that is taken is next */
        if (lzs_progress_done(&r->progress) > part) {
            uint64_t sent = r->messages[part];
            CHECK(sent != 0);
            first = item_of(r->start);
            CHECK(((message *)at(sent))->item == first + part);
            r->messages[part] = 0;
            lzs_arena_release(arena, sent);
            all->next++;
            if (part + 1 == r->count) {
                let_go(all->held, BY_READER);
                all->held = 0;
            }
            publish();
            return 1;
        }
        if (!may_wait)
            return 0;
        if (r->cut != 0 && r->cut <= all->next + 1) { /* its worker has died before */
            clear_in_time();
            all->tail = all->next;
            publish();
            continue;
        }
        CHECK(lzs_progress_wait(&r->progress, ring, part + 1, wait_ms()) != LZS_CLOSED);
        look_after_workers();
    }
}

/* What the reader's own sleep leaves, were it asleep: the look that follows is not there yet. */
static void go_to_sleep(void)
{
    void *result;

    if (all->held == 0 && lzs_ring_take(ring, &result) == LZS_OK)
        all->held = (uint64_t)(uintptr_t)result;
    if (all->held != 0)
        lzs_progress_want(&record_at(all->held)->progress, all->next - record_at(all->held)->start + 1);
    else if (ring->head != ring->tail)
        ring->wanted = wish_for(ring->head);
    if (ring->reader.word == EMPTY)
        ring->reader.word = PARKED;
}

static void wake_up(void)
{
    if (all->held != 0)
        lzs_progress_want(&record_at(all->held)->progress, 0);
    ring->wanted = 0;
    ring->reader.word = EMPTY;
}

static void act_now(void)
{
    all->acted = 1;
    switch (now->act) {
    case PUBLISHES:
        all->stop = now->items;
        publish();
        break;
    case READS:
        while (receive(0))
            ;
        break;
    case JUMPS:
        all->jumping = !clear();
        if (!all->jumping)
            set_out_from(ELSEWHERE);
        break;
    case WAITS:
        go_to_sleep();
        break;
    default:
        break;
    }
}

/* ---- A case ----------------------------------------------------------------------------------------------------- */

static void say_of_worker0(uint32_t state)
{
    all->worker0 = state;
    futex(&all->worker0, FUTEX_WAKE, 1, NULL);
}

static _Noreturn void die(place here)
{
    all->deaths[all->ndeaths] = here;
    all->ndeaths++;
    say_of_worker0(DYING);
    raise(SIGKILL);
    abort();
}

static void about_to_sleep(void)
{
    if (me != 0 || all->worker0 != RUNNING)
        return;
    say_of_worker0(ASLEEP);
    if (!now->free)
        counting = 0;
}

static void woken(void)
{
    while (me == 1 && !all->freed)
        futex(&all->freed, FUTEX_WAIT, 0, NULL);
}

static int sleeps(uint32_t w)
{
    const worker *it = worker_of(crew, w);
    return it->asleep == ANNOUNCED && it->parker.word == PARKED;
}

static void pause_for_us(long us)
{
    nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

/* Whether somebody died between a count and what it counts: the count stays too high, which costs looks or wake-ups. */
static int may_miscount(void)
{
    static const char *const between[] = {
        "after fetch_add &crew->asleep", "before store &me->asleep", /* counted, not announced */
        "after exchange_n &me->asleep", "after compare_exchange &w->asleep", "before fetch_sub &crew->asleep",
        "after fetch_add &crew->looking", "before fetch_sub &crew->looking", /* me->looks is not set, or no longer */
    };
    for (int k = 0; k < all->ndeaths; k++)
        for (unsigned i = 0; i < sizeof between / sizeof *between; i++)
            if (strcmp(all->deaths[k].what, between[i]) == 0)
                return 1;
    return 0;
}

/* Wait until all sleep who live, those that die meanwhile are replaced, and theirs too. */
static void await_sleep(void)
{
    for (int k = 0;; k++) {
        look_after_workers();
        if (buried == all->ndeaths && sleeps(0) && sleeps(1))
            return;
        pause_for_us(k < 20 ? 5 : 100);
    }
}

/* The blocks of an owner that are neither free nor on their way back. */
static int64_t lost_of(uint32_t owner)
{
    const region *r = region_of(arena, owner);
    int64_t kept = 0, free_ones = 0, released = 0;

    for (uint64_t offset = start_of(arena, owner); offset != r->fresh; offset += block_at(arena, offset)->span) {
        uint32_t state = block_at(arena, offset)->state;
        CHECK(state <= GAP && block_at(arena, offset)->owner == owner);
        CHECK(state == GAP ||
              block_at(arena, offset)->span == sizeof(block) + size_of(block_at(arena, offset)->class));
        kept += state == KEPT || state == BLOCK_OWNED;
        free_ones += state == FREE;
        released += state == RELEASED;
    }
    for (uint32_t class = 0; class < NCLASSES; class++)
        for (uint64_t offset = r->free[class]; offset != 0; offset = block_at(arena, offset)->next, free_ones--)
            CHECK(block_at(arena, offset)->state == FREE && block_at(arena, offset)->class == class && free_ones > 0);
    for (uint64_t offset = r->released; offset != 0; offset = block_at(arena, offset)->next, released--)
        CHECK(block_at(arena, offset)->state == RELEASED && released > 0);
    CHECK(free_ones == 0 && r->taken == 0);
    return kept + released;
}

/* When all has been read and all workers sleep. */
static void look_at_what_is_left(void)
{
    int64_t lost = lost_of(0) + lost_of(1);
    uint32_t asleep = crew->asleep, looking = crew->looking;
    int may_lose_blocks = 0;

    for (int k = 0; k < all->ndeaths; k++)
        may_lose_blocks += all->deaths[k].may_lose;
    /* One record, and what it leads to. */
    CHECK(lost == 0 || (lost > 0 && lost <= 3 * may_lose_blocks));
    found->lossy += lost != 0;
    for (uint32_t w = 0; w < WORKERS; w++)
        CHECK(all->desks[w].record == 0 && worker_of(crew, w)->looks == 0);
    for (uint64_t k = 0; k <= ring->mask; k++)
        CHECK(state_of(((slot *)away(ring, ring->slots))[k].word) == OWNED);
    CHECK(ring->head == ring->tail && ring->frontier == ring->tail && ring->wanted == 0);
    /* Never too low. */
    for (uint32_t w = 0; w < WORKERS; w++)
        asleep -= (uint32_t)sleeps(w);
    CHECK(asleep <= (uint32_t)all->ndeaths && looking <= (uint32_t)all->ndeaths);
    CHECK(may_miscount() || (asleep == 0 && looking == 0));
    if (telling && (lost != 0 || asleep != 0 || looking != 0))
        printf("%" PRId64 " blocks, %u asleep and %u looking are left by: ", lost, asleep, looking);
    found->miscounted += asleep != 0 || looking != 0;
}

static void free_all(void)
{
    all->freed = 1;
    futex(&all->freed, FUTEX_WAKE, WORKERS, NULL);
}

/* Prepare what all share, anew. */
static void set_up(void)
{
    uint64_t bytes = lzs_crew_size(WORKERS) + lzs_ring_size(SLOTS);

    arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(arena != MAP_FAILED && lzs_arena_make(arena, ARENA_BYTES, WORKERS, sizeof(board) + bytes, 0) == arena);
    all = at(lzs_arena_common(arena));
    crew = lzs_crew_at(all + 1, bytes, WORKERS, now->looks);
    CHECK(crew != NULL);
    ring = lzs_ring_new(crew, SLOTS, 0);
    CHECK(ring != NULL);
}

/* One case. Whether worker 0 has been killed; *acted: whether it came as far as to the act. */
static int dies(long j, long k, int *acted)
{
    int killed;

    buried = 0;
    found->cases++;
    act_at = j;
    kill_at = k;
    set_up();
    alarm(CASE_SECONDS);
    start(1, 0);
    if (now->free) {
        free_all();
        start(0, 1);
    } else {
        while (!sleeps(1))
            sched_yield();
        all->stop = now->published;
        publish();
        start(0, 1);
        while (all->worker0 == RUNNING)
            futex(&all->worker0, FUTEX_WAIT, RUNNING, NULL);
        if (all->worker0 == DYING) {
            siginfo_t info;
            CHECK(waitid(P_PID, (id_t)children[0], &info, WEXITED | WNOWAIT) == 0);
            if (j == k)
                act_now();
        }
    }
    *acted = all->acted;
    free_all();

    if (now->act == WAITS)
        wake_up();
    if (all->jumping) {
        clear_in_time();
        set_out_from(ELSEWHERE);
    }
    all->stop = all->next >= ELSEWHERE ? all->stop : now->items;
    publish();
    while (all->next < all->stop)
        CHECK(receive(1));
    CHECK(all->next == now->items || all->next == ELSEWHERE + AFTER_JUMP);
    await_sleep();
    look_at_what_is_left();
    killed = all->ndeaths > 0;
    last_death = all->deaths[0];
    if (telling && killed)
        tell_deaths(stdout);

    lzs_crew_close(crew);
    for (uint32_t w = 0; w < WORKERS; w++)
        CHECK(waitpid(children[w], NULL, 0) == children[w]);
    alarm(0);
    CHECK(munmap(arena, ARENA_BYTES) == 0);
    all = NULL;
    return killed;
}

/* What a death leaves of its step: an act behind a change is one before the next step. */
static int is_change(const place *p)
{
    return strncmp(p->what, "after", 5) == 0;
}

/* Every `jobs * stride`-th of the cases, from the number `job` on. */
static void run_share(long job)
{
    long points = 0, misses = 0, by = jobs * stride;
    int acted = 1;

    if (now->act == NOTHING)
        for (long k = 1 + job * stride; misses <= (now->free ? MISSES : 0);) {
            if (dies(0, k, &acted)) {
                points = k;
                k += by;
            } else {
                misses++; /* the worker may have had less to do than the other, this time */
            }
        }
    for (long j = 1 + job * stride; now->act != NOTHING && acted; j += by) {
        for (long k = j; dies(j, k, &acted); k += stride) {
            points = k > points ? k : points;
            if (k == j && is_change(&last_death))
                break;
        }
    }
    while (found->points < points) /* good enough: who is last sees all */
        found->points = points;
}

static int run(const scenario *s)
{
    int failed = 0, status;

    now = s;
    memset(found, 0, sizeof *found);
    for (long job = 0; job < jobs; job++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            run_share(job);
            fflush(stdout);
            _exit(0);
        }
    }
    for (long job = 0; job < jobs; job++)
        failed |= wait(&status) < 0 || status != 0;
    if (!failed)
        OK("%s: %ld kill points, %ld cases; behind were left blocks by %ld, a count by %ld", s->name,
           found->points, found->cases, found->lossy, found->miscounted);
    return failed;
}

int main(int argc, char **argv)
{
    int option, acted, failed = 0;
    const scenario *end = scenarios + sizeof scenarios / sizeof *scenarios;

    while ((option = getopt(argc, argv, "vs:")) != -1) {
        telling |= option == 'v';
        if (option == 's')
            stride = strtol(optarg, NULL, 10);
        if (option == '?' || stride < 1)
            return 2;
    }
    argc -= optind;
    argv += optind;
    found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(found != MAP_FAILED);
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines of several processes */
    signal(SIGABRT, say_case);
    signal(SIGALRM, say_case);
    for (const scenario *s = scenarios; s < end && !failed; s++) {
        if (argc > 0 && strcmp(argv[0], s->name) != 0)
            continue;
        now = s;
        if (argc < 3) {
            failed = run(s);
        } else {
            int killed = dies(strtol(argv[1], NULL, 10), strtol(argv[2], NULL, 10), &acted);
            OK("%s: %s", s->name, killed ? "a death" : "no death");
        }
    }
    if (!failed)
        REPORT();
    return failed;
}
