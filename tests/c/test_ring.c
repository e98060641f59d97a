/* The ring's functions, one thread playing reader and workers in turn: every return code, and the wrap-around. */
#include "check.h"

#include "../../src/lazyseq/_prefetch.h"

static lzs_run run_of(int64_t index, int64_t count)
{
    lzs_run run = {index, count};
    return run;
}

/* Results are addresses in here, so that none can be mistaken for another. */
static char results[64];

static void publish(lzs_ring *ring, int64_t index)
{
    CHECK(lzs_ring_publish(ring, run_of(index, 1)) == LZS_OK);
    lzs_ring_flush(ring);
}

static lzs_claim claim(lzs_ring *ring, uint32_t worker, int64_t expected)
{
    lzs_claim c;
    CHECK(lzs_ring_claim(ring, worker, &c) == LZS_OK);
    CHECK(c.run.index == expected && c.run.count == 1);
    return c;
}

static void take(lzs_ring *ring, void *expected)
{
    void *result = NULL;
    CHECK(lzs_ring_take(ring, &result) == LZS_OK);
    CHECK(result == expected);
}

static void bad_arguments_give_null(void)
{
    CHECK(lzs_ring_new(0, 1, 0) == NULL);
    CHECK(lzs_ring_new(LZS_MAX_WORKERS + 1, 1, 0) == NULL);
    CHECK(lzs_ring_new(1, 0, 0) == NULL);
    CHECK(lzs_ring_new(1, UINT64_MAX, 0) == NULL);
    CHECK(lzs_ring_new(1, UINT64_MAX / 4, 0) == NULL);
}

static void empty(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(1, 2, first);
    lzs_claim c;
    lzs_run run;
    void *result;

    CHECK(lzs_ring_head(ring, &run) == LZS_EMPTY);
    CHECK(lzs_ring_take(ring, &result) == LZS_EMPTY);
    CHECK(lzs_ring_drop(ring, &result) == LZS_EMPTY);
    CHECK(lzs_ring_wait(ring, 0) == LZS_EMPTY);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_EMPTY);
    lzs_ring_flush(ring);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_EMPTY);
    lzs_ring_free(ring);
}

static void capacity_is_exact(uint64_t first)
{
    for (uint64_t capacity = 1; capacity <= 9; capacity++) {
        lzs_ring *ring = lzs_ring_new(1, capacity, first);
        for (int round = 0; round < 5; round++) {
            int64_t n = (int64_t)capacity;
            for (int64_t i = 0; i < n; i++)
                publish(ring, i);
            CHECK(lzs_ring_publish(ring, run_of(n, 1)) == LZS_FULL);
            for (int64_t i = 0; i < n; i++) {
                lzs_claim c = claim(ring, 0, i);
                CHECK(lzs_ring_deliver(ring, &c, &results[i]) == LZS_OK);
                CHECK(lzs_ring_publish(ring, run_of(n, 1)) == LZS_FULL);
            }
            for (int64_t i = 0; i < n; i++)
                take(ring, &results[i]);
        }
        lzs_ring_free(ring);
    }
}

static void runs_keep_their_shape_and_need_a_flush(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(1, 4, first);
    lzs_run run;
    lzs_claim c;

    CHECK(lzs_ring_publish(ring, run_of(INT64_MAX - 7, 7)) == LZS_OK);
    CHECK(lzs_ring_head(ring, &run) == LZS_OK && run.index == INT64_MAX - 7 && run.count == 7);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_EMPTY);
    lzs_ring_flush(ring);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_OK && c.run.index == INT64_MAX - 7 && c.run.count == 7);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_EMPTY);
    lzs_ring_free(ring);
}

static void results_come_in_the_order_of_publication(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(3, 4, first);
    lzs_claim a, b, c;
    void *result;

    publish(ring, 30);
    publish(ring, 10);
    publish(ring, 20);
    a = claim(ring, 0, 30);
    b = claim(ring, 1, 10);
    c = claim(ring, 2, 20);
    CHECK(lzs_ring_deliver(ring, &c, &results[20]) == LZS_OK);
    CHECK(lzs_ring_take(ring, &result) == LZS_BUSY);
    CHECK(lzs_ring_wait(ring, 1) == LZS_TIMEOUT);
    CHECK(lzs_ring_deliver(ring, &a, &results[30]) == LZS_OK);
    CHECK(lzs_ring_wait(ring, -1) == LZS_OK);
    take(ring, &results[30]);
    CHECK(lzs_ring_take(ring, &result) == LZS_BUSY);
    CHECK(lzs_ring_deliver(ring, &b, &results[10]) == LZS_OK);
    take(ring, &results[10]);
    take(ring, &results[20]);
    lzs_ring_free(ring);
}

static void drop_takes_back_a_run_in_any_state(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(2, 3, first);
    lzs_claim done, claimed, c;
    void *result;

    publish(ring, 1);
    publish(ring, 2);
    publish(ring, 3);
    done = claim(ring, 0, 1);
    CHECK(lzs_ring_deliver(ring, &done, &results[1]) == LZS_OK);
    claimed = claim(ring, 1, 2);
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK && result == &results[1]); /* DONE: ours to release */
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK && result == NULL);        /* CLAIMED */
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK && result == NULL);        /* TODO */
    CHECK(lzs_ring_drop(ring, &result) == LZS_EMPTY);
    CHECK(lzs_ring_deliver(ring, &claimed, &results[2]) == LZS_CANCELLED);
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_EMPTY);
    lzs_ring_free(ring);
}

static void an_old_claim_never_delivers_into_a_new_assignment(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(2, 1, first);
    lzs_claim old, new;
    void *result;

    publish(ring, 1);
    old = claim(ring, 0, 1);
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK);
    publish(ring, 2);
    CHECK(lzs_ring_deliver(ring, &old, &results[1]) == LZS_CANCELLED); /* the slot is TODO */
    new = claim(ring, 0, 2);
    CHECK(lzs_ring_deliver(ring, &old, &results[1]) == LZS_CANCELLED); /* CLAIMED, by the same worker */
    CHECK(lzs_ring_deliver(ring, &new, &results[2]) == LZS_OK);
    CHECK(lzs_ring_deliver(ring, &old, &results[1]) == LZS_CANCELLED); /* DONE */
    take(ring, &results[2]);
    CHECK(lzs_ring_deliver(ring, &new, &results[2]) == LZS_CANCELLED); /* OWNED */
    lzs_ring_free(ring);
}

static void wanted_tells_for_whom_the_reader_sleeps(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(1, 2, first);
    lzs_claim c;

    publish(ring, 1);
    c = claim(ring, 0, 1);
    CHECK(!lzs_ring_wanted(ring, &c));
    CHECK(lzs_ring_wait(ring, 0) == LZS_TIMEOUT);
    CHECK(!lzs_ring_wanted(ring, &c));
    lzs_ring_free(ring);
}

static void close_ends_claims_and_waits(uint64_t first)
{
    lzs_ring *ring = lzs_ring_new(1, 2, first);
    lzs_claim c, under_way;
    void *result;

    publish(ring, 1);
    publish(ring, 2);
    under_way = claim(ring, 0, 1);
    CHECK(!lzs_ring_closed(ring));
    lzs_ring_close(ring);
    lzs_ring_close(ring);
    CHECK(lzs_ring_closed(ring));
    CHECK(lzs_ring_claim(ring, 0, &c) == LZS_CLOSED);
    CHECK(lzs_ring_claim_wait(ring, 0, &c) == LZS_CLOSED);
    CHECK(lzs_ring_wait(ring, -1) == LZS_CLOSED);
    CHECK(lzs_ring_deliver(ring, &under_way, &results[1]) == LZS_OK); /* not lost: the owner drops it */
    CHECK(lzs_ring_drop(ring, &result) == LZS_OK && result == &results[1]);
    lzs_ring_free(ring);
}

int main(void)
{
    /* From 0, and so that generations, or positions and generations, wrap within each test. */
    const uint64_t firsts[] = {0, (UINT64_C(1) << 48) - 3, UINT64_MAX - 2};

    RUN(bad_arguments_give_null());
    for (unsigned i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        RUN(empty(firsts[i]));
        RUN(capacity_is_exact(firsts[i]));
        RUN(runs_keep_their_shape_and_need_a_flush(firsts[i]));
        RUN(results_come_in_the_order_of_publication(firsts[i]));
        RUN(drop_takes_back_a_run_in_any_state(firsts[i]));
        RUN(an_old_claim_never_delivers_into_a_new_assignment(firsts[i]));
        RUN(wanted_tells_for_whom_the_reader_sleeps(firsts[i]));
        RUN(close_ends_claims_and_waits(firsts[i]));
    }
    REPORT();
    return 0;
}
