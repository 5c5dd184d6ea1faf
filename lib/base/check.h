// Checks of what only our own mistake can break. They stay on in release builds: a wrong piece state would hand
// out wrong bytes, which is worse than ending the process. What the world can break gets a Status instead.
#ifndef PENSTOCK_BASE_CHECK_H_
#define PENSTOCK_BASE_CHECK_H_

namespace penstock {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const char* message);

}  // namespace penstock

#define PENSTOCK_CHECK(condition, message) \
  (__builtin_expect(!!(condition), 1) ? void(0) : ::penstock::CheckFailed(__FILE__, __LINE__, #condition, message))

#ifdef NDEBUG
#define PENSTOCK_DCHECK(condition, message) void(0)
#else
#define PENSTOCK_DCHECK(condition, message) PENSTOCK_CHECK(condition, message)
#endif

#endif  // PENSTOCK_BASE_CHECK_H_
