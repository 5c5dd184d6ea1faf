// A test that this machine cannot run says why and is counted as skipped, never as passed.
#ifndef PENSTOCK_TESTS_SUPPORT_SKIP_H_
#define PENSTOCK_TESTS_SUPPORT_SKIP_H_

#include <unistd.h>

#include <cstdio>
#include <string>

namespace penstock::testing {

inline constexpr int kSkipExitStatus = 77;  // tests/*: SKIP_RETURN_CODE of ctest

// Ends the process. Each case is a process of its own under ctest, so nothing else is cut off.
[[noreturn]] inline void SkipTest(const std::string& reason) {
  std::printf("SKIPPED: %s\n", reason.c_str());
  std::fflush(stdout);
  ::_exit(kSkipExitStatus);
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_SKIP_H_
