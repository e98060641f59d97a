/* The ring's protocol. _prefetch.h says what each function promises; here is why it holds.
 *
 * A slot is described by one 64-bit word {generation:48 | owner:12 | state:4} that goes round
 *
 *   OWNED --E1--> TODO --E2--> CLAIMED --E3--> WRITING --E4--> DONE --E5--> OWNED
 *                   \_____E6______/ `-> OWNED (the reader cancels)
 *
 *   field                 written by                 read by
 *   slot.word             reader E1 E5 E6,           everyone
 *                         the claiming worker E2-E4
 *   slot.index .count     reader, before E1          workers after E2, the reader
 *     .item .position
 *   slot.result           the worker in WRITING      the reader after E5
 *   slot.generation       reader                     reader
 *   ring.head .tail       reader                     reader
 *   ring.first            reader, a copy of head     workers: where a full scan starts
 *                           (a flush, an empty drop)
 *   ring.frontier         reader E9, a copy of tail  workers: where a scan ends
 *   ring.hint             workers                    workers: where to look first
 *   ring.wanted           reader E8, a worker        workers E8
 *   progress.done         the worker E12 E13         the reader
 *   progress.wanted       the reader E13             the worker
 *   crew.rings .nrings    who makes a ring E11       workers E11
 *   crew.asleep           workers E9, readers        readers E9
 *   crew.looking          workers E14                readers E14
 *   crew.looks            anyone                     everyone
 *   worker.asleep         that worker, readers       both
 *   worker.turn           that worker                that worker
 *
 * Invariants: 0 <= tail - head <= capacity <= slots; frontier is tail after a flush; a slot outside [head, tail) is
 * OWNED; a worker in WRITING is the slot's only writer, since E3 and E6 are compare-and-swaps of one word and the
 * generation rises at every E1, so that no claim of an earlier assignment ever matches.
 *
 * A claim is a compare-and-swap on the slot rather than a ticket from a counter: a ticket is lost with a worker that
 * dies holding it. Positions only grow, also when the reader jumps (it cancels all and goes on at the tail), so
 * a stale hint costs a look and never an item.
 *
 * Wrap-around: positions are free-running and only ever compared by subtraction; slots is a power of two, so that
 * position -> slot is continuous over the wrap. A generation wraps after 2^48 assignments of one slot; to be mistaken,
 * a worker would have to sit on a claim meanwhile.
 *
 * Labels: each E<n> stands on exactly the two sides that meet.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall() */
#endif
#include "_prefetch.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#define sched_yield SwitchToThread
#else
#include <sched.h>
#include <time.h>
#endif
#if defined(__linux__) && !defined(LZS_PARK_WITH_PTHREAD)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LZS_PRIVATE FUTEX_PRIVATE_FLAG
#elif defined(_WIN32)
#define LZS_PRIVATE 0
#else
#undef LZS_PARK_WITH_PTHREAD
#define LZS_PARK_WITH_PTHREAD /* there is nothing like a futex */
#include <pthread.h>
#endif

/* ---- Parking: one waiter, any number of wakers ------------------------------------------------------------------ */

enum { EMPTY, PARKED, NOTIFIED };

/* A notification sent to somebody awake is kept, so none is lost between the last look and the wait. */
typedef struct {
    _Atomic uint32_t word;
    int scope; /* whether other processes may wake: what the kernel is to be told */
#ifdef LZS_PARK_WITH_PTHREAD
    pthread_mutex_t mutex;
    pthread_cond_t condition;
#endif
} parker;

#ifndef LZS_PARK_WITH_PTHREAD

#if defined(_WIN32) /* where no process shares a crew with another */

/* Sleep while the word is PARKED, until woken or for timeout_ms (-1: for ever); may also return for no reason. */
static void doze(parker *p, int timeout_ms)
{
    uint32_t parked = PARKED;
    WaitOnAddress(&p->word, &parked, sizeof parked, timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms);
}

static void rouse(parker *p)
{
    WakeByAddressSingle(&p->word);
}

#else

static void doze(parker *p, int timeout_ms)
{
    struct timespec timeout = {timeout_ms / 1000, (timeout_ms % 1000) * 1000000L};
    syscall(SYS_futex, &p->word, FUTEX_WAIT | p->scope, PARKED, timeout_ms < 0 ? NULL : &timeout, NULL, 0);
}

static void rouse(parker *p)
{
    syscall(SYS_futex, &p->word, FUTEX_WAKE | p->scope, 1, NULL, NULL, 0);
}

#endif

static int parker_init(parker *p, int shared)
{
    atomic_init(&p->word, EMPTY);
    p->scope = shared ? 0 : LZS_PRIVATE;
    return 0;
}

static void parker_fini(parker *p)
{
    (void)p;
}

/* Sleep until notified or for timeout_ms (-1: for ever); may also return for no reason. */
static void park(parker *p, int timeout_ms)
{
    uint32_t expected = EMPTY;
    /* P1 acq_rel <- P2: what the waker did before is visible when it had come first. */
    if (atomic_compare_exchange_strong_explicit(&p->word, &expected, PARKED, memory_order_acq_rel,
                                                memory_order_acquire))
        doze(p, timeout_ms);
    /* P1 acquire <- P2, as above, for one that came during the sleep. */
    atomic_exchange_explicit(&p->word, EMPTY, memory_order_acq_rel);
}

static void unpark(parker *p)
{
    /* P2 release -> P1. The kernel is called only if somebody sleeps. */
    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_acq_rel) == PARKED)
        rouse(p);
}

/* The same where another waker may have died after its exchange and before it called the kernel. */
static void unpark_again(parker *p)
{
    /* Relaxed: it only ends the sleep; what there is to do then is found by what orders it anyway. */
    atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_relaxed);
    rouse(p);
}

#else /* the same with a mutex and a condition, where there is no futex; who is killed holding that mutex stops all */

static int parker_init(parker *p, int shared)
{
    pthread_mutexattr_t kind;
    pthread_condattr_t waiting;
    int failed;

    atomic_init(&p->word, EMPTY);
    p->scope = shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE;
    if (pthread_mutexattr_init(&kind))
        return -1;
    failed = pthread_mutexattr_setpshared(&kind, p->scope) || pthread_mutex_init(&p->mutex, &kind);
    pthread_mutexattr_destroy(&kind);
    if (failed)
        return -1;
    failed = pthread_condattr_init(&waiting);
    if (!failed) {
        failed = pthread_condattr_setpshared(&waiting, p->scope) || pthread_cond_init(&p->condition, &waiting);
        pthread_condattr_destroy(&waiting);
    }
    if (failed)
        pthread_mutex_destroy(&p->mutex);
    return failed ? -1 : 0;
}

static void parker_fini(parker *p)
{
    pthread_cond_destroy(&p->condition);
    pthread_mutex_destroy(&p->mutex);
}

static void park(parker *p, int timeout_ms)
{
    /* The mutex orders every access here: relaxed will do. */
    pthread_mutex_lock(&p->mutex);
    if (atomic_load_explicit(&p->word, memory_order_relaxed) == EMPTY) {
        atomic_store_explicit(&p->word, PARKED, memory_order_relaxed);
        if (timeout_ms < 0) {
            pthread_cond_wait(&p->condition, &p->mutex);
        } else {
            struct timespec until;
            timespec_get(&until, TIME_UTC);
            until.tv_sec += timeout_ms / 1000;
            until.tv_nsec += (timeout_ms % 1000) * 1000000L;
            if (until.tv_nsec >= 1000000000L) {
                until.tv_sec += 1;
                until.tv_nsec -= 1000000000L;
            }
            pthread_cond_timedwait(&p->condition, &p->mutex, &until);
        }
    }
    atomic_store_explicit(&p->word, EMPTY, memory_order_relaxed);
    pthread_mutex_unlock(&p->mutex);
}

static void unpark(parker *p)
{
    pthread_mutex_lock(&p->mutex);
    if (atomic_exchange_explicit(&p->word, NOTIFIED, memory_order_relaxed) == PARKED)
        pthread_cond_signal(&p->condition);
    pthread_mutex_unlock(&p->mutex);
}

static void unpark_again(parker *p)
{
    unpark(p); /* a waker does both under the mutex */
}

#endif

/* Let the processor rest for a moment, longer after the first few looks: each takes the memory that is looked at away
 * from the thread that is about to write there. */
static inline void relax(uint32_t look)
{
    for (uint32_t k = look < 16 ? 1 : 16; k > 0; k--)
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb" ::: "memory"); /* `yield` is over at once on most cores */
#else
        sched_yield();
#endif
}

/* ---- The ring --------------------------------------------------------------------------------------------------- */

enum { OWNED, TODO, CLAIMED, WRITING, DONE };


#define CACHE_LINE 64
/* How often to look at a slot in WRITING before its worker is taken for dead, perhaps. Few: on a busy machine, others run
 * for some ms behind each. */
#define DEATH_LOOKS 20
#define GENERATION_MASK ((UINT64_C(1) << 48) - 1)

typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t word;
    /* Atomics: a worker whose claim was cancelled may read them while the reader assigns the slot anew. */
    _Atomic int64_t index;
    _Atomic int64_t count;
    _Atomic int64_t item;
    _Atomic uint64_t position;
    void *result;
    uint64_t generation;
} slot;

enum { AWAKE, ANNOUNCED, CALLED };

typedef struct {
    _Alignas(CACHE_LINE) parker parker;
    _Atomic uint32_t asleep; /* AWAKE, ANNOUNCED, or CALLED + the number of the ring that wakes it */
    uint32_t turn;           /* the ring that was looked into last */
    uint32_t looks;          /* it is counted as looking */
} worker;

/* Processes see shared memory at different addresses: what leads from one place in it to another is a distance. */
struct lzs_crew {
    /* Set once, before anybody else knows the crew. */
    ptrdiff_t workers;
    uint64_t size;                 /* of the memory that the crew was given, 0: it takes its own */
    void *memory, *workers_memory; /* what to free: both are aligned by hand */
    uint32_t nworkers;
    uint32_t nparkers; /* how many of the workers' parkers are initialised */
    /* Who makes rings: how much of the memory that it was given is used. */
    uint64_t used;
    _Atomic int closed;
    _Atomic uint32_t looks; /* how often to look again before a sleep */
    _Alignas(CACHE_LINE) _Atomic uint32_t asleep; /* how many workers have announced a sleep, or are about to */
    _Atomic uint32_t looking;                     /* how many look for work before they sleep */
    _Alignas(CACHE_LINE) _Atomic uint32_t nrings; /* how many of the rings below there are */
    ptrdiff_t rings[LZS_MAX_RINGS];
};

struct lzs_ring {
    /* Set once, before anybody else knows the ring. */
    ptrdiff_t crew;
    uint64_t capacity;
    uint64_t mask; /* slots - 1 */
    uint32_t number;
    ptrdiff_t slots;
    void *memory, *slots_memory; /* what to free */
    /* The reader's own. */
    _Alignas(CACHE_LINE) uint64_t head;
    uint64_t tail;
    parker reader;
    /* The reader's to the workers. */
    _Alignas(CACHE_LINE) _Atomic uint64_t frontier;
    _Atomic uint64_t first;
    _Atomic uint64_t wanted; /* (position << 1 | 1) that the reader sleeps for, 0: none */
    /* The workers'. */
    _Alignas(CACHE_LINE) _Atomic uint64_t hint;
};

static uint64_t word_of(uint64_t generation, uint32_t owner, unsigned state)
{
    return (generation & GENERATION_MASK) << 16 | (uint64_t)owner << 4 | state;
}

static uint32_t owner_of(uint64_t word)
{
    return (uint32_t)(word >> 4) & 4095;
}

static unsigned state_of(uint64_t word)
{
    return (unsigned)(word & 15);
}

static void *away(const void *from, ptrdiff_t distance)
{
    return (void *)((uintptr_t)from + (uintptr_t)distance);
}

static ptrdiff_t distance(const void *from, const void *to)
{
    return (ptrdiff_t)((uintptr_t)to - (uintptr_t)from);
}

static worker *worker_of(const lzs_crew *crew, uint32_t w)
{
    return (worker *)away(crew, crew->workers) + w;
}

static lzs_ring *ring_of(const lzs_crew *crew, uint32_t k)
{
    return away(crew, crew->rings[k]);
}

static lzs_crew *crew_of(const lzs_ring *ring)
{
    return away(ring, ring->crew);
}

static slot *slot_at(const lzs_ring *ring, uint64_t position)
{
    return (slot *)away(ring, ring->slots) + (position & ring->mask);
}

static uint64_t wish_for(uint64_t position)
{
    return position << 1 | 1;
}

static uint32_t looks_of(const lzs_crew *crew)
{
    return atomic_load_explicit(&crew->looks, memory_order_relaxed); /* Relaxed: more or fewer looks are as right. */
}

/* Zeroed memory on a cache line; *memory is what to free. (MSVC has no aligned_alloc.) */
static void *allocate(uint64_t n, size_t size, void **memory)
{
    *memory = n < (SIZE_MAX - CACHE_LINE) / size ? calloc(1, (size_t)n * size + CACHE_LINE) : NULL;
    return *memory == NULL ? NULL : (void *)(((uintptr_t)*memory + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1));
}

static uint64_t rounded(uint64_t size)
{
    return (size + CACHE_LINE - 1) & ~(uint64_t)(CACHE_LINE - 1);
}

/* The same from what the crew was given, if it was: then there is nothing to free. */
static void *allocate_for(lzs_crew *crew, uint64_t n, size_t size, void **memory)
{
    void *found;

    if (crew->size == 0)
        return allocate(n, size, memory);
    *memory = NULL;
    if (n > (crew->size - crew->used) / size)
        return NULL;
    found = away(crew, (ptrdiff_t)crew->used);
    crew->used += rounded(n * size);
    crew->used = crew->used < crew->size ? crew->used : crew->size;
    return found;
}

/* Workers for a crew that is zeroed but for `memory` and `size`. */
static lzs_crew *employ(lzs_crew *crew, uint32_t nworkers, uint32_t looks)
{
    worker *workers;

    crew->nworkers = nworkers;
    atomic_init(&crew->looks, looks);
    workers = allocate_for(crew, nworkers, sizeof *workers, &crew->workers_memory);
    if (workers == NULL) {
        lzs_crew_free(crew);
        return NULL;
    }
    crew->workers = distance(crew, workers);
    for (; crew->nparkers < nworkers; crew->nparkers++) {
        if (parker_init(&workers[crew->nparkers].parker, crew->size != 0)) {
            lzs_crew_free(crew);
            return NULL;
        }
    }
    return crew;
}

lzs_crew *lzs_crew_new(uint32_t nworkers, uint32_t looks)
{
    void *memory;
    lzs_crew *crew;

    if (nworkers < 1 || nworkers > LZS_MAX_WORKERS)
        return NULL;
    crew = allocate(1, sizeof *crew, &memory);
    if (crew == NULL)
        return NULL;
    crew->memory = memory;
    return employ(crew, nworkers, looks);
}

uint64_t lzs_crew_size(uint32_t nworkers)
{
    return rounded(sizeof(lzs_crew)) + rounded(nworkers * sizeof(worker));
}

/* How many slots it takes: a power of two. */
static uint64_t slots_for(uint64_t capacity)
{
    uint64_t slots = 1;

    while (slots < capacity)
        slots *= 2;
    return slots;
}

uint64_t lzs_ring_size(uint64_t capacity)
{
    return rounded(sizeof(lzs_ring)) + slots_for(capacity) * sizeof(slot);
}

lzs_crew *lzs_crew_at(void *memory, uint64_t size, uint32_t nworkers, uint32_t looks)
{
    lzs_crew *crew = memory;

    if (nworkers < 1 || nworkers > LZS_MAX_WORKERS || size < sizeof *crew)
        return NULL;
    crew->size = size;
    crew->used = sizeof *crew;
    return employ(crew, nworkers, looks);
}

void lzs_crew_look(lzs_crew *crew, uint32_t looks)
{
    if (looks_of(crew) != looks)
        atomic_store_explicit(&crew->looks, looks, memory_order_relaxed); /* Relaxed: as there. */
}

static void free_ring(lzs_ring *ring)
{
    parker_fini(&ring->reader);
    free(ring->slots_memory);
    free(ring->memory);
}

void lzs_crew_free(lzs_crew *crew)
{
    for (uint32_t k = 0; k < atomic_load_explicit(&crew->nrings, memory_order_relaxed); k++)
        free_ring(ring_of(crew, k));
    for (uint32_t i = 0; i < crew->nparkers; i++)
        parker_fini(&worker_of(crew, i)->parker);
    free(crew->workers_memory);
    free(crew->memory);
}

lzs_ring *lzs_ring_new(lzs_crew *crew, uint64_t capacity, uint64_t first)
{
    /* Relaxed: only this function writes it, by one thread at a time. */
    uint32_t k = atomic_load_explicit(&crew->nrings, memory_order_relaxed);
    uint64_t slots;
    void *memory;
    lzs_ring *ring;
    slot *assigned;

    if (capacity < 1 || capacity > UINT64_MAX / 2 || k == LZS_MAX_RINGS)
        return NULL;
    ring = allocate_for(crew, 1, sizeof *ring, &memory);
    if (ring == NULL)
        return NULL;
    ring->memory = memory;
    if (parker_init(&ring->reader, crew->size != 0)) {
        free(memory);
        return NULL;
    }
    slots = slots_for(capacity);
    ring->crew = distance(ring, crew);
    ring->capacity = capacity;
    ring->mask = slots - 1;
    ring->number = k;
    assigned = allocate_for(crew, slots, sizeof *assigned, &ring->slots_memory);
    if (assigned == NULL) {
        free_ring(ring);
        return NULL;
    }
    ring->slots = distance(ring, assigned);
    ring->head = ring->tail = first;
    atomic_init(&ring->frontier, first);
    atomic_init(&ring->first, first);
    atomic_init(&ring->hint, first);
    if (first != 0)
        for (uint64_t i = 0; i < slots; i++)
            assigned[i].generation = first;
    crew->rings[k] = distance(crew, ring);
    /* E11 release -> E11 acquire: the ring is complete. Seq_cst for E9: a worker that has announced its sleep and does
     * not see the ring is seen by the flush that first shows work in it. */
    atomic_store_explicit(&crew->nrings, k + 1, memory_order_seq_cst);
    return ring;
}

lzs_ring *lzs_crew_ring(const lzs_crew *crew, uint32_t k)
{
    return k < atomic_load_explicit(&crew->nrings, memory_order_acquire) ? ring_of(crew, k) : NULL; /* E11 */
}

/* ---- The reader's side ------------------------------------------------------------------------------------------ */

lzs_status lzs_ring_publish(lzs_ring *ring, lzs_run run)
{
    slot *s = slot_at(ring, ring->tail);

    if (ring->tail - ring->head == ring->capacity)
        return LZS_FULL;
    s->generation++;
    /* R1 release -> R1 acquire: who sees one of these sees that E6 or E5 has ended the assignment before. */
    atomic_store_explicit(&s->index, run.index, memory_order_release);
    atomic_store_explicit(&s->count, run.count, memory_order_release);
    atomic_store_explicit(&s->item, run.item, memory_order_release);
    atomic_store_explicit(&s->position, ring->tail, memory_order_release);
    /* E1 release -> E2: the run is visible before the word, and the last result was read before it. */
    atomic_store_explicit(&s->word, word_of(s->generation, 0, TODO), memory_order_release);
    ring->tail++;
    return LZS_OK;
}

/* Wake at most n workers that sleep, those of low number first: a few warm ones are better than many cold. They look
 * into ring k first: if they took others' work, which was left to workers awake, this ring's reader might sleep on
 * beside a worker that sleeps. */
static void wake_workers(lzs_crew *crew, uint32_t k, uint64_t n)
{
    for (uint32_t i = 0; i < crew->nworkers && n > 0; i++) {
        worker *w = worker_of(crew, i);
        uint32_t announced = ANNOUNCED;
        /* E9 seq_cst: an announcement that is not seen here comes before a look that sees the frontier. Taking it is
         * relaxed: it only counts that one of us does, and which. */
        if (atomic_load_explicit(&w->asleep, memory_order_seq_cst) == ANNOUNCED &&
            atomic_compare_exchange_strong_explicit(&w->asleep, &announced, CALLED + k, memory_order_relaxed,
                                                    memory_order_relaxed)) {
            atomic_fetch_sub_explicit(&crew->asleep, 1, memory_order_relaxed);
            unpark(&w->parker);
            n--;
        }
    }
}

void lzs_ring_flush(lzs_ring *ring)
{
    /* Relaxed: the reader is the only writer of frontier, and a stale first only lengthens a scan. */
    uint64_t added = ring->tail - atomic_load_explicit(&ring->frontier, memory_order_relaxed);
    uint32_t looking;

    if (added == 0)
        return;
    atomic_store_explicit(&ring->first, ring->head, memory_order_relaxed);
    /* E9 seq_cst: work is shown, then sleepers are looked for; a worker announces its sleep, then looks for work. */
    atomic_store_explicit(&ring->frontier, ring->tail, memory_order_seq_cst);
    /* E14 seq_cst: work is shown, then those who look for some are counted; a worker stops to look, then looks for the
     * last time. One that finds other work than this leaves it to wake_helpers. */
    looking = atomic_load_explicit(&crew_of(ring)->looking, memory_order_seq_cst);
    if (added > looking && atomic_load_explicit(&crew_of(ring)->asleep, memory_order_seq_cst) > 0)
        wake_workers(crew_of(ring), ring->number, added - looking);
}

/* Before the reader sleeps: as many workers as there are runs that nobody has claimed. */
static void wake_helpers(lzs_ring *ring)
{
    uint64_t unclaimed = 0;

    if (atomic_load_explicit(&crew_of(ring)->asleep, memory_order_seq_cst) == 0) /* E9 */
        return;
    for (uint64_t position = ring->head; position != ring->tail; position++) {
        /* Relaxed: claimed meanwhile is one futile wake-up, and nothing but the reader makes a run claimable again. */
        if (state_of(atomic_load_explicit(&slot_at(ring, position)->word, memory_order_relaxed)) == TODO)
            unclaimed++;
    }
    wake_workers(crew_of(ring), ring->number, unclaimed);
}

lzs_status lzs_ring_head(const lzs_ring *ring, lzs_run *run)
{
    const slot *s = slot_at(ring, ring->head);

    if (ring->head == ring->tail)
        return LZS_EMPTY;
    /* Relaxed: the reader itself wrote them. */
    run->index = atomic_load_explicit(&s->index, memory_order_relaxed);
    run->count = atomic_load_explicit(&s->count, memory_order_relaxed);
    run->item = atomic_load_explicit(&s->item, memory_order_relaxed);
    return LZS_OK;
}

/* Take a slot that is DONE and was seen so by an acquire. */
static void *take_done(lzs_ring *ring, slot *s)
{
    void *result = s->result;
    /* Relaxed: no worker acts on OWNED, and E1 orders the read of the result before the slot's next use. */
    atomic_store_explicit(&s->word, word_of(s->generation, 0, OWNED), memory_order_relaxed);
    ring->head++;
    return result;
}

lzs_status lzs_ring_take(lzs_ring *ring, void **result)
{
    slot *s = slot_at(ring, ring->head);

    if (ring->head == ring->tail)
        return LZS_EMPTY;
    /* E5 acquire <- E4: the result is visible. */
    if (state_of(atomic_load_explicit(&s->word, memory_order_acquire)) != DONE)
        return LZS_BUSY;
    *result = take_done(ring, s);
    return LZS_OK;
}

lzs_status lzs_ring_retract(lzs_ring *ring)
{
    slot *s = slot_at(ring, ring->head);
    uint64_t word = word_of(s->generation, 0, TODO);

    if (ring->head == ring->tail)
        return LZS_EMPTY;
    /* E6 acq_rel <-> E2: one of us. Relaxed when it fails: nothing is read then. */
    if (!atomic_compare_exchange_strong_explicit(&s->word, &word, word_of(s->generation, 0, OWNED),
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LZS_BUSY;
    ring->head++;
    return LZS_OK;
}

lzs_status lzs_ring_drop(lzs_ring *ring, void **result)
{
    slot *s = slot_at(ring, ring->head);
    uint64_t word;
    uint32_t looks = 0;

    *result = NULL;
    if (ring->head == ring->tail) {
        /* Relaxed: see claim_from. Without it, what a reader has left for good would be looked at in every scan. */
        atomic_store_explicit(&ring->first, ring->head, memory_order_relaxed);
        return LZS_EMPTY;
    }
    /* E5 acquire <- E4, here too. */
    word = atomic_load_explicit(&s->word, memory_order_acquire);
    for (;;) {
        switch (state_of(word)) {
        case DONE:
            *result = take_done(ring, s);
            return LZS_OK;
        case WRITING: /* a few stores long: the one state that is waited for, but not if its worker may have died there */
            if (looks++ == DEATH_LOOKS && crew_of(ring)->size != 0)
                return LZS_BUSY;
            sched_yield();
            word = atomic_load_explicit(&s->word, memory_order_acquire);
            break;
        default: /* TODO or CLAIMED */
            /* E6 acq_rel <-> E2, E3: one word, so exactly one of us moves it on. On failure: E5. */
            if (atomic_compare_exchange_weak_explicit(&s->word, &word, word_of(s->generation, 0, OWNED),
                                                      memory_order_acq_rel, memory_order_acquire)) {
                ring->head++;
                return LZS_OK;
            }
        }
    }
}

uint64_t lzs_ring_length(const lzs_ring *ring)
{
    return ring->tail - ring->head;
}

lzs_status lzs_ring_wait(lzs_ring *ring, uint64_t ahead, int timeout_ms)
{
    slot *s = slot_at(ring, ring->head + ahead);
    unsigned state;

    if (lzs_ring_length(ring) <= ahead)
        return LZS_EMPTY;
    lzs_ring_flush(ring);
    for (uint32_t k = 0; k < looks_of(crew_of(ring)); k++) {
        if (state_of(atomic_load_explicit(&s->word, memory_order_acquire)) == DONE) /* E5 */
            return LZS_OK;
        relax(k);
    }
    wake_helpers(ring);
    /* E8 seq_cst: the wish is shown, then the word is read; a worker stores DONE, then reads the wish. */
    atomic_store_explicit(&ring->wanted, wish_for(ring->head + ahead), memory_order_seq_cst);
    state = state_of(atomic_load_explicit(&s->word, memory_order_seq_cst));
    if (state != DONE && !lzs_crew_closed(crew_of(ring))) {
        park(&ring->reader, timeout_ms);
        /* E5 acquire <- E4. */
        state = state_of(atomic_load_explicit(&s->word, memory_order_acquire));
    }
    /* Relaxed: a worker that still sees the wish wakes a reader that is awake, which costs one futile wake-up. */
    atomic_store_explicit(&ring->wanted, 0, memory_order_relaxed);
    if (state == DONE)
        return LZS_OK;
    return lzs_crew_closed(crew_of(ring)) ? LZS_CLOSED : LZS_TIMEOUT;
}

/* ---- The workers' side ------------------------------------------------------------------------------------------ */

/* Claim the first TODO among the positions from `from` up to `frontier`. */
static int scan(lzs_ring *ring, uint64_t from, uint64_t frontier, uint32_t w, lzs_claim *claim)
{
    uint64_t distance = frontier - from;

    if (distance > UINT64_MAX / 2)
        return 0; /* `from` was read later than `frontier`, and lies beyond it */
    if (distance > ring->mask + 1)
        from = frontier - (ring->mask + 1); /* older positions are the same slots again */
    for (; from != frontier; from++) {
        slot *s = slot_at(ring, from);
        /* Relaxed: only a look, the compare-and-swap decides. */
        uint64_t word = atomic_load_explicit(&s->word, memory_order_relaxed);
        uint64_t claimed;
        if (state_of(word) != TODO)
            continue;
        claimed = word_of(word >> 16, w + 1, CLAIMED);
        /* E2 acq_rel <- E1: the run is visible; <-> E6: one of us. */
        if (!atomic_compare_exchange_strong_explicit(&s->word, &word, claimed, memory_order_acq_rel,
                                                     memory_order_relaxed))
            continue;
        /* R1 acquire <- R1 release: had one of these come from a later assignment, the word below would be another. */
        claim->run.index = atomic_load_explicit(&s->index, memory_order_acquire);
        claim->run.count = atomic_load_explicit(&s->count, memory_order_acquire);
        claim->run.item = atomic_load_explicit(&s->item, memory_order_acquire);
        /* From the slot, not from the scan: a slow scan may have found the slot assigned to a later position. */
        claim->position = atomic_load_explicit(&s->position, memory_order_acquire);
        if (atomic_load_explicit(&s->word, memory_order_relaxed) != claimed)
            continue; /* cancelled already */
        claim->ring = ring;
        claim->word = claimed;
        atomic_store_explicit(&ring->hint, from + 1, memory_order_relaxed);
        return 1;
    }
    return 0;
}

/* Claim a run of this ring. */
static int claim_from(lzs_ring *ring, uint32_t w, lzs_claim *claim)
{
    /* Relaxed: what lies before any head has been taken, or taken back, so an older one is only longer, and a newer one
     * leaves out nothing, also where it lies beyond the frontier below. */
    uint64_t first = atomic_load_explicit(&ring->first, memory_order_relaxed);
    /* Relaxed: wherever the hint points, the second scan looks at everything. */
    uint64_t hint = atomic_load_explicit(&ring->hint, memory_order_relaxed);
    /* E9 seq_cst: after a sleep was announced, this look for work comes second. */
    uint64_t frontier = atomic_load_explicit(&ring->frontier, memory_order_seq_cst);

    if (first - hint <= UINT64_MAX / 2)
        hint = first;
    return scan(ring, hint, frontier, w, claim) || scan(ring, first, frontier, w, claim);
}

lzs_status lzs_crew_claim(lzs_crew *crew, uint32_t w, lzs_claim *claim)
{
    worker *me = worker_of(crew, w);
    uint32_t nrings;

    if (lzs_crew_closed(crew))
        return LZS_CLOSED;
    /* E11 acquire <- E11; seq_cst for E9, as there. */
    nrings = atomic_load_explicit(&crew->nrings, memory_order_seq_cst);
    for (uint32_t k = 0; k < nrings; k++) {
        /* In turn, so that a ring with much work does not keep the others from theirs. */
        me->turn = me->turn + 1 < nrings ? me->turn + 1 : 0;
        if (claim_from(ring_of(crew, me->turn), w, claim)) {
            claim->number = me->turn;
            return LZS_OK;
        }
    }
    return LZS_EMPTY;
}

lzs_status lzs_crew_claim_wait(lzs_crew *crew, uint32_t w, lzs_claim *claim)
{
    worker *me = worker_of(crew, w);
    lzs_status status;
    uint32_t call;

    while ((status = lzs_crew_claim(crew, w, claim)) == LZS_EMPTY) {
        /* E14 seq_cst: whoever counts on us has shown its work before we stop, and the looks below see it. */
        atomic_fetch_add_explicit(&crew->looking, 1, memory_order_seq_cst);
        me->looks = 1;
        for (uint32_t k = 0; k < looks_of(crew) && status == LZS_EMPTY; k++) {
            relax(k);
            status = lzs_crew_claim(crew, w, claim);
        }
        me->looks = 0;
        atomic_fetch_sub_explicit(&crew->looking, 1, memory_order_seq_cst);
        if (status != LZS_EMPTY)
            break;
        /* E9 seq_cst: the sleep is announced, then work is looked for once more. It is counted first and announced
         * second, so that the count never hides an announcement from a reader that looks at it alone. */
        atomic_fetch_add_explicit(&crew->asleep, 1, memory_order_seq_cst);
        atomic_store_explicit(&me->asleep, ANNOUNCED, memory_order_seq_cst);
        status = lzs_crew_claim(crew, w, claim);
        if (status == LZS_EMPTY)
            park(&me->parker, -1);
        /* Relaxed: whoever takes the announcement back, reader or worker, counts it off, once. */
        call = atomic_exchange_explicit(&me->asleep, AWAKE, memory_order_relaxed);
        if (call == ANNOUNCED)
            atomic_fetch_sub_explicit(&crew->asleep, 1, memory_order_relaxed);
        else if (status == LZS_OK)
            /* We were awake already, and what we were woken for may not be what we found. */
            wake_workers(crew, call - CALLED, 1);
        else
            me->turn = call - CALLED - 1; /* the ring before; before the first one, adding 1 wraps to it */
        if (status != LZS_EMPTY)
            break;
    }
    return status;
}

int lzs_ring_wanted(const lzs_claim *claim)
{
    /* Relaxed: nothing hangs on the answer. */
    return atomic_load_explicit(&claim->ring->wanted, memory_order_relaxed) == wish_for(claim->position);
}

int lzs_ring_stands(const lzs_claim *claim)
{
    /* E6 acquire <- E6: what the reader did after it took the claim back is not seen while the claim stands. */
    return atomic_load_explicit(&slot_at(claim->ring, claim->position)->word, memory_order_acquire) == claim->word;
}

lzs_status lzs_ring_attach(const lzs_claim *claim, void *result)
{
    slot *s = slot_at(claim->ring, claim->position);
    uint64_t word = claim->word;

    /* E3 acq_rel <-> E6: either the reader cancelled, or the slot is ours to write. */
    if (!atomic_compare_exchange_strong_explicit(&s->word, &word, (word & ~UINT64_C(15)) | WRITING,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LZS_CANCELLED;
    s->result = result;
    /* E4 release -> E5: the result is visible; E8 seq_cst: DONE is stored, then the wish is read. */
    atomic_store_explicit(&s->word, (word & ~UINT64_C(15)) | DONE, memory_order_seq_cst);
    return LZS_OK;
}

void lzs_ring_wake(const lzs_claim *claim)
{
    lzs_ring *ring = claim->ring;
    uint64_t wish = wish_for(claim->position);

    /* E8 seq_cst: the wish is read after DONE was stored. */
    if (atomic_load_explicit(&ring->wanted, memory_order_seq_cst) == wish &&
        /* Relaxed: only so that one worker at most makes the call. */
        atomic_compare_exchange_strong_explicit(&ring->wanted, &wish, 0, memory_order_relaxed, memory_order_relaxed))
        unpark(&ring->reader);
}

lzs_status lzs_ring_deliver(const lzs_claim *claim, void *result)
{
    lzs_status status = lzs_ring_attach(claim, result);

    if (status == LZS_OK)
        lzs_ring_wake(claim);
    return status;
}

/* ---- A result in parts ------------------------------------------------------------------------------------------ */

void lzs_progress_add(lzs_progress *progress, lzs_ring *ring, int64_t n, int wake)
{
    /* Relaxed: this worker is the only writer. */
    int64_t done = atomic_load_explicit(&progress->done, memory_order_relaxed) + n, wanted;

    if (!wake) {
        atomic_store_explicit(&progress->done, done, memory_order_release); /* E12 */
        return;
    }
    /* E12 release -> E12 acquire: the part is visible; E13 seq_cst: it is counted, then the wish is read. */
    atomic_store_explicit(&progress->done, done, memory_order_seq_cst);
    wanted = atomic_load_explicit(&progress->wanted, memory_order_seq_cst); /* E13 */
    if (wanted != 0 && wanted <= done)
        unpark(&ring->reader);
}

int lzs_progress_wanted(const lzs_progress *progress)
{
    /* Relaxed: nothing hangs on the answer. */
    int64_t wanted = atomic_load_explicit(&progress->wanted, memory_order_relaxed);
    return wanted != 0 && wanted <= atomic_load_explicit(&progress->done, memory_order_relaxed) + 1;
}

int64_t lzs_progress_done(const lzs_progress *progress)
{
    /* E12 acquire <- E12; seq_cst for E13: it is the look that follows progress_want. */
    return atomic_load_explicit(&progress->done, memory_order_seq_cst);
}

void lzs_progress_want(lzs_progress *progress, int64_t n)
{
    /* E13 seq_cst: the wish is shown, then the count is read. */
    atomic_store_explicit(&progress->wanted, n, memory_order_seq_cst);
}

lzs_status lzs_progress_wait(lzs_progress *progress, lzs_ring *ring, int64_t n, int timeout_ms)
{
    lzs_ring_flush(ring);
    for (uint32_t k = 0; k < looks_of(crew_of(ring)); k++) {
        if (lzs_progress_done(progress) >= n)
            return LZS_OK;
        relax(k);
    }
    wake_helpers(ring);
    lzs_progress_want(progress, n);
    if (atomic_load_explicit(&progress->done, memory_order_seq_cst) < n && !lzs_crew_closed(crew_of(ring)))
        park(&ring->reader, timeout_ms);
    /* Relaxed: a worker that still sees the wish wakes a reader that is awake, which costs one futile wake-up. */
    atomic_store_explicit(&progress->wanted, 0, memory_order_relaxed);
    if (lzs_progress_done(progress) >= n)
        return LZS_OK;
    return lzs_crew_closed(crew_of(ring)) ? LZS_CLOSED : LZS_TIMEOUT;
}

/* ---- Death ------------------------------------------------------------------------------------------------------ */

void lzs_crew_bury(lzs_crew *crew, uint32_t w)
{
    worker *dead = worker_of(crew, w);

    for (uint32_t k = 0, n = atomic_load_explicit(&crew->nrings, memory_order_acquire); k < n; k++) { /* E11 */
        lzs_ring *ring = ring_of(crew, k);
        uint64_t found = 0;
        for (uint64_t i = 0; i <= ring->mask; i++) {
            slot *s = &((slot *)away(ring, ring->slots))[i];
            uint64_t word = atomic_load_explicit(&s->word, memory_order_relaxed); /* Relaxed: as in scan. */
            if (owner_of(word) != w + 1 || (state_of(word) != CLAIMED && state_of(word) != WRITING))
                continue;
            /* E7 acq_rel <-> E2, E6: the run can be claimed again, unless its reader has just taken it back. It keeps
             * its generation: nobody is left who could take the old claim for the new one. */
            if (atomic_compare_exchange_strong_explicit(&s->word, &word, word_of(word >> 16, 0, TODO),
                                                        memory_order_acq_rel, memory_order_relaxed))
                found++;
        }
        wake_workers(crew, k, found);
    }
    /* Relaxed: as when the worker itself takes them back. */
    if (atomic_exchange_explicit(&dead->asleep, AWAKE, memory_order_relaxed) == ANNOUNCED)
        atomic_fetch_sub_explicit(&crew->asleep, 1, memory_order_relaxed);
    if (dead->looks)
        atomic_fetch_sub_explicit(&crew->looking, 1, memory_order_relaxed);
    dead->looks = 0;
    for (uint32_t i = 0; i < crew->nworkers; i++)
        /* Relaxed: the dead one called it before it died, which its parent has seen; any other call is not lost. */
        if (i != w && atomic_load_explicit(&worker_of(crew, i)->asleep, memory_order_relaxed) >= CALLED)
            unpark_again(&worker_of(crew, i)->parker);
}

/* ---- The end ---------------------------------------------------------------------------------------------------- */

void lzs_crew_close(lzs_crew *crew)
{
    /* E10 seq_cst: a notification is never lost, and a ring that is made too late to be woken here sees the close. */
    atomic_store_explicit(&crew->closed, 1, memory_order_seq_cst);
    for (uint32_t i = 0; i < crew->nworkers; i++)
        unpark(&worker_of(crew, i)->parker);
    for (uint32_t k = 0, n = atomic_load_explicit(&crew->nrings, memory_order_seq_cst); k < n; k++)
        unpark(&ring_of(crew, k)->reader);
}

int lzs_crew_closed(const lzs_crew *crew)
{
    return atomic_load_explicit(&crew->closed, memory_order_seq_cst); /* E10 */
}
