/* Sizes and offsets that the Rust side has, as assertions of C and C++. */
#include "subquad.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define SIZE(type, size) typedef char JOIN(size_, __LINE__)[sizeof(type) == (size) ? 1 : -1];
#define FIELD(type, field, offset) typedef char JOIN(field_, __LINE__)[offsetof(type, field) == (offset) ? 1 : -1];

#include "layout.h"

int layout_is_checked(void);

int layout_is_checked(void) {
    return 1;
}
