/* Reads f32 tensors of a safetensors file: enough for the examples, on little-endian machines.
 *
 * A file is the length of its header (8 bytes), the header as JSON without spaces, {"name":{"dtype":"F32",
 * "shape":[1,2],"data_offsets":[0,8]},...}, and the data. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct safetensors {
    char *header; /* the whole file; the header ends in a NUL */
    char *data;
    size_t data_size;
} safetensors;

typedef struct safetensor {
    float *data; /* row-major */
    uint32_t rank;
    int64_t shape[5];
    int64_t stride[5];
    size_t len; /* elements */
} safetensor;

static void safetensors_fail(const char *what, const char *name) {
    fprintf(stderr, "%s: %s\n", name, what);
    exit(1);
}

/* Reads a file into memory; free() its `header`. */
static safetensors safetensors_open(const char *path) {
    safetensors file;
    uint64_t n = 0;
    long size;
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) safetensors_fail("cannot be opened", path);
    fseek(stream, 0, SEEK_END);
    size = ftell(stream);
    rewind(stream);
    if (size < 8 || fread(&n, 8, 1, stream) != 1 || n > (uint64_t)size - 8) safetensors_fail("is no safetensors file", path);
    file.data_size = (size_t)size - 8 - (size_t)n;
    file.header = (char *)malloc((size_t)size + 64);
    if (file.header == NULL) safetensors_fail("is too large", path);
    if (fread(file.header, (size_t)n, 1, stream) != 1) safetensors_fail("cannot be read", path);
    memset(file.header + n, 0, 64);
    file.data = file.header + (n / 64 + 1) * 64; /* behind a NUL, aligned */
    if (file.data_size > 0 && fread(file.data, file.data_size, 1, stream) != 1) safetensors_fail("cannot be read", path);
    fclose(stream);
    return file;
}

/* Numbers of a JSON list that follows `key`; returns how many. */
static uint32_t safetensors_list(const char *entry, const char *key, int64_t *list, uint32_t max) {
    uint32_t n = 0;
    const char *at = strstr(entry, key);
    if (at == NULL) return 0;
    at += strlen(key);
    while (n < max && *at >= '0' && *at <= '9') {
        char *end;
        list[n++] = strtoll(at, &end, 10);
        at = *end == ',' ? end + 1 : end;
    }
    return n;
}

/* The tensor of that name, or one of rank 0 without data if the file has none. */
static safetensor safetensors_get(const safetensors *file, const char *name) {
    safetensor tensor;
    char key[128];
    const char *entry;
    int64_t range[2] = {0, 0};
    uint32_t axis;
    memset(&tensor, 0, sizeof tensor);
    snprintf(key, sizeof key, "\"%s\":{\"dtype\":\"F32\"", name);
    entry = strstr(file->header, key);
    if (entry == NULL) return tensor;
    tensor.rank = safetensors_list(entry, "\"shape\":[", tensor.shape, 5);
    tensor.len = 1;
    for (axis = tensor.rank; axis-- > 0;) {
        tensor.stride[axis] = (int64_t)tensor.len;
        tensor.len *= (size_t)tensor.shape[axis];
    }
    if (safetensors_list(entry, "\"data_offsets\":[", range, 2) != 2 || range[1] < range[0] ||
        (uint64_t)range[1] > file->data_size || (size_t)(range[1] - range[0]) != 4 * tensor.len) {
        safetensors_fail("its header is damaged", name);
    }
    tensor.data = (float *)(void *)(file->data + range[0]);
    return tensor;
}

#endif /* SAFETENSORS_H */
