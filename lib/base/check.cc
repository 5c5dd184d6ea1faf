#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace penstock {

void CheckFailed(const char* file, int line, const char* condition, const char* message) {
  std::fprintf(stderr, "penstock: internal error at %s:%d: %s: %s\n", file, line, condition, message);
  std::abort();
}

}  // namespace penstock
