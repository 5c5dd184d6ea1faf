#include "base/thread_error.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "support/child.h"
#include "support/skip.h"

using namespace penstock;

TEST_CASE("a thread that does not start for want of address space is not blamed on the number of processes", "[base]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  penstock::testing::SkipTest("a sanitizer's shadow memory is beyond any RLIMIT_AS");
#endif
  CHECK(ThreadCure().find("RLIMIT_NPROC") != std::string::npos);
  const std::string cure = penstock::testing::InChild([]() -> std::string {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE) + (1 << 20));
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return "setrlimit";
    return ThreadCure();
  });
  CHECK(cure.find("RLIMIT_AS") != std::string::npos);
  CHECK(cure.find("ulimit -v") != std::string::npos);
  CHECK(cure.find("RLIMIT_NPROC") == std::string::npos);
}
