// errno to Status. absl::ErrnoToStatus has no case for EIO; a loader must tell "the data is damaged" from the rest.
#ifndef PENSTOCK_BASE_IO_ERROR_H_
#define PENSTOCK_BASE_IO_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace penstock {

// "No such file or directory (ENOENT, 2)". `error_number` is positive.
std::string ErrnoText(int error_number);

// The code for a failed system call: EIO, EBADMSG and EUCLEAN are DataLoss, most others as Abseil has them. Never a code by which the loader
// says something of its own: OutOfRange, Cancelled (Stop), DeadlineExceeded (deadline_s), FailedPrecondition (a second Next(), a forked
// child), InvalidArgument (options), Internal (a codec beyond its place), Aborted. A store's ETIMEDOUT, ECANCELED and ESTALE are
// Unavailable, its EOVERFLOW and ERANGE DataLoss, its EINVAL Unknown.
absl::StatusCode ErrnoToCode(int error_number);

// What failed: the cure of one errno depends on that.
enum class IoOperation {
  kOther,   // only cures that hold for any call
  kSample,  // an open or read of what an index names
  kWrite,   // making or writing a file of ours: a ledger, a manifest, a folder
};

// Status with the text "<what>: <errno text><cure>"; a cure that is known for this operation (EMFILE, EACCES, ENOSPC...) is appended.
absl::Status IoError(int error_number, absl::string_view what, IoOperation operation = IoOperation::kOther);

}  // namespace penstock

#endif  // PENSTOCK_BASE_IO_ERROR_H_
