#include "support/seccomp.h"

#include <seccomp.h>

#include <cstring>
#include <initializer_list>

namespace penstock::testing {

namespace {

std::string Deny(std::initializer_list<int> calls, int error_number) {
  const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ALLOW);
  if (filter == nullptr) return "seccomp_init failed";
  int result = ::seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  for (const int call : calls) {
    if (result == 0) result = ::seccomp_rule_add(filter, SCMP_ACT_ERRNO(static_cast<uint32_t>(error_number)), call, 0);
  }
  if (result == 0) result = ::seccomp_load(filter);
  ::seccomp_release(filter);
  return result == 0 ? "" : std::string("seccomp filter: ") + std::strerror(-result);
}

}  // namespace

std::string DenyIoUring(int error_number) {
  // libseccomp 2.5 may not know these names; their numbers are the same on all architectures.
  constexpr int kIoUringSetup = 425, kIoUringEnter = 426, kIoUringRegister = 427;
  return Deny({kIoUringSetup, kIoUringEnter, kIoUringRegister}, error_number);
}

std::string DenySystemCall(int call, int error_number) { return Deny({call}, error_number); }

}  // namespace penstock::testing
