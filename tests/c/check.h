/* The little that tests of the ring need. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

/* Unlike assert, also with NDEBUG. */
#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);     \
            abort();                                                                    \
        }                                                                               \
    } while (0)

static int passed;

#define RUN(test)                     \
    do {                              \
        test;                         \
        passed++;                     \
        printf("ok %s\n", #test);     \
    } while (0)

#define REPORT() printf("%d passed, 0 failed\n", passed)

#endif
