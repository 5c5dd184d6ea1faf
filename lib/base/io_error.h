// errno to Status. absl::ErrnoToStatus has no case for EIO; a loader must tell "the data is damaged" from the rest.
#ifndef PENSTOCK_BASE_IO_ERROR_H_
#define PENSTOCK_BASE_IO_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace penstock {

// "No such file or directory (ENOENT, 2)". `error_number` is positive.
std::string ErrnoText(int error_number);

// The code for a failed system call: EIO, EBADMSG and EUCLEAN are DataLoss, the rest as Abseil has it.
absl::StatusCode ErrnoToCode(int error_number);

// Status with the text "<what>: <errno text><cure>"; a cure we know (EMFILE, EACCES, ENOSPC, ENOMEM...) is appended.
absl::Status IoError(int error_number, absl::string_view what);

}  // namespace penstock

#endif  // PENSTOCK_BASE_IO_ERROR_H_
