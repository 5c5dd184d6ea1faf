/* The header alone, as C11 with every warning: what a C program sees. */
#include "penstock/c.h"

_Static_assert(sizeof(penstock_code) == 4, "codes have a fixed width");
_Static_assert(PENSTOCK_UNAUTHENTICATED == 16, "codes are Abseil's");

int penstock_test_header_c11(void) { return PENSTOCK_C_ABI_VERSION; }
