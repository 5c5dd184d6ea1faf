// without_uring [EPERM|ENOSYS] COMMAND [ARGUMENT...]: runs a command to which io_uring is not allowed, as most containers do.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "support/seccomp.h"

int main(int argc, char** argv) {
  int first = 1;
  int error_number = EPERM;
  if (argc > first && std::string(argv[first]) == "ENOSYS") {
    error_number = ENOSYS;
    ++first;
  } else if (argc > first && std::string(argv[first]) == "EPERM") {
    ++first;
  }
  if (argc <= first) {
    std::fprintf(stderr, "usage: without_uring [EPERM|ENOSYS] COMMAND [ARGUMENT...]\n");
    return 2;
  }
  if (const std::string error = penstock::testing::DenyIoUring(error_number); !error.empty()) {
    std::fprintf(stderr, "without_uring: %s\n", error.c_str());
    return 125;
  }
  ::execvp(argv[first], argv + first);
  std::fprintf(stderr, "without_uring: %s: %s\n", argv[first], std::strerror(errno));
  return 127;
}
