/* The header in two translation units, twice in each; a C++ compiler reads this file too. */
#include "subquad.h"
#include "subquad.h"

uint32_t version_of_other_unit(void);

int main(void) {
    subquad_desc desc;
    subquad_desc_init(&desc);
    if (desc.struct_size != sizeof desc) return 1;
    return version_of_other_unit() == SUBQUAD_VERSION_NUMBER ? 0 : 2;
}
