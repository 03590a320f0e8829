/* Row-major tensors for the C tests. */
#ifndef TENSORS_H
#define TENSORS_H

#include "subquad.h"
#include <string.h>

static subquad_in input(uint32_t role, const void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2,
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

static subquad_out output(uint32_t role, void *data, uint32_t rank, int64_t n0, int64_t n1, int64_t n2,
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

static subquad_param word_param(const char *name, const char *word) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_WORD;
    param.word = word;
    return param;
}

static subquad_param real_param(const char *name, double value) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_REAL;
    param.f64 = value;
    return param;
}

static subquad_param int_param(const char *name, int64_t value) {
    subquad_param param;
    memset(&param, 0, sizeof param);
    param.name = name;
    param.kind = SUBQUAD_PARAM_INT;
    param.i64 = value;
    return param;
}

#endif /* TENSORS_H */
