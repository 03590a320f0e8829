/* What the C tests share: checks, and row-major tensors.
 *
 * A failed check is printed with its place; main returns check_report(). The macros for calls expect the call
 * to take the address of a variable `err`. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "subquad.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void check_that(int holds, const char *what, const char *file, int line);
/* Compares n values with a relative and absolute bound. */
void check_close(const float *is, const double *should, size_t n, const char *what, const char *file, int line);
/* 1 if a check failed. */
int check_report(const char *name);

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_CLOSE(is, should) check_close(is, should, sizeof(should) / sizeof(*(should)), #is, __FILE__, __LINE__)
/* The status of a call that takes `&err`, and a piece of its message. */
#define CHECK_FAILS(call, expected, text)                                                                    \
    do {                                                                                                     \
        subquad_status check_status = (call);                                                                \
        check_that(check_status == (expected) && err.status == (expected), #call, __FILE__, __LINE__);       \
        check_that(strstr(err.message, text) != NULL, #call, __FILE__, __LINE__);                  \
        if (check_status != (expected) || strstr(err.message, text) == NULL) {                               \
            printf("    expected %d and \"%s\", got %d and \"%s\"\n", (int)(expected), text, (int)check_status,  \
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


subquad_in input(uint32_t role, const void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2, int64_t n3);
subquad_out output(uint32_t role, void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2, int64_t n3);
subquad_param word_param(const char *name, const char *word);
subquad_param real_param(const char *name, double value);
subquad_param int_param(const char *name, int64_t value);

#endif /* SUPPORT_H */
