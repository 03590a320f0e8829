/* Checks of the C tests: each failure is printed with its place, and main returns `check_failures != 0`. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdio.h>
#include <string.h>

static int check_failures = 0;
static int check_count = 0;

static void check_that(int holds, const char *what, const char *file, int line) {
    check_count += 1;
    if (!holds) {
        check_failures += 1;
        printf("%s:%d: %s\n", file, line, what);
    }
}

/* Compares n values with a relative and absolute bound. */
static void check_close(const float *is, const double *should, size_t n, const char *what, const char *file,
                        int line) {
    size_t i;
    for (i = 0; i < n; i++) {
        double difference = fabs((double)is[i] - should[i]);
        check_count += 1;
        if (!(difference <= 1e-5 + 1e-5 * fabs(should[i]))) {
            check_failures += 1;
            printf("%s:%d: %s[%d] is %.9g, expected %.9g\n", file, line, what, (int)i, (double)is[i], should[i]);
        }
    }
}

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_CLOSE(is, should) check_close(is, should, sizeof(should) / sizeof(*(should)), #is, __FILE__, __LINE__)
/* The status of a call that takes `&err`, and a piece of its message. */
#define CHECK_FAILS(call, expected, text)                                                                    \
    do {                                                                                                     \
        subquad_status check_status = (call);                                                                \
        check_that(check_status == (expected) && err.status == (expected), #call, __FILE__, __LINE__);       \
        check_that(strstr(err.message, text) != NULL, #call ": " text, __FILE__, __LINE__);                  \
        if (check_status != (expected) || strstr(err.message, text) == NULL) {                               \
            printf("    status %d (%s): %s\n", (int)check_status, subquad_status_string(check_status),       \
                   err.message);                                                                             \
        }                                                                                                    \
    } while (0)
#define CHECK_OK(call)                                                                                       \
    do {                                                                                                     \
        subquad_status check_status = (call);                                                                \
        check_that(check_status == SUBQUAD_OK && err.status == SUBQUAD_OK && err.message[0] == '\0', #call,  \
                   __FILE__, __LINE__);                                                                      \
        if (check_status != SUBQUAD_OK) printf("    %s\n", err.message);                                     \
    } while (0)

static int check_report(const char *name) {
    printf("%s: %d checks, %d failures\n", name, check_count, check_failures);
    return check_failures != 0;
}

#endif /* CHECK_H */
