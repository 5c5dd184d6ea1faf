// A process without io_uring, as in a container with the default seccomp profile.
#ifndef PENSTOCK_TESTS_SUPPORT_SECCOMP_H_
#define PENSTOCK_TESTS_SUPPORT_SECCOMP_H_

#include <string>

namespace penstock::testing {

// From now on io_uring_setup, io_uring_enter and io_uring_register fail with `error_number` (EPERM as under Docker, ENOSYS as under
// other runtimes) in this process, all its threads and what it starts. Cannot be undone: call it in a test case of its own, before
// anything has probed for io_uring. Returns "" or why it could not be done.
std::string DenyIoUring(int error_number);

// The same for one system call, by its number (SYS_mbind).
std::string DenySystemCall(int call, int error_number);

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_SECCOMP_H_
