// What all file backends open with, and how a store's refusal becomes an errno.
#ifndef PENSTOCK_RING_OPEN_FLAGS_H_
#define PENSTOCK_RING_OPEN_FLAGS_H_

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/status/status.h"
#include "ring/ring.h"

namespace penstock {

// O_NONBLOCK: a FIFO that took a file's place must not hang the open. O_NOCTTY: nor a terminal become ours. A write or sync is to
// an object that is there: making one is the store's work.
inline int OpenFlags(RequestKind kind, bool direct) {
  return (kind == RequestKind::kRead ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY | (direct ? O_DIRECT : 0);
}

// st_mode's file type of an open file, without asking a file server again: a type never changes (statx(2), AT_STATX_DONT_SYNC). 0, or an
// errno.
inline int FileTypeOf(int fd, uint32_t& mode) {
  struct statx attributes {};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &attributes) == 0) {
    mode = attributes.stx_mode;
    return 0;
  }
  struct stat old {};  // a filter from before statx (Linux 4.11) hides it
  if (::fstat(fd, &old) != 0) return errno;
  mode = old.st_mode;
  return 0;
}

// ObjectStore::Target answers with a Status, a Completion carries an errno.
inline int StatusToErrno(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound: return ENOENT;
    case absl::StatusCode::kPermissionDenied: return EACCES;
    case absl::StatusCode::kResourceExhausted: return EMFILE;
    case absl::StatusCode::kFailedPrecondition: return ENOTDIR;
    case absl::StatusCode::kInvalidArgument: return EINVAL;
    case absl::StatusCode::kDeadlineExceeded: return ETIMEDOUT;
    case absl::StatusCode::kCancelled: return ECANCELED;
    default: return EIO;
  }
}

}  // namespace penstock

#endif  // PENSTOCK_RING_OPEN_FLAGS_H_
