/* Seeded schedules of the ring's unmodified source: readers, workers and who closes are coroutines on one thread, and
 * before each atomic operation a generator decides who goes on.
 *
 *   schedule_ring [-n SCHEDULES] [-s SEED]   that many, the first from this seed
 *   schedule_ring [-v] SEED                  one of them again; -v tells every step
 *
 * Sleeping is modelled: who sleeps goes on when it is woken, and when nobody can go on, the schedule has failed.
 *
 * Memory is modelled too, as C11 has it rather than as this processor has it: each atomic variable remembers its last
 * values, and a load may give any of them that neither coherence, nor what happens before, nor the order of seq_cst
 * operations rules out. So an order that is too weak fails here on any machine. What happens before is known exactly
 * (vector clocks), so the results can be checked for being handed over, and not only for being right. Not modelled: a
 * store that takes effect before a load that precedes it. Release sequences are those of C23: a thread's own relaxed
 * store ends one.
 */
#define _GNU_SOURCE /* syscall */
#include "check.h"

#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

/* An error is to reach say_seed. */
const char *__asan_default_options(void)
{
    return "abort_on_error=1";
}

const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}
#endif

/* ---- Chance ----------------------------------------------------------------------------------------------------- */

static uint64_t seed, chance;

static uint64_t draw(uint64_t n)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (chance >> 20) % n;
}

/* 0 is never. */
static int one_in(unsigned n)
{
    return n != 0 && draw(n) == 0;
}

/* Neighbouring seeds must differ widely. */
static void start_from(uint64_t n)
{
    seed = n;
    n = (n + UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
    n = (n ^ n >> 31) * UINT64_C(0x94D049BB133111EB);
    chance = (n ^ n >> 29) | 1;
}

/* ---- Tasks ------------------------------------------------------------------------------------------------------ */

enum { MAX_READERS = 2, MAX_WORKERS = 3 };
enum { MAIN, READERS, WORKERS = READERS + MAX_READERS, CLOSER = WORKERS + MAX_WORKERS, TASKS };
enum { STACK = 1 << 16, TOO_MANY_STEPS = 100000 };

static const char *const names[TASKS] = {"main", "reader 0", "reader 1", "worker 0", "worker 1", "worker 2", "closer"};

/* Any; stay with one for a while; the one of highest priority, which changes a few times only (few changes at the right
 * places are what most errors need: Burckhardt et al., A randomized scheduler with probabilistic guarantees). */
typedef enum { UNIFORM, STICKY, PRIORITIES, STRATEGIES } strategy;

typedef struct {
    jmp_buf at;
    ucontext_t start; /* used once: a task outlives the schedule, since making a context takes system calls */
    int started;
    const void *on; /* what it sleeps on */
    void (*body)(unsigned number);
    unsigned number;
    int64_t priority;
    void *fake_stack; /* ASan's */
    const void *stack;
    size_t stack_size;
} task;

static task tasks[TASKS];
static _Alignas(64) char stacks[TASKS][STACK];
static unsigned running, from, alive_tasks; /* from: who ran before */
/* Sets of tasks. One that is in none, and alive, sleeps without end. */
static unsigned runnable;
static unsigned timed;   /* sleep, with a timeout */
static unsigned busy;    /* evaluate something that takes longer than all that the others can do meanwhile */
static unsigned polling; /* look again and again */
static unsigned polls_in_vain;
static long steps, all_steps, sleeps;
static int tracing;

static struct {
    strategy strategy;
    unsigned stale; /* a load that has a choice takes an older value, one in so many times */
    int spurious;   /* who sleeps may wake for no reason */
    int timeouts;   /* readers' waits have some */
    unsigned slow;  /* one item in so many is */
    int closing;    /* somebody does, at any moment */
    uint32_t nworkers, nreaders, looks;
    unsigned jump_one_in, flush_one_in;
    long changes[3]; /* at which steps the running task gets the lowest priority */
    int64_t lowest;
} plan;

static void say_plan(FILE *to)
{
    const char *const strategies[] = {"uniform", "sticky", "priorities"};
    fprintf(to,
            "seed %" PRIu64 ": %u readers, %u workers, %u looks, %s, stale one in %u%s%s%s%s\n", seed, plan.nreaders,
            plan.nworkers, plan.looks, strategies[plan.strategy], plan.stale, plan.spurious ? ", spurious wakings" : "",
            plan.timeouts ? ", timeouts" : "", plan.slow ? ", slow items" : "", plan.closing ? ", closing" : "");
}

/* Stdio in a handler: all is one thread, and the signals come from abort, errors and, after a hang, an alarm. */
static void say_seed(int number)
{
    fflush(stdout);
    fprintf(stderr, "failed at step %ld, in %s, with ", steps, names[running]);
    say_plan(stderr);
    fprintf(stderr, "schedule_ring -v %" PRIu64 " tells every step\n", seed);
    signal(number, SIG_DFL);
    raise(number);
}

static _Noreturn void fail(const char *why)
{
    fprintf(stderr, "%s\n", why);
    for (unsigned t = 1; t < TASKS; t++)
        if (tasks[t].on != NULL || (runnable | busy | polling) >> t & 1)
            fprintf(stderr, "    %s: %s\n", names[t],
                    runnable >> t & 1  ? "runs"
                    : busy >> t & 1    ? "evaluates"
                    : polling >> t & 1 ? "looks again and again"
                    : timed >> t & 1   ? "sleeps, with a timeout"
                                       : "sleeps");
    abort();
}

static unsigned any_of(unsigned set)
{
    for (unsigned n = (unsigned)draw((unsigned)__builtin_popcount(set)); n > 0; n--)
        set &= set - 1;
    return (unsigned)__builtin_ctz(set);
}

static void wake(unsigned t)
{
    runnable |= 1u << t;
    timed &= ~(1u << t);
    busy &= ~(1u << t);
    polling &= ~(1u << t);
    tasks[t].on = NULL;
}

static void wake_all_on(const void *what, unsigned most)
{
    for (unsigned t = 1; t < TASKS && most > 0; t++) {
        if (tasks[t].on == what) {
            wake(t);
            polls_in_vain = 0;
            most--;
        }
    }
}

static void check_who_sleeps(void);

/* Nobody can go on: time passes. */
static void pass_time(void)
{
    check_who_sleeps();
    if (timed | busy) {
        wake(any_of(timed | busy));
        polls_in_vain = 0;
    } else if (polling != 0 && polls_in_vain++ < 4) {
        for (unsigned t = 1; t < TASKS; t++)
            if (polling >> t & 1)
                wake(t);
    } else {
        fail(polling ? "who looks again and again never finds anything" : "deadlock: all sleep");
    }
}

static unsigned next_task(void)
{
    unsigned best = TASKS;

    if (one_in(64)) {
        unsigned others = timed | polling;
        for (unsigned t = 1; t < TASKS && plan.spurious; t++)
            if (tasks[t].on != NULL)
                others |= 1u << t;
        if (others)
            wake(any_of(others));
    }
    while (runnable == 0)
        pass_time();
    switch (plan.strategy) {
    case PRIORITIES:
        for (unsigned t = 1; t < TASKS; t++)
            if (runnable >> t & 1 && (best == TASKS || tasks[t].priority > tasks[best].priority))
                best = t;
        return best;
    case STICKY:
        if (runnable >> running & 1 && !one_in(8))
            return running;
        break;
    default:
        break;
    }
    return any_of(runnable);
}

/* What a task does first when it goes on. ASan is told of each switch, and says where the stack is that was left. */
static void arrive(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(tasks[running].fake_stack, &tasks[from].stack, &tasks[from].stack_size);
#endif
}

/* Not inlined, as prepare_tasks: who calls something that returns twice may not keep its variables in registers. */
__attribute__((noinline)) static void switch_to(unsigned t)
{
    if (t == running)
        return;
    from = running;
    running = t;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&tasks[from].fake_stack, tasks[t].stack, tasks[t].stack_size);
#endif
    if (_setjmp(tasks[from].at) == 0) {
        if (tasks[t].started)
            _longjmp(tasks[t].at, 1);
        tasks[t].started = 1;
        setcontext(&tasks[t].start);
    }
    arrive();
}

static void enter(void)
{
    arrive();
    for (;;) {
        tasks[running].body(tasks[running].number);
        runnable &= ~(1u << running);
        alive_tasks--;
        switch_to(alive_tasks ? next_task() : MAIN);
    }
}

__attribute__((noinline)) static void prepare_tasks(void)
{
    tasks[MAIN].started = 1;
    for (unsigned t = 1; t < TASKS; t++) {
        CHECK(getcontext(&tasks[t].start) == 0);
        tasks[t].stack = tasks[t].start.uc_stack.ss_sp = stacks[t];
        tasks[t].stack_size = tasks[t].start.uc_stack.ss_size = STACK;
        makecontext(&tasks[t].start, enter, 0);
    }
}

static void leave_to_others(unsigned *as)
{
    runnable &= ~(1u << running);
    if (as != NULL)
        *as |= 1u << running;
    switch_to(next_task());
}

static void sleep_on(const void *what, int with_timeout)
{
    sleeps++;
    tasks[running].on = what;
    leave_to_others(with_timeout ? &timed : NULL);
}

/* Before each atomic operation. */
static void step(void)
{
    if (running == MAIN) /* alone: before the tasks start, or after they have ended */
        return;
    if (++steps > TOO_MANY_STEPS)
        fail("no end in sight");
    if (plan.strategy == PRIORITIES)
        for (unsigned i = 0; i < sizeof plan.changes / sizeof *plan.changes; i++)
            if (steps == plan.changes[i])
                tasks[running].priority = --plan.lowest;
    switch_to(next_task());
}

/* For who waits for others without sleeping. */
static int let_others_go_first(void)
{
    tasks[running].priority = --plan.lowest;
    step();
    return 0;
}

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

enum { REMEMBERED = 4, VARIABLES = 1024 };

/* How much of each task's doings is known. */
typedef struct {
    uint32_t of[TASKS];
} knowledge;

typedef struct {
    unsigned task;
    uint32_t when;
} stamp;

typedef struct {
    uint64_t value;
    stamp stamp;
    int seq_cst;
    knowledge released; /* what who acquires it learns */
} change;

typedef struct {
    const volatile void *address;
    uint64_t schedule; /* in which it was used last, if not now it counts as new */
    stamp created;
    uint32_t n;           /* changes so far */
    uint32_t seen[TASKS]; /* the latest that each has seen */
    change changes[REMEMBERED];
} variable;

static variable variables[VARIABLES];
static uint64_t schedule = 1;
static knowledge known[TASKS];
static long loads, stale_loads;

static int acquires(memory_order order)
{
    return order != memory_order_relaxed && order != memory_order_release;
}

static int releases(memory_order order)
{
    return order == memory_order_release || order == memory_order_acq_rel || order == memory_order_seq_cst;
}

static void learn(knowledge *k, const knowledge *more)
{
    for (unsigned t = 0; t < TASKS; t++)
        if (more->of[t] > k->of[t])
            k->of[t] = more->of[t];
}

static stamp now(void)
{
    return (stamp){running, known[running].of[running]};
}

/* Whether it happened before. */
static int knows(stamp s)
{
    return known[running].of[s.task] >= s.when;
}

static void create(variable *v, const volatile void *address, uint64_t value, stamp by)
{
    v->address = address;
    v->schedule = schedule;
    v->created = by;
    v->n = 1;
    memset(v->seen, 0, sizeof v->seen);
    v->changes[0] = (change){.value = value, .stamp = by};
}

/* One that is new was zeroed, before anybody else could know it. */
static variable *variable_at(const volatile void *address)
{
    for (uint64_t k = (uintptr_t)address >> 2, tries = 0; tries < VARIABLES; k++, tries++) {
        variable *v = &variables[k * UINT64_C(0x9E3779B97F4A7C15) >> 54];
        if (v->schedule != schedule)
            create(v, address, 0, (stamp){MAIN, 0});
        if (v->address == address)
            return v;
    }
    fail("VARIABLES are too few");
}

/* Not atomic, so whoever else uses it must know of it. */
static void initialized(const volatile void *address, uint64_t value)
{
    create(variable_at(address), address, value, now());
}

/* The next that is there will be new. */
static void forgotten(const volatile void *address)
{
    create(variable_at(address), address, 0, (stamp){MAIN, 0});
}

static uint64_t loaded(const volatile void *address, memory_order order, unsigned stale)
{
    variable *v = variable_at(address);
    uint32_t i = v->n - 1, oldest = v->n > REMEMBERED ? v->n - REMEMBERED : 0;
    const change *c = &v->changes[i % REMEMBERED];

    if (!knows(v->created))
        fail("a variable that may not have been initialized yet");
    if (v->seen[running] > oldest)
        oldest = v->seen[running];
    loads++;
    while (i > oldest && !knows(c->stamp) && !(c->seq_cst && order == memory_order_seq_cst) && !polls_in_vain &&
           one_in(stale)) {
        stale_loads++;
        c = &v->changes[--i % REMEMBERED];
    }
    v->seen[running] = i;
    if (acquires(order))
        learn(&known[running], &c->released);
    return c->value;
}

static void stored(const volatile void *address, uint64_t value, memory_order order, int read_too)
{
    variable *v = variable_at(address);
    const change *last = &v->changes[(v->n - 1) % REMEMBERED];
    change *c = &v->changes[v->n % REMEMBERED];
    knowledge *mine = &known[running];

    if (!knows(v->created))
        fail("a variable that may not have been initialized yet");
    if (read_too && acquires(order))
        learn(mine, &last->released);
    if (read_too) /* the release sequence goes on */
        c->released = last->released;
    else
        memset(&c->released, 0, sizeof c->released);
    if (releases(order))
        learn(&c->released, mine);
    c->value = value;
    c->stamp = (stamp){running, mine->of[running]++};
    c->seq_cst = order == memory_order_seq_cst;
    v->seen[running] = v->n++;
}

/* Whether the value that is there is replaced. If not, *expected is what was seen instead. */
static int compared(const volatile void *address, uint64_t current, uint64_t *expected, uint64_t desired,
                    memory_order success, memory_order failure, int weak)
{
    uint64_t seen;

    if (current == *expected && !(weak && one_in(8))) {
        stored(address, desired, success, 1);
        return 1;
    }
    seen = loaded(address, failure, plan.stale);
    *expected = seen != *expected ? seen : loaded(address, failure, 0);
    return 0;
}

static void tell(const char *function, int line, const char *what, const char *object, uint64_t value)
{
    if (tracing && running != MAIN)
        printf("%5ld %-8s  %-24s %4d  %-8s %-32s %#" PRIx64 "\n", steps, names[running], function, line, what, object,
               value);
}

/* From here on the atomic operations are these. Who looks at memory through them has the address checked by ASan. */
#undef atomic_init
#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_exchange_explicit
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak_explicit
#define VALUE_OF(object) __typeof__((void)0, *(object))
#define TELL(what, object, value) tell(__func__, __LINE__, what, #object, (uint64_t)(value))
#define atomic_init(object, initial)                                                                                \
    __extension__({                                                                                                 \
        *(object) = (initial);                                                                                      \
        initialized(object, (uint64_t) * (object));                                                                 \
    })
#define atomic_load_explicit(object, order)                                                                         \
    __extension__({                                                                                                 \
        VALUE_OF(object) value_;                                                                                    \
        step();                                                                                                     \
        (void)*(object);                                                                                            \
        value_ = (VALUE_OF(object))loaded(object, order, plan.stale);                                               \
        TELL("load", object, value_);                                                                               \
        value_;                                                                                                     \
    })
#define atomic_store_explicit(object, value, order)                                                                 \
    __extension__({                                                                                                 \
        VALUE_OF(object) value_ = (value);                                                                          \
        step();                                                                                                     \
        *(object) = value_;                                                                                         \
        stored(object, (uint64_t)value_, order, 0);                                                                 \
        TELL("store", object, value_);                                                                              \
        if (one_in(4)) /* what follows need not be atomic */                                                        \
            step();                                                                                                 \
    })
#define REPLACE(what, object, value, order)                                                                         \
    __extension__({                                                                                                 \
        VALUE_OF(object) old_, value_;                                                                              \
        step();                                                                                                     \
        old_ = *(object);                                                                                           \
        value_ = (VALUE_OF(object))(value);                                                                         \
        *(object) = value_;                                                                                         \
        stored(object, (uint64_t)value_, order, 1);                                                                 \
        TELL(what, object, value_);                                                                                 \
        old_;                                                                                                       \
    })
#define atomic_exchange_explicit(object, value, order) REPLACE("exchange", object, value, order)
#define atomic_fetch_add_explicit(object, value, order) REPLACE("add", object, old_ + (value), order)
#define atomic_fetch_sub_explicit(object, value, order) REPLACE("subtract", object, old_ - (value), order)
#define COMPARE(object, expected, desired, success, failure, weak)                                                  \
    __extension__({                                                                                                 \
        VALUE_OF(object) desired_ = (desired);                                                                      \
        uint64_t expected_ = *(expected);                                                                           \
        int done_;                                                                                                  \
        step();                                                                                                     \
        done_ = compared(object, (uint64_t) * (object), &expected_, (uint64_t)desired_, success, failure, weak);    \
        if (done_)                                                                                                  \
            *(object) = desired_;                                                                                   \
        else                                                                                                        \
            *(expected) = (VALUE_OF(object))expected_;                                                              \
        TELL(done_ ? "replace" : "differs", object, done_ ? (uint64_t)desired_ : expected_);                        \
        done_;                                                                                                      \
    })
#define atomic_compare_exchange_strong_explicit(object, expected, desired, success, failure)                        \
    COMPARE(object, expected, desired, success, failure, 0)
#define atomic_compare_exchange_weak_explicit(object, expected, desired, success, failure)                          \
    COMPARE(object, expected, desired, success, failure, 1)

/* ---- The system ------------------------------------------------------------------------------------------------- */

typedef struct {
    int held;
    knowledge released;
} mutex;

typedef struct {
    char address;
} condition;

static int lock(mutex *m)
{
    step();
    while (m->held)
        sleep_on(m, 0);
    m->held = 1;
    learn(&known[running], &m->released);
    return 0;
}

static int unlock(mutex *m)
{
    CHECK(m->held);
    m->held = 0;
    m->released = known[running];
    known[running].of[running]++;
    wake_all_on(m, TASKS);
    step();
    return 0;
}

#if defined(LZS_PARK_WITH_PTHREAD)

static int wait_on(condition *c, mutex *m, const struct timespec *until)
{
    struct timespec t;

    m->held = 0;
    m->released = known[running];
    known[running].of[running]++;
    wake_all_on(m, TASKS);
    timespec_get(&t, TIME_UTC);
    if (until != NULL && (t.tv_sec > until->tv_sec || (t.tv_sec == until->tv_sec && t.tv_nsec >= until->tv_nsec)))
        let_others_go_first();
    else
        sleep_on(c, until != NULL);
    return lock(m);
}

static int wake_on(condition *c)
{
    wake_all_on(c, 1);
    return 0;
}

#define pthread_mutex_t mutex
#define pthread_cond_t condition
#define pthread_mutex_init(m, attributes) (*(m) = (mutex){0}, 0)
#define pthread_mutex_destroy(m) CHECK(!(m)->held)
#define pthread_mutex_lock lock
#define pthread_mutex_unlock unlock
#define pthread_cond_init(c, attributes) ((c)->address = 0, 0)
#define pthread_cond_destroy(c) (void)(c)
#define pthread_cond_wait(c, m) wait_on(c, m, NULL)
#define pthread_cond_timedwait wait_on
#define pthread_cond_signal wake_on

#else

/* The kernel sees what memory holds, whoever asks. */
static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
    step();
    if (operation == FUTEX_WAKE_PRIVATE)
        wake_all_on(word, value);
    else if (*word == value && timeout != NULL && timeout->tv_sec == 0 && timeout->tv_nsec == 0)
        let_others_go_first();
    else if (*word == value)
        sleep_on(word, timeout != NULL);
    return 0;
}

#define syscall(number, word, operation, value, timeout, second, bits) futex(word, operation, value, timeout)

#endif

#define sched_yield let_others_go_first
#include "../../src/lazyseq/_prefetch.c"
#undef sched_yield

/* ---- What readers have published, and what became of it --------------------------------------------------------- */

enum { MAX_CAPACITY = 4, MAX_RUNS = 64, MAX_PARTS = 3 };

typedef struct {
    lzs_run run;
    stamp published;
    stamp read; /* when the slot's last result was read */
    int claimed, delivered;
    int gone; /* the reader takes it back, or has done so */
    int retracted;
    unsigned era;
    int64_t told; /* so many parts were added when the reader was to be woken last */
} entry;

typedef struct {
    lzs_ring *ring;
    uint64_t capacity, first;
    entry runs[MAX_RUNS];
    unsigned head, tail; /* of those that are in the ring */
    unsigned items;      /* to be read */
    stamp read[MAX_CAPACITY];
    stamp made;
    int late; /* makes its ring while the workers work */
    int waits;
    unsigned ahead;     /* for the run so many places after the head */
    const entry *wants; /* it waits for so many parts of this one */
    int64_t parts;
    /* Changed while the ring is empty, read by workers: whether what a claim is for is still what it was. */
    mutex lock;
    unsigned era;
} reader_of;

/* A result, in parts or whole. Its holders are the ring or who took it, and the worker while it adds parts. */
typedef struct {
    lzs_progress progress;
    const entry *entry;
    stamp made;
    unsigned holders;
    int unwanted;
    stamp parts[MAX_PARTS];
} result;

static lzs_crew *the_crew;
static reader_of readers[MAX_READERS];
static unsigned reading;
static long results, cancelled, taken;

static result *make(const entry *e)
{
    result *r = malloc(sizeof *r);
    CHECK(r != NULL);
    *r = (result){.entry = e, .made = now(), .holders = 1};
    atomic_init(&r->progress.done, 0);
    atomic_init(&r->progress.wanted, 0);
    results++;
    return r;
}

static void release(result *r)
{
    CHECK(r->holders > 0);
    if (--r->holders == 0) {
        forgotten(&r->progress.done);
        forgotten(&r->progress.wanted);
        free(r);
        results--;
    }
}

/* ---- Workers ---------------------------------------------------------------------------------------------------- */

static void take_long(void)
{
    if (one_in(plan.slow))
        leave_to_others(&busy);
}

static void evaluate_in_parts(const lzs_claim *c, entry *e)
{
    result *r = make(e);

    r->holders = 2;
    if (lzs_ring_attach(c, r) != LZS_OK) {
        CHECK(e->gone);
        cancelled++;
        release(r);
        release(r);
        return;
    }
    CHECK(!e->delivered++);
    for (int64_t k = 0; k < e->run.count && !r->unwanted; k++) {
        int wakes = k == e->run.count - 1 || one_in(2);
        take_long();
        r->parts[k] = now();
        lzs_progress_add(&r->progress, c->ring, 1, wakes);
        if (wakes) {
            e->told = k + 1;
            lzs_ring_wake(c);
        }
    }
    release(r);
}

static void evaluate(const lzs_claim *c, entry *e)
{
    result *r = make(e);

    take_long();
    if (one_in(4))
        (void)lzs_ring_wanted(c);
    if (lzs_ring_deliver(c, r) != LZS_OK) {
        CHECK(e->gone);
        cancelled++;
        release(r);
    } else {
        CHECK(!e->delivered++);
    }
}

static void work(unsigned w)
{
    for (;;) {
        const uint32_t k = (uint32_t)draw(MAX_READERS);
        lzs_status status = LZS_EMPTY;
        lzs_claim c;
        reader_of *from;
        entry *e;

        if (one_in(8) && lzs_crew_ring(the_crew, k) != NULL)
            CHECK(knows(readers[k].made));
        for (uint64_t n = draw(3); n > 0 && status == LZS_EMPTY; n--)
            status = lzs_crew_claim(the_crew, w, &c);
        if (status == LZS_EMPTY)
            status = lzs_crew_claim_wait(the_crew, w, &c);
        if (status == LZS_CLOSED)
            return;
        CHECK(status == LZS_OK);
        CHECK(c.number < plan.nreaders);
        from = &readers[c.number];
        CHECK(knows(from->made));
        CHECK(c.ring == from->ring && c.run.index >= 0 && c.run.index < from->tail);
        e = &from->runs[c.run.index];
        CHECK(c.run.count == e->run.count && c.run.item == e->run.item && c.position == from->first + (uint64_t)c.run.index);
        CHECK(!e->claimed++ && !e->retracted);
        CHECK(knows(e->published) && knows(e->read));
        if (one_in(4)) {
            unsigned era;
            lock(&from->lock);
            era = from->era;
            unlock(&from->lock);
            if (lzs_ring_stands(&c))
                CHECK(era == e->era);
            else
                CHECK(e->gone);
        }
        if (e->run.count > 1)
            evaluate_in_parts(&c, e);
        else
            evaluate(&c, e);
    }
}

/* ---- Readers ---------------------------------------------------------------------------------------------------- */

static int patience(void)
{
    const int timeouts[] = {-1, 0, 1, 1000};
    return plan.timeouts ? timeouts[draw(4)] : -1;
}

static void left(reader_of *me)
{
    me->read[me->head++ % MAX_CAPACITY] = now();
}

static void drop(reader_of *me)
{
    entry *e = &me->runs[me->head];
    void *dropped = me;

    e->gone = 1;
    if (one_in(2) && lzs_ring_retract(me->ring) == LZS_OK) {
        CHECK(!e->claimed);
        e->retracted = 1;
        left(me);
        return;
    }
    CHECK(lzs_ring_drop(me->ring, &dropped) == LZS_OK);
    left(me);
    if (dropped != NULL) {
        result *r = dropped;
        CHECK(r->entry == e && knows(r->made));
        r->unwanted = 1;
        release(r);
    }
}

static void jump(reader_of *me)
{
    for (uint64_t n = one_in(2) ? MAX_CAPACITY : 1 + draw(2); n > 0 && me->head != me->tail; n--)
        drop(me);
    if (me->head == me->tail && one_in(2)) {
        lock(&me->lock);
        me->era++;
        unlock(&me->lock);
    }
}

static void fill(reader_of *me)
{
    for (uint64_t n = draw(me->capacity + 1); n > 0 && me->tail < MAX_RUNS; n--) {
        lzs_run run = {me->tail, one_in(3) ? 2 + (int64_t)draw(MAX_PARTS - 1) : 1, ~me->tail};
        entry *e = &me->runs[me->tail];
        int full = me->tail - me->head == me->capacity;

        if (!full) {
            *e = (entry){.run = run, .published = now(), .era = me->era};
            e->read = me->read[me->tail % MAX_CAPACITY];
            me->tail++; /* workers may see it before the function returns */
        }
        CHECK(lzs_ring_publish(me->ring, run) == (full ? LZS_FULL : LZS_OK));
        if (one_in(plan.flush_one_in))
            lzs_ring_flush(me->ring);
    }
}

/* Wait for a run in the ring, or for the first n parts of r. */
static lzs_status wait_for(reader_of *me, result *r, int64_t n)
{
    lzs_status status = LZS_EMPTY;

    me->waits = 1;
    me->ahead = r == NULL && one_in(2) ? (unsigned)draw(me->tail - me->head) : 0;
    me->wants = r == NULL ? NULL : r->entry;
    me->parts = n;
    if (r != NULL && one_in(2)) { /* for whichever comes first */
        lzs_progress_want(&r->progress, n);
        if (lzs_progress_done(&r->progress) >= n)
            status = LZS_OK;
        else if ((status = lzs_ring_wait(me->ring, 0, patience())) == LZS_OK)
            status = LZS_EMPTY; /* it is the head that is there */
        lzs_progress_want(&r->progress, 0);
        if (status == LZS_EMPTY)
            status = lzs_progress_wait(&r->progress, me->ring, n, patience());
    } else if (r != NULL) {
        status = lzs_progress_wait(&r->progress, me->ring, n, patience());
        CHECK(status != LZS_OK || lzs_progress_done(&r->progress) >= n);
    } else {
        status = lzs_ring_wait(me->ring, me->ahead, patience());
    }
    me->waits = 0;
    CHECK(status == LZS_OK || status == LZS_TIMEOUT || (status == LZS_CLOSED && plan.closing));
    return status;
}

/* Look once more, now or when something may have happened. Whether the crew is not closed. */
static int look_again(reader_of *me, result *r, int64_t n, int polls)
{
    if (!polls)
        return wait_for(me, r, n) != LZS_CLOSED;
    if (lzs_crew_closed(the_crew))
        return 0;
    leave_to_others(&polling);
    return 1;
}

/* Read the run at the head. Whether the crew is not closed. */
static int read_one(reader_of *me)
{
    const entry *e = &me->runs[me->head];
    const int polls = one_in(4);
    void *r_ = me;
    lzs_run run;
    result *r;
    int open = 1;

    if (polls || one_in(2))
        lzs_ring_flush(me->ring); /* else the wait does */
    CHECK(lzs_ring_head(me->ring, &run) == LZS_OK && run.index == e->run.index && run.count == e->run.count);
    for (;;) {
        lzs_status status = lzs_ring_take(me->ring, &r_);
        if (status == LZS_OK)
            break;
        CHECK(status == LZS_BUSY);
        if (!look_again(me, NULL, 0, polls))
            return 0;
    }
    left(me);
    taken++;
    r = r_;
    CHECK(r->entry == e && knows(r->made));
    for (int64_t k = 0; e->run.count > 1 && k < e->run.count && open && !one_in(8); k++) {
        while (open && lzs_progress_done(&r->progress) <= k)
            open = look_again(me, r, k + 1, polls);
        CHECK(!open || knows(r->parts[k]));
    }
    r->unwanted = 1;
    release(r);
    return open;
}

static void read_all(unsigned number)
{
    reader_of *me = &readers[number];
    void *nothing = me;

    if (me->late) {
        me->made = now();
        me->ring = lzs_ring_new(the_crew, me->capacity, me->first);
        CHECK(me->ring != NULL);
    }
    while (me->items > 0 && me->tail + MAX_CAPACITY < MAX_RUNS) {
        fill(me);
        if (one_in(plan.jump_one_in))
            jump(me);
        if (me->head == me->tail)
            continue;
        me->items--;
        if (!read_one(me))
            break;
    }
    while (me->head != me->tail)
        drop(me);
    CHECK(lzs_ring_drop(me->ring, &nothing) == LZS_EMPTY && nothing == NULL);
    if (--reading == 0)
        lzs_crew_close(the_crew);
}

static void close_some_time(unsigned number)
{
    (void)number;
    for (uint64_t n = draw(200); n > 0; n--)
        step();
    lzs_crew_close(the_crew);
}

/* When nobody can go on: a reader that sleeps has woken those who can help, so if there is work in its ring, no worker
 * sleeps; and it was woken when what it waits for was there. */
static void check_who_sleeps(void)
{
    int workers_sleep = 0;

    for (unsigned t = WORKERS; t < CLOSER; t++)
        workers_sleep |= tasks[t].on != NULL;
    for (unsigned k = 0; k < plan.nreaders; k++) {
        const reader_of *r = &readers[k];
        const entry *run = &r->runs[r->head + r->ahead];
        if (!r->waits || tasks[READERS + k].on == NULL)
            continue;
        for (unsigned i = r->head; i < r->tail && workers_sleep; i++)
            if (!r->runs[i].claimed)
                fail("a run that nobody has claimed, a reader that sleeps, and a worker that sleeps");
        if (r->wants != NULL ? r->wants->told >= r->parts : run->delivered && (run->run.count == 1 || run->told))
            fail("a reader that sleeps although all that it waits for is there");
    }
}

/* ---- Starting tasks --------------------------------------------------------------------------------------------- */

static void begin(unsigned t, void (*body)(unsigned number), unsigned number)
{
    tasks[t].body = body;
    tasks[t].number = number;
    tasks[t].priority = (int64_t)draw(1 << 20);
    runnable |= 1u << t;
    alive_tasks++;
}

/* Until all tasks have ended. */
static void run_tasks(void)
{
    for (unsigned t = 1; t < TASKS; t++) {
        known[t] = known[MAIN];
        known[t].of[t] = 1;
    }
    switch_to(next_task());
    for (unsigned t = 0; t < TASKS; t++)
        learn(&known[MAIN], &known[t]);
    CHECK((runnable | timed | busy | polling) == 0);
    polls_in_vain = 0;
    all_steps += steps;
    steps = 0;
}

/* ---- The parker alone ------------------------------------------------------------------------------------------- */

enum { ROUNDS = 3 };

/* A new one each time: a wake-up that is late ends the next sleep on the same one for no reason. */
static parker bells[2][ROUNDS];

/* Two that wake each other in turn; each sees what the other did before. */
static void ring_and_sleep(unsigned number)
{
    static stamp rung[2];

    for (int round = 0; round < ROUNDS; round++) {
        if (number == 1 || round > 0) {
            park(&bells[number][round], -1);
            CHECK(knows(rung[number]));
        }
        rung[1 - number] = now();
        unpark(&bells[1 - number][number == 0 ? round : (round + 1) % ROUNDS]);
    }
}

static void parkers_alone(void)
{
    plan.spurious = 0;
    for (unsigned k = 0; k < 2 * ROUNDS; k++)
        CHECK(parker_init(&bells[k % 2][k / 2], 0) == 0);
    begin(READERS, ring_and_sleep, 0);
    begin(WORKERS, ring_and_sleep, 1);
    run_tasks();
    for (unsigned k = 0; k < 2 * ROUNDS; k++)
        parker_fini(&bells[k % 2][k / 2]);
}

/* ---- One wait --------------------------------------------------------------------------------------------------- */

static lzs_ring *the_ring;
static lzs_progress the_progress;

static void wait_once(unsigned in_parts)
{
    void *r;
    if (in_parts) {
        CHECK(lzs_progress_wait(&the_progress, the_ring, 1, -1) == LZS_OK);
    } else {
        CHECK(lzs_ring_wait(the_ring, 0, -1) == LZS_OK);
        CHECK(lzs_ring_take(the_ring, &r) == LZS_OK && r == &the_ring);
    }
}

static void finish_once(unsigned in_parts)
{
    lzs_claim c;
    if (in_parts)
        lzs_progress_add(&the_progress, the_ring, 1, 1);
    else
        CHECK(lzs_crew_claim(the_crew, 0, &c) == LZS_OK && lzs_ring_deliver(&c, &the_ring) == LZS_OK);
}

/* Nothing but what it waits for wakes the reader, so that it finds it. */
static void one_wait(void)
{
    unsigned in_parts = (unsigned)draw(2);

    plan.spurious = 0;
    the_crew = lzs_crew_new(1, plan.looks);
    CHECK(the_crew != NULL);
    the_ring = lzs_ring_new(the_crew, 1, 0);
    CHECK(the_ring != NULL && lzs_ring_publish(the_ring, (lzs_run){0, 1, 0}) == LZS_OK);
    lzs_ring_flush(the_ring);
    atomic_init(&the_progress.done, 0);
    atomic_init(&the_progress.wanted, 0);
    begin(READERS, wait_once, in_parts);
    begin(WORKERS, finish_once, in_parts);
    run_tasks();
    CHECK(the_progress.wanted == 0);
    lzs_crew_free(the_crew);
}

/* ---- What only costs time when it is missing -------------------------------------------------------------------- */

static lzs_ring *new_ring(uint32_t nworkers, uint64_t capacity)
{
    lzs_ring *ring;

    schedule++;
    the_crew = lzs_crew_new(nworkers, 0);
    CHECK(the_crew != NULL);
    ring = lzs_ring_new(the_crew, capacity, 0);
    CHECK(ring != NULL);
    return ring;
}

static lzs_claim claim(int64_t index)
{
    lzs_claim c;
    CHECK(lzs_crew_claim(the_crew, 0, &c) == LZS_OK && c.run.index == index);
    return c;
}

static void publish(lzs_ring *ring, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        CHECK(lzs_ring_publish(ring, (lzs_run){i, 1, 0}) == LZS_OK);
}

/* A claim looks at the first run that is left, not at all those before. */
static void a_claim_takes_few_looks(void)
{
    enum { RUNS = 64, FEW = 12 };
    lzs_ring *ring = new_ring(1, RUNS);

    publish(ring, RUNS);
    lzs_ring_flush(ring);
    for (int64_t i = 0; i < RUNS; i++) {
        long before = loads;
        (void)claim(i);
        CHECK(loads - before < FEW);
    }
    lzs_crew_free(the_crew);
}

/* As many sleepers are woken as there are runs, less those who look for work anyway. */
static void no_worker_is_woken_in_vain(void)
{
    enum { MANY = 4 };

    for (uint32_t looking = 0; looking <= MANY; looking++) {
        for (uint32_t runs = 1; runs <= MANY; runs++) {
            lzs_ring *ring = new_ring(MANY, MANY);
            uint32_t expected = runs > looking ? runs - looking : 0, woken = 0;

            for (uint32_t w = 0; w < MANY; w++)
                atomic_init(&worker_of(the_crew, w)->asleep, ANNOUNCED);
            atomic_init(&the_crew->asleep, MANY);
            atomic_init(&the_crew->looking, looking);
            publish(ring, runs);
            lzs_ring_flush(ring);
            for (uint32_t w = 0; w < MANY; w++)
                woken += worker_of(the_crew, w)->asleep != ANNOUNCED;
            CHECK(woken == expected && the_crew->asleep == MANY - expected);
            CHECK(lzs_ring_wait(ring, 0, 0) == LZS_TIMEOUT);
            CHECK(the_crew->asleep == MANY - expected - (MANY - expected < runs ? MANY - expected : runs));
            lzs_crew_free(the_crew);
        }
    }
}

static void no_reader_is_woken_in_vain(void)
{
    lzs_ring *ring = new_ring(1, 2);
    lzs_progress progress;
    lzs_claim a, b;

    publish(ring, 2);
    lzs_ring_flush(ring);
    a = claim(0);
    b = claim(1);
    atomic_init(&ring->wanted, wish_for(a.position));
    CHECK(lzs_ring_wanted(&a) && !lzs_ring_wanted(&b));
    CHECK(lzs_ring_deliver(&b, NULL) == LZS_OK && ring->reader.word == EMPTY);
    CHECK(lzs_ring_deliver(&a, NULL) == LZS_OK && ring->reader.word == NOTIFIED);
    atomic_init(&ring->reader.word, EMPTY);

    atomic_init(&progress.done, 0);
    atomic_init(&progress.wanted, 0);
    lzs_progress_add(&progress, ring, 1, 1);
    CHECK(ring->reader.word == EMPTY);
    lzs_progress_want(&progress, 3);
    lzs_progress_add(&progress, ring, 1, 1);
    CHECK(ring->reader.word == EMPTY);
    lzs_progress_add(&progress, ring, 1, 0);
    CHECK(ring->reader.word == EMPTY);
    lzs_progress_add(&progress, ring, 1, 1);
    CHECK(ring->reader.word == NOTIFIED);
    lzs_crew_free(the_crew);
}

/* ---- Schedules -------------------------------------------------------------------------------------------------- */

static void a_crew(void)
{
    the_crew = lzs_crew_new(plan.nworkers, plan.looks);
    CHECK(the_crew != NULL);
    reading = plan.nreaders;
    for (unsigned k = 0; k < plan.nreaders; k++) {
        reader_of *r = &readers[k];
        const uint64_t firsts[] = {0, (UINT64_C(1) << 48) - 1 - draw(6), UINT64_MAX - draw(6)};

        memset(r->read, 0, sizeof r->read);
        r->capacity = 1 + draw(MAX_CAPACITY);
        r->first = firsts[draw(3)];
        r->head = r->tail = r->era = 0;
        r->items = 1 + (unsigned)draw(5);
        r->waits = 0;
        r->lock = (mutex){0};
        r->late = k + 1 == plan.nreaders && one_in(2);
        if (!r->late) {
            r->made = now();
            r->ring = lzs_ring_new(the_crew, r->capacity, r->first);
            CHECK(r->ring != NULL);
        }
        begin(READERS + k, read_all, k);
    }
    for (unsigned k = 0; k < plan.nworkers; k++)
        begin(WORKERS + k, work, k);
    if (plan.closing)
        begin(CLOSER, close_some_time, 0);
    run_tasks();
    CHECK(results == 0);
    CHECK(the_crew->asleep == 0 && the_crew->looking == 0);
    lzs_crew_free(the_crew);
}

static void one_schedule(uint64_t from)
{
    const unsigned jumps[] = {0, 2, 4}, flushes[] = {0, 1, 4}, stale[] = {0, 8, 3, 2}, slow[] = {0, 0, 2, 1};

    start_from(from);
    schedule++;
    memset(known, 0, sizeof known);
    known[MAIN].of[MAIN] = 1;
    memset(&plan, 0, sizeof plan);
    plan.strategy = (strategy)draw(STRATEGIES);
    plan.stale = stale[draw(4)];
    plan.spurious = one_in(8);
    plan.timeouts = one_in(4);
    plan.slow = slow[draw(4)];
    plan.closing = one_in(4);
    plan.nreaders = one_in(3) ? 2 : 1;
    plan.nworkers = 1 + (uint32_t)draw(MAX_WORKERS);
    plan.looks = (uint32_t)draw(3);
    plan.jump_one_in = jumps[draw(3)];
    plan.flush_one_in = flushes[draw(3)];
    if (one_in(4)) { /* a crowd: much to wake for, and nobody who comes by later */
        plan.nreaders = MAX_READERS;
        plan.nworkers = MAX_WORKERS;
        plan.slow = 1;
        plan.closing = plan.timeouts = plan.spurious = 0;
        plan.flush_one_in = 1;
    }
    for (unsigned i = 0; i < sizeof plan.changes / sizeof *plan.changes; i++)
        plan.changes[i] = (long)draw(1 << (6 + draw(5)));
    if (tracing)
        say_plan(stdout);
    if (one_in(64))
        parkers_alone();
    else if (one_in(64))
        one_wait();
    else
        a_crew();
}

int main(int argc, char **argv)
{
    uint64_t first = 1, n = 100000, done;
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGALRM};
    struct timespec start, end;
    double seconds;
    int option;

    while ((option = getopt(argc, argv, "n:s:v")) != -1) {
        if (option == 'n')
            n = strtoull(optarg, NULL, 10);
        else if (option == 's')
            first = strtoull(optarg, NULL, 10);
        else if (option == 'v')
            tracing = 1;
        else
            return 2;
    }
    if (optind < argc) {
        first = strtoull(argv[optind], NULL, 10);
        n = 1;
    }
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], say_seed);
    prepare_tasks();
    a_claim_takes_few_looks();
    no_worker_is_woken_in_vain();
    no_reader_is_woken_in_vain();
    timespec_get(&start, TIME_UTC);
    for (done = 0; done < n; done++) {
        if (done % 1024 == 0)
            alarm(WATCHDOG_SECONDS);
        one_schedule(first + done);
    }
    timespec_get(&end, TIME_UTC);
    seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    OK("seeds %" PRIu64 " to %" PRIu64 ": %.0f schedules a second; a schedule has %.0f steps and %.1f sleeps, "
       "takes %.1f results and cancels %.1f; %.1f%% of the loads gave an older value",
       first, first + n - 1, (double)n / seconds, (double)all_steps / (double)n, (double)sleeps / (double)n,
       (double)taken / (double)n, (double)cancelled / (double)n, 100 * (double)stale_loads / (double)loads);
    return 0;
}
