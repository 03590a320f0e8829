/* See support.h. */
#include "support.h"

static int check_failures = 0;
static int check_count = 0;

void check_that(int holds, const char *what, const char *file, int line) {
    check_count += 1;
    if (!holds) {
        check_failures += 1;
        printf("%s:%d: %s\n", file, line, what);
    }
}

void check_close(const float *is, const double *should, size_t n, const char *what, const char *file,
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

int check_report(const char *name) {
    printf("%s: %d checks, %d failures\n", name, check_count, check_failures);
    return check_failures != 0;
}

subquad_in input(uint32_t role, const void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2,
                 int64_t n3) {
    subquad_in tensor;
    int64_t step = 1;
    uint32_t axis;
    memset(&tensor, 0, sizeof tensor);
    tensor.role = role;
    tensor.dtype = SUBQUAD_DTYPE_F32;
    tensor.rank = rank;
    tensor.data = data;
    tensor.shape[0] = n0;
    tensor.shape[1] = n1;
    tensor.shape[2] = n2;
    tensor.shape[3] = n3;
    for (axis = rank; axis-- > 0;) {
        tensor.stride[axis] = step;
        step *= tensor.shape[axis];
    }
    return tensor;
}

subquad_out output(uint32_t role, void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2,
                   int64_t n3) {
    subquad_in in = input(role, NULL, rank, n0, n1, n2, n3);
    subquad_out tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.role = in.role;
    tensor.dtype = in.dtype;
    tensor.rank = in.rank;
    tensor.data = data;
    memcpy(tensor.shape, in.shape, sizeof in.shape);
    memcpy(tensor.stride, in.stride, sizeof in.stride);
    return tensor;
}

subquad_param word_param(const char *name, const char *word) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_WORD;
    param.word = word;
    return param;
}

subquad_param real_param(const char *name, double value) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_REAL;
    param.f64 = value;
    return param;
}

subquad_param int_param(const char *name, int64_t value) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_INT;
    param.i64 = value;
    return param;
}
