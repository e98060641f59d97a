/* A crew of workers, and the rings through which readers give them work.
 *
 * The reader of a ring publishes runs of indices in the order in which it will want them; workers claim runs in any
 * order, and deliver one result for each; the reader takes the results back in the order of publication.
 * A result is an opaque pointer: the ring never looks at what it points to, and whoever holds it owns it.
 *
 * Who may call what:
 *   a ring's reader   publish, flush, head, take, retract, drop, wait, progress_want, progress_wait.   One thread at a time.
 *   worker w          claim, claim_wait, stands, wanted, deliver, attach, wake, progress_add, progress_wanted.   One thread for each w.
 *   anyone            look, close, closed, progress_done.
 * Rings are made by one thread at a time, and live as long as their crew, which is freed once nobody else can reach it.
 */
#ifndef LAZYSEQ_PREFETCH_H
#define LAZYSEQ_PREFETCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LZS_MAX_WORKERS 4095 /* the owner field of a slot's word has 12 bits, and 0 means nobody */

#define LZS_MAX_RINGS 1024

typedef struct lzs_crew lzs_crew;
typedef struct lzs_ring lzs_ring;

typedef enum {
    LZS_OK = 0,
    LZS_FULL,      /* publish: every slot is taken */
    LZS_EMPTY,     /* nothing is published (reader) or nothing is left to claim (worker) */
    LZS_BUSY,      /* take: the run at the head is not finished */
    LZS_CANCELLED, /* deliver: the reader no longer wants it, the result stays the caller's */
    LZS_TIMEOUT,
    LZS_CLOSED,
} lzs_status;

/* A run of `count` consecutive items from `index` on. Where the workers number them otherwise, `item` is their number of
 * the first. */
typedef struct {
    int64_t index;
    int64_t count;
    int64_t item;
} lzs_run;

/* What a worker holds from claim to deliver. */
typedef struct {
    lzs_ring *ring;
    uint32_t number; /* the ring's */
    lzs_run run;
    uint64_t position;
    uint64_t word; /* the slot's word as this claim wrote it */
} lzs_claim;

/* A crew without a ring, or NULL when there is no memory for it. Who waits looks `looks` times, of some 200 ns each,
 * before it sleeps; not at all where there is one processor. */
lzs_crew *lzs_crew_new(uint32_t nworkers, uint32_t looks);

/* The same in `size` bytes of zeroed memory on a cache line, which processes may share, wherever they see it; so are its
 * rings, while there is room. */
lzs_crew *lzs_crew_at(void *memory, uint64_t size, uint32_t nworkers, uint32_t looks);

/* How many bytes such a crew needs, and each of its rings. */
uint64_t lzs_crew_size(uint32_t nworkers);
uint64_t lzs_ring_size(uint64_t capacity);

/* Look as many times from now on. */
void lzs_crew_look(lzs_crew *crew, uint32_t looks);

/* Frees its rings too. Results that were delivered and not taken are lost: drop them first. */
void lzs_crew_free(lzs_crew *crew);

/* One more ring, of at least `capacity` slots, or NULL when there is no memory for it or the crew has LZS_MAX_RINGS.
 * Positions count from `first`, and generations start so that they wrap as soon: 0, except in tests of the wrap-around. */
lzs_ring *lzs_ring_new(lzs_crew *crew, uint64_t capacity, uint64_t first);

/* The crew's ring number k, in the order in which they were made, or NULL. */
lzs_ring *lzs_crew_ring(const lzs_crew *crew, uint32_t k);

/* Add a run behind the last one. LZS_OK or LZS_FULL. Workers need not see it before the next flush. */
lzs_status lzs_ring_publish(lzs_ring *ring, lzs_run run);

/* Show workers all that is published, and wake as many sleepers as there are new runs. Waiting wakes as many as there
 * are unclaimed ones. */
void lzs_ring_flush(lzs_ring *ring);

/* The run at the head. LZS_OK or LZS_EMPTY. */
lzs_status lzs_ring_head(const lzs_ring *ring, lzs_run *run);

/* Take the result of the run at the head, which leaves the ring; the result is the caller's from then on.
 * LZS_OK, LZS_BUSY or LZS_EMPTY. */
lzs_status lzs_ring_take(lzs_ring *ring, void **result);

/* Take back the run at the head if no worker has claimed it. LZS_OK, LZS_BUSY or LZS_EMPTY. */
lzs_status lzs_ring_retract(lzs_ring *ring);

/* Take back the run at the head whatever its state, without waiting for a worker that evaluates it. A finished
 * result is handed over in *result, which is NULL otherwise. LZS_OK or LZS_EMPTY, after which workers look at nothing that
 * was in the ring; among processes also LZS_BUSY, when its worker may have died in the act of delivering it: bury it,
 * and call again. */
lzs_status lzs_ring_drop(lzs_ring *ring, void **result);

/* How many runs are in the ring: published, and neither taken nor taken back. */
uint64_t lzs_ring_length(const lzs_ring *ring);

/* Flush, and wait until the run so many places after the head has a result: all before it were claimed by then. Who
 * sleeps is woken by lzs_ring_wake, which for an attached result may come later. LZS_OK, LZS_TIMEOUT (also after a
 * spurious wake-up), LZS_CLOSED or, if there is no such run, LZS_EMPTY. */
lzs_status lzs_ring_wait(lzs_ring *ring, uint64_t ahead, int timeout_ms);

/* Claim the first run of a ring that nobody has, from the rings in turn. LZS_OK, LZS_EMPTY or LZS_CLOSED. */
lzs_status lzs_crew_claim(lzs_crew *crew, uint32_t worker, lzs_claim *claim);

/* The same, sleeping until there is one. LZS_OK or LZS_CLOSED. */
lzs_status lzs_crew_claim_wait(lzs_crew *crew, uint32_t worker, lzs_claim *claim);

/* Whether the reader sleeps for this very run, so that delivering it will wake the reader: a hint. */
int lzs_ring_wanted(const lzs_claim *claim);

/* Whether the reader has not taken the claim back so far. */
int lzs_ring_stands(const lzs_claim *claim);

/* Hand over the result of a claim. LZS_OK, or LZS_CANCELLED: the result is still the caller's. */
lzs_status lzs_ring_deliver(const lzs_claim *claim, void *result);

/* The same, without waking the reader: for a result that is not complete. */
lzs_status lzs_ring_attach(const lzs_claim *claim, void *result);

/* Wake the reader if it sleeps for this run, which is attached. */
void lzs_ring_wake(const lzs_claim *claim);

/* How far a result that was attached is complete. Zeroed by whoever makes it. */
typedef struct {
    _Atomic int64_t done;   /* parts that are complete */
    _Atomic int64_t wanted; /* how many the reader sleeps for, 0: it does not */
    void *owner;            /* the caller's */
} lzs_progress;

/* The worker: n more parts are complete; whether to wake a reader that sleeps for one of them, or for one before. */
void lzs_progress_add(lzs_progress *progress, lzs_ring *ring, int64_t n, int wake);

/* The worker: whether the reader sleeps for the next part, or for one before: a hint. */
int lzs_progress_wanted(const lzs_progress *progress);

/* How many parts are complete. */
int64_t lzs_progress_done(const lzs_progress *progress);

/* The reader: have the next wait, for whatever it is, end when n parts of this result are complete; 0 takes it back.
 * What is complete already ends none: look after the call. */
void lzs_progress_want(lzs_progress *progress, int64_t n);

/* The reader: flush, and wait until n parts are complete. LZS_OK, LZS_TIMEOUT (also after a spurious wake-up) or LZS_CLOSED. */
lzs_status lzs_progress_wait(lzs_progress *progress, lzs_ring *ring, int64_t n, int timeout_ms);

/* A worker process has died, and been reaped: what it had claimed can be claimed again, and another process may become
 * worker w. By one thread at a time. */
void lzs_crew_bury(lzs_crew *crew, uint32_t w);

/* No claim succeeds from now on, and everyone who waits is woken. Idempotent. */
void lzs_crew_close(lzs_crew *crew);

/* Whether close was called. */
int lzs_crew_closed(const lzs_crew *crew);

#endif
