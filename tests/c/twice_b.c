/* The other translation unit of twice_a.c. */
#include "subquad.h"
#include "subquad.h"

uint32_t version_of_other_unit(void);

uint32_t version_of_other_unit(void) {
    return subquad_version();
}
