/* What _arena.h promises, function by function: every return code, sizes, alignment, the order of reuse; and what the
 * death of an owner leaves, whichever its last instruction.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS, ptrace */
#include "check.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/ptrace.h>
#include <sys/wait.h>
#endif

#include "../../src/lazyseq/_arena.h"

enum { KB = 1024, MB = 1024 * KB };

/* ---- Helpers ---------------------------------------------------------------------------------------------------- */

static uint64_t mapped;

static lzs_arena *new_arena(uint64_t size, uint32_t owners, uint64_t common, int reserving)
{
    lzs_arena *arena;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    mapped = size;
    arena = lzs_arena_make(memory, size, owners, common, reserving);
    CHECK((void *)arena == memory);
    return arena;
}

static void free_arena(lzs_arena *arena)
{
    CHECK(munmap(arena, mapped) == 0);
}

static char *at(lzs_arena *arena, uint64_t offset)
{
    return (char *)arena + offset;
}

static uint64_t allocate(lzs_arena *arena, uint32_t owner, uint64_t size)
{
    lzs_extent missing = {1, 1, 1};
    uint64_t offset = lzs_arena_allocate(arena, owner, size, &missing);
    CHECK(missing.from == 0 && missing.to == 0);
    return offset;
}

/* ---- Tests ------------------------------------------------------------------------------------------------------ */

static void bad_sizes_make_no_arena(void)
{
    static _Alignas(LZS_ARENA_PAGE) char memory[16 * LZS_ARENA_PAGE];
    uint64_t head = lzs_arena_head(3, 1000);

    CHECK(head > 1000 && head % LZS_ARENA_PAGE == 0);
    CHECK(lzs_arena_head(1, UINT64_MAX) == 0 && lzs_arena_head(UINT32_MAX, UINT64_MAX - 4096) == 0);
    CHECK(lzs_arena_head(UINT32_MAX, 0) > UINT32_MAX);
    CHECK(lzs_arena_make(memory, sizeof memory, 0, 0, 0) == NULL);
    CHECK(lzs_arena_make(memory, 0, 1, 0, 0) == NULL);
    CHECK(lzs_arena_make(memory, sizeof memory, 1, UINT64_MAX, 0) == NULL);
    CHECK(lzs_arena_make(memory, sizeof memory, 1, sizeof memory, 0) == NULL);
    CHECK(lzs_arena_make(memory, head + 3 * LZS_ARENA_PAGE - 1, 3, 1000, 0) == NULL);
    for (unsigned k = 0; k < sizeof memory; k++)
        CHECK(memory[k] == 0);
    CHECK(lzs_arena_make(memory, head + 3 * LZS_ARENA_PAGE, 3, 1000, 0) != NULL);
    for (uint32_t k = 0; k < 3; k++) { /* a page each, with a header for each block */
        for (int n = 0; n < LZS_ARENA_PAGE / 128; n++)
            CHECK(allocate((lzs_arena *)memory, k, 64) != 0);
        CHECK(allocate((lzs_arena *)memory, k, 1) == 0);
    }
}

static void the_common_part_is_zero_and_apart(void)
{
    for (uint64_t common = 0; common < 300; common += 7) {
        lzs_arena *arena = new_arena(1 * MB, 2, common, 0);
        char *memory = at(arena, lzs_arena_common(arena));
        CHECK((uintptr_t)memory % 64 == 0);
        for (uint64_t k = 0; k < common; k++)
            CHECK(memory[k] == 0);
        memset(memory, -1, common);
        for (uint32_t owner = 0; owner < 2; owner++) {
            uint64_t block = allocate(arena, owner, 100);
            CHECK(block >= lzs_arena_head(2, common));
            memset(at(arena, block), 1, 100);
        }
        for (uint64_t k = 0; k < common; k++)
            CHECK(memory[k] == -1);
        free_arena(arena);
    }
}

/* Sizes around each power of two: blocks hold them, are aligned, and do not overlap. */
static void blocks_hold_what_was_asked_for(void)
{
    lzs_arena *arena = new_arena(UINT64_C(64) * MB, 1, 0, 0);
    struct {
        uint64_t offset, size;
    } blocks[256];
    unsigned n = 0;

    for (uint64_t size = 1; size <= 4 * MB; size *= 2) {
        for (uint64_t s = size - 1; s <= size + 1; s++) {
            uint64_t before = lzs_arena_used(arena, 0), offset = allocate(arena, 0, s), room;
            room = lzs_arena_used(arena, 0) - before;
            CHECK(offset != 0 && offset % 64 == 0);
            CHECK(room >= s && room >= 64 && (room <= s + s / 4 || room - s <= 64));
            if (room >= LZS_ARENA_LARGE)
                CHECK(offset % LZS_ARENA_PAGE == 0);
            memset(at(arena, offset), (int)n, s);
            CHECK(n < 256);
            blocks[n].offset = offset;
            blocks[n++].size = s;
        }
    }
    for (unsigned k = 0; k < n; k++)
        for (uint64_t i = 0; i < blocks[k].size; i += 61)
            CHECK(at(arena, blocks[k].offset)[i] == (char)k);
    free_arena(arena);
}

static void each_block_of_a_class_is_used_again(void)
{
    lzs_arena *arena = new_arena(UINT64_C(16) * MB, 1, 0, 0);

    for (uint64_t size = 0; size < 1 * MB; size += size / 7 + 1) {
        uint64_t offset = allocate(arena, 0, size), room = lzs_arena_used(arena, 0);
        lzs_arena_release(arena, offset);
        CHECK(lzs_arena_used(arena, 0) == 0);
        CHECK(allocate(arena, 0, room) == offset);
        lzs_arena_keep(arena, offset);
        CHECK(lzs_arena_used(arena, 0) == room);
        lzs_arena_release(arena, offset);
    }
    free_arena(arena);
}

static void too_much_is_refused(void)
{
    lzs_arena *arena = new_arena(4 * MB, 3, 0, 0);
    const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 63, UINT64_MAX / 2 + 1, UINT64_MAX / 2, UINT64_C(1) << 40,
                              4 * MB, (4 * MB - lzs_arena_head(3, 0)) / 3 / 4096 * 4096};

    for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++)
        CHECK(allocate(arena, 1, sizes[k]) == 0);
    CHECK(allocate(arena, 1, 1 * MB) != 0);
    free_arena(arena);
}

static void a_full_region_is_no_other_s(void)
{
    lzs_arena *arena = new_arena(4 * MB, 2, 0, 0);
    uint64_t last = 0, offset, n = 0;

    while ((offset = allocate(arena, 0, 100 * KB)) != 0) {
        last = offset;
        n++;
    }
    CHECK(n == 17);
    CHECK(allocate(arena, 1, 100 * KB) != 0);
    while (allocate(arena, 0, 64) != 0) /* the rest */
        ;
    /* A larger block is better than none. */
    lzs_arena_release(arena, last);
    CHECK(allocate(arena, 0, 64) == last);
    CHECK(allocate(arena, 0, 64) == 0);
    free_arena(arena);
}

static void the_last_one_released_comes_first(void)
{
    lzs_arena *arena = new_arena(4 * MB, 1, 0, 0);
    uint64_t blocks[5];

    for (int k = 0; k < 5; k++)
        blocks[k] = allocate(arena, 0, 1000);
    for (int together = 0; together < 2; together++) {
        for (int k = 0; k < 5; k++) {
            lzs_arena_release(arena, blocks[k]);
            if (!together) /* each is moved to the lists before the next is released */
                lzs_arena_release(arena, allocate(arena, 0, 64));
        }
        for (int k = 5; k-- > 0;)
            CHECK(allocate(arena, 0, 1000) == blocks[k]);
    }
    free_arena(arena);
}

static void nothing_is_touched_before_it_is_reserved(void)
{
    lzs_arena *arena;
    lzs_extent missing;
    uint64_t head = lzs_arena_head(2, 100), offset, end = 0;
    void *memory = mmap(NULL, 4 * MB, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(memory != MAP_FAILED);
    CHECK(mprotect(memory, head, PROT_READ | PROT_WRITE) == 0);
    arena = lzs_arena_make(memory, 4 * MB, 2, 100, 1);
    CHECK(arena != NULL);
    for (uint64_t size = 1; size < 512 * KB; size = size * 3 + 1) {
        offset = lzs_arena_allocate(arena, 1, size, &missing);
        if (offset == 0) {
            CHECK(missing.to > missing.from && (end == 0 || missing.from == end));
            CHECK(lzs_arena_allocate(arena, 1, size, &missing) == 0);
            end = (missing.to + 4095) / 4096 * 4096;
            CHECK(mprotect((char *)memory + missing.from / 4096 * 4096, end - missing.from / 4096 * 4096,
                           PROT_READ | PROT_WRITE) == 0);
            lzs_arena_reserved(arena, 1, (lzs_extent){missing.from, end, 0});
            offset = lzs_arena_allocate(arena, 1, size, &missing);
        }
        CHECK(offset != 0 && missing.to == 0);
        memset(at(arena, offset), 1, size);
    }
    /* What there is serves where no more can be had; the region's end says so. */
    lzs_arena_release(arena, offset);
    CHECK(lzs_arena_allocate(arena, 1, 130 * KB, &missing) == 0 && missing.to > missing.from);
    CHECK(lzs_arena_allocate_larger(arena, 1, 130 * KB) == offset);
    CHECK(lzs_arena_allocate_larger(arena, 1, 130 * KB) == 0);
    CHECK(lzs_arena_allocate(arena, 1, 2 * MB, &missing) == 0 && missing.to == 0);
    CHECK(munmap(memory, 4 * MB) == 0);
}

static void reclaim_frees_what_was_not_kept(void)
{
    lzs_arena *arena = new_arena(UINT64_C(16) * MB, 2, 0, 0);
    uint64_t kept = allocate(arena, 0, 1000), lost[3], released = allocate(arena, 0, 1000), room, other;

    lzs_arena_keep(arena, kept);
    memset(at(arena, kept), 7, 1000);
    other = allocate(arena, 1, 1000);
    room = lzs_arena_used(arena, 1);
    for (int k = 0; k < 3; k++)
        lost[k] = allocate(arena, 0, 300 * KB);
    lzs_arena_release(arena, released);
    CHECK(lzs_arena_reclaim(arena, 0) >= 900 * KB);
    CHECK(lzs_arena_used(arena, 0) == room && lzs_arena_used(arena, 1) == room);
    for (int k = 3; k-- > 0;)
        CHECK(allocate(arena, 0, 300 * KB) == lost[k]);
    CHECK(allocate(arena, 0, 1000) == released);
    for (int k = 0; k < 1000; k++)
        CHECK(at(arena, kept)[k] == 7);
    lzs_arena_release(arena, kept);
    lzs_arena_release(arena, other);
    CHECK(allocate(arena, 0, 1000) == kept);
    CHECK(lzs_arena_used(arena, 1) == 0);
    CHECK(lzs_arena_reclaim(arena, 1) == 0 && lzs_arena_reclaim(arena, 1) == 0);
    free_arena(arena);
}

#ifdef MADV_REMOVE

/* How many bytes of a mapping have pages. */
static uint64_t resident(lzs_arena *arena)
{
    static unsigned char has[64 * MB / 4096];
    uint64_t n = 0;

    CHECK(mincore(arena, mapped, has) == 0);
    for (uint64_t k = 0; k < mapped / 4096; k++)
        n += (has[k] & 1) * UINT64_C(4096);
    return n;
}

/* Sizes of which each is asked for during a while: what is taken is bound by what is in use and what is to spare. */
static void free_blocks_give_their_pages_back(void)
{
    lzs_arena *arena = new_arena(UINT64_C(64) * MB, 1, 0, 0);
    uint64_t blocks[8], size = 64 * KB;

    lzs_arena_spare(arena, 2 * MB);
    for (int round = 0; round < 40; round++) {
        for (int k = 0; k < 8; k++) {
            blocks[k] = allocate(arena, 0, size);
            CHECK(blocks[k] != 0);
            memset(at(arena, blocks[k]), k + 1, size);
        }
        for (int k = 0; k < 8; k++) {
            for (uint64_t i = 0; i < size; i += 63)
                CHECK(at(arena, blocks[k])[i] == k + 1);
            lzs_arena_release(arena, blocks[k]);
        }
        CHECK(resident(arena) < 8 * 330 * KB + 2 * MB + 512 * KB);
        size = size < 256 * KB ? size + size / 4 : 64 * KB;
    }
    free_arena(arena);
}

/* One size: its blocks keep their pages, however often they are used. */
static void blocks_of_one_size_keep_their_pages(void)
{
    lzs_arena *arena = new_arena(UINT64_C(64) * MB, 1, 0, 0);
    uint64_t before = 0;

    lzs_arena_spare(arena, 1 * MB);
    for (int round = 0; round < 100; round++) {
        uint64_t block = allocate(arena, 0, 256 * KB);
        CHECK(before == 0 || at(arena, block)[1000] == 7);
        memset(at(arena, block), 7, 256 * KB);
        before = resident(arena);
        CHECK(before > 256 * KB);
        lzs_arena_release(arena, block);
        CHECK(resident(arena) == before);
    }
    free_arena(arena);
}

static void with_nothing_to_spare_a_release_gives_back(void)
{
    lzs_arena *arena = new_arena(4 * MB, 1, 0, 1);
    lzs_extent missing;
    uint64_t block, other, before = resident(arena);

    lzs_arena_reserved(arena, 0, (lzs_extent){0, lzs_arena_head(1, 0) + 2 * MB, 0});
    block = allocate(arena, 0, 256 * KB);
    other = allocate(arena, 0, 20000); /* not aligned to pages */
    memset(at(arena, block), 1, 256 * KB);
    memset(at(arena, other), 2, 20000);
    lzs_arena_spare(arena, 0);
    CHECK(lzs_arena_given(arena) == 0);
    lzs_arena_release(arena, allocate(arena, 0, 64)); /* as if nobody had had it */
    CHECK(lzs_arena_given(arena) == 0);
    lzs_arena_keep(arena, block);
    lzs_arena_release(arena, block);
    CHECK(lzs_arena_given(arena) == 1);
    CHECK(resident(arena) <= before + 7 * 4096);
    for (int k = 0; k < 20000; k++)
        CHECK(at(arena, other)[k] == 2);
    /* It is reserved again before it is used again, and serves nobody else before. */
    CHECK(lzs_arena_allocate_larger(arena, 0, 128 * KB) == 0);
    CHECK(lzs_arena_allocate(arena, 0, 256 * KB, &missing) == 0);
    CHECK(missing.from >= block && missing.to == block + 256 * KB);
    lzs_arena_reserved(arena, 0, missing);
    CHECK(allocate(arena, 0, 256 * KB) == block);
    lzs_arena_keep(arena, block);
    lzs_arena_release(arena, other);
    CHECK(resident(arena) <= before + 3 * 4096);
    /* So is what the dead leave. */
    memset(at(arena, block), 1, 256 * KB);
    lzs_arena_release(arena, block);
    CHECK(lzs_arena_allocate(arena, 0, 256 * KB, &missing) == 0);
    lzs_arena_reserved(arena, 0, missing);
    memset(at(arena, allocate(arena, 0, 256 * KB)), 3, 256 * KB);
    CHECK(lzs_arena_reclaim(arena, 0) == 256 * KB);
    CHECK(resident(arena) <= before + 3 * 4096);
    CHECK(lzs_arena_allocate(arena, 0, 256 * KB, &missing) == 0 && missing.to == block + 256 * KB);
    free_arena(arena);
}

#endif

/* Sanitizers do not have their processes traced. */
#if defined(__linux__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)

/* What the owner is doing as it dies; `blocks` are the first eight it ever allocated, 2 is kept, 3-7 are released. */
static void last_acts(lzs_arena *arena, const uint64_t *blocks)
{
    allocate(arena, 0, 1000); /* one of five from the stack */
    allocate(arena, 0, 1000);
    lzs_arena_release(arena, blocks[0]);
    allocate(arena, 0, 200 * KB); /* fresh, behind a gap */
}

/* What an owner that dies now would leave: reclaim finds each block once. */
static void look_at_what_it_leaves(const lzs_arena *original, const uint64_t *blocks)
{
    lzs_arena *arena = new_arena(2 * MB, 1, 0, 0);
    uint64_t sum = 0;
    int found[8] = {0};

    memcpy(arena, original, 2 * MB); /* it holds offsets only */
    /* The one that was on its way to the stack may be lost, and nothing else. */
    lzs_arena_reclaim(arena, 0);
    CHECK(lzs_arena_used(arena, 0) == 1024);
    CHECK(lzs_arena_reclaim(arena, 0) == 0);
    lzs_arena_release(arena, blocks[2]);
    for (int k = 0; k < 8; k++)
        sum += blocks[k];
    for (int k = 0; k < 8; k++) {
        uint64_t again = allocate(arena, 0, 1000);
        for (int i = 0; i < 8; i++) {
            if (blocks[i] == again && !found[i]) {
                sum -= again;
                found[i] = 1;
            }
        }
    }
    CHECK(sum == 0 || sum == blocks[0]);
    CHECK(lzs_arena_used(arena, 0) == 8 * 1024);
    free_arena(arena);
}

/* The owner is stopped behind each instruction, and what is there then is copied. */
static void a_death_at_any_instruction_loses_nothing(void)
{
    lzs_arena *arena = new_arena(2 * MB, 1, 0, 0);
    uint64_t blocks[8];
    long instructions = 0;
    int status;
    pid_t child;

    for (int k = 0; k < 8; k++)
        blocks[k] = allocate(arena, 0, 1000);
    lzs_arena_keep(arena, blocks[2]);
    for (int k = 3; k < 8; k++)
        lzs_arena_release(arena, blocks[k]);
    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(1);
        raise(SIGSTOP);
        last_acts(arena, blocks);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSTOPPED(status)) {
        for (; WIFSTOPPED(status); instructions++) {
            look_at_what_it_leaves(arena, blocks);
            CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
            CHECK(waitpid(child, &status, 0) == child);
        }
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        OK("a_death_at_any_instruction_loses_nothing, of %ld", instructions);
    } else {
        printf("left out: no ptrace here\n");
    }
    free_arena(arena);
}

#else

static void a_death_at_any_instruction_loses_nothing(void)
{
    printf("left out: deaths at any instruction\n");
}

#endif

int main(void)
{
    const struct {
        const char *name;
        void (*test)(void);
    } tests[] = {
#define TEST(name) {#name, name}
        TEST(bad_sizes_make_no_arena),
        TEST(the_common_part_is_zero_and_apart),
        TEST(blocks_hold_what_was_asked_for),
        TEST(each_block_of_a_class_is_used_again),
        TEST(too_much_is_refused),
        TEST(a_full_region_is_no_other_s),
        TEST(the_last_one_released_comes_first),
        TEST(nothing_is_touched_before_it_is_reserved),
        TEST(reclaim_frees_what_was_not_kept),
#ifdef MADV_REMOVE
        TEST(free_blocks_give_their_pages_back),
        TEST(blocks_of_one_size_keep_their_pages),
        TEST(with_nothing_to_spare_a_release_gives_back),
#endif
#undef TEST
    };

    alarm(WATCHDOG_SECONDS);
    for (unsigned t = 0; t < sizeof tests / sizeof *tests; t++) {
        tests[t].test();
        OK("%s", tests[t].name);
    }
    a_death_at_any_instruction_loses_nothing();
    REPORT();
    return 0;
}
