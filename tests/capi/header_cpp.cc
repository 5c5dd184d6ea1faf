// The header alone, as C++ of the oldest standard that still has users.
#include "penstock/c.h"

extern "C" int penstock_test_header_cpp() { return static_cast<int>(sizeof(penstock_batch_view)); }
