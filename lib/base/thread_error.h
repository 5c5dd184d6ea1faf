// Why a thread could not be started: std::thread says EAGAIN for want of processes and of address space alike (pthread_create(3)).
#ifndef PENSTOCK_BASE_THREAD_ERROR_H_
#define PENSTOCK_BASE_THREAD_ERROR_H_

#include <string>

namespace penstock {

// What to change, as the end of a message: "raise RLIMIT_NPROC ...", or what its stack lacks.
std::string ThreadCure();

}  // namespace penstock

#endif  // PENSTOCK_BASE_THREAD_ERROR_H_
