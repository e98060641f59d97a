/* The little that the tests of the ring need. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* How long a test program may take from one OK to the next, on a busy machine too. Its alarm has no handler: TSan would
 * hold one back for as long as all threads hang in a system call, whereas the default action ends the process at once. */
#define WATCHDOG_SECONDS 120

/* Unlike assert, also with NDEBUG. */
#define CHECK(condition)                                                                                            \
    do {                                                                                                            \
        if (!(condition)) {                                                                                         \
            fflush(stdout);                                                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                 \
            abort();                                                                                                \
        }                                                                                                           \
    } while (0)

static int passed;

/* Say that the property described as for printf holds. Flushed, so that the line is there when the next one hangs. */
#define OK(...)                                                                                                     \
    do {                                                                                                            \
        passed++;                                                                                                   \
        printf("ok " __VA_ARGS__);                                                                                  \
        printf("\n");                                                                                               \
        fflush(stdout);                                                                                             \
        alarm(WATCHDOG_SECONDS);                                                                                    \
    } while (0)

#define REPORT() printf("%d passed, 0 failed\n", passed)

#endif
