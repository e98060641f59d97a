"""_prefetch.h as Cython sees it, in its order."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "_prefetch.h" nogil:
    enum:
        LZS_MAX_WORKERS

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

    ctypedef struct lzs_claim:
        lzs_run run

    lzs_ring *lzs_ring_new(uint32_t nworkers, uint64_t capacity, uint64_t first)
    void lzs_ring_free(lzs_ring *ring)
    lzs_status lzs_ring_publish(lzs_ring *ring, lzs_run run)
    void lzs_ring_flush(lzs_ring *ring)
    lzs_status lzs_ring_head(const lzs_ring *ring, lzs_run *run)
    lzs_status lzs_ring_take(lzs_ring *ring, void **result)
    lzs_status lzs_ring_drop(lzs_ring *ring, void **result)
    lzs_status lzs_ring_wait(lzs_ring *ring, int timeout_ms)
    lzs_status lzs_ring_claim(lzs_ring *ring, uint32_t worker, lzs_claim *claim)
    lzs_status lzs_ring_claim_wait(lzs_ring *ring, uint32_t worker, lzs_claim *claim)
    int lzs_ring_wanted(const lzs_ring *ring, const lzs_claim *claim)
    lzs_status lzs_ring_deliver(lzs_ring *ring, const lzs_claim *claim, void *result)
    void lzs_ring_close(lzs_ring *ring)
    int lzs_ring_closed(const lzs_ring *ring)
