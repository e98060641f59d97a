"""_prefetch.h as Cython sees it, in its order."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "_prefetch.h" nogil:
    enum:
        LZS_MAX_WORKERS
        LZS_MAX_RINGS

    ctypedef struct lzs_crew
    ctypedef struct lzs_ring

    ctypedef enum lzs_status:
        LZS_OK
        LZS_FULL
        LZS_EMPTY
        LZS_BUSY
        LZS_CANCELLED
        LZS_TIMEOUT
        LZS_CLOSED

    ctypedef struct lzs_run:
        int64_t index
        int64_t count
        int64_t item

    ctypedef struct lzs_claim:
        lzs_ring *ring
        uint32_t number
        lzs_run run

    ctypedef struct lzs_progress:
        void *owner

    lzs_crew *lzs_crew_new(uint32_t nworkers, uint32_t looks)
    lzs_crew *lzs_crew_at(void *memory, uint64_t size, uint32_t nworkers, uint32_t looks)
    uint64_t lzs_crew_size(uint32_t nworkers)
    uint64_t lzs_ring_size(uint64_t capacity)
    void lzs_crew_look(lzs_crew *crew, uint32_t looks)
    void lzs_crew_free(lzs_crew *crew)
    lzs_ring *lzs_ring_new(lzs_crew *crew, uint64_t capacity, uint64_t first)
    lzs_ring *lzs_crew_ring(const lzs_crew *crew, uint32_t k)
    lzs_status lzs_ring_publish(lzs_ring *ring, lzs_run run)
    void lzs_ring_flush(lzs_ring *ring)
    lzs_status lzs_ring_head(const lzs_ring *ring, lzs_run *run)
    lzs_status lzs_ring_take(lzs_ring *ring, void **result)
    lzs_status lzs_ring_retract(lzs_ring *ring)
    lzs_status lzs_ring_drop(lzs_ring *ring, void **result)
    uint64_t lzs_ring_length(const lzs_ring *ring)
    lzs_status lzs_ring_wait(lzs_ring *ring, uint64_t ahead, int timeout_ms)
    lzs_status lzs_crew_claim(lzs_crew *crew, uint32_t worker, lzs_claim *claim)
    lzs_status lzs_crew_claim_wait(lzs_crew *crew, uint32_t worker, lzs_claim *claim)
    int lzs_ring_wanted(const lzs_claim *claim)
    int lzs_ring_stands(const lzs_claim *claim)
    lzs_status lzs_ring_deliver(const lzs_claim *claim, void *result)
    lzs_status lzs_ring_attach(const lzs_claim *claim, void *result)
    void lzs_ring_wake(const lzs_claim *claim)
    void lzs_progress_add(lzs_progress *progress, lzs_ring *ring, int64_t n, int wake)
    int lzs_progress_wanted(const lzs_progress *progress)
    int64_t lzs_progress_done(const lzs_progress *progress)
    void lzs_progress_want(lzs_progress *progress, int64_t n)
    lzs_status lzs_progress_wait(lzs_progress *progress, lzs_ring *ring, int64_t n, int timeout_ms)
    void lzs_crew_bury(lzs_crew *crew, uint32_t w)
    void lzs_crew_close(lzs_crew *crew)
    int lzs_crew_closed(const lzs_crew *crew)
