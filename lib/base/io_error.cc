#include "base/io_error.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

absl::string_view Cure(int error_number) {
  switch (error_number) {
    case EMFILE: return ". This process has no file descriptor left: raise RLIMIT_NOFILE (ulimit -n)";
    case ENFILE: return ". The system has no file left: raise fs.file-max";
    case EACCES: return ". Give this user read permission on the file and search permission on its folders";
    case ENOSPC: return ". Free space on that file system, or choose another place";
    case ENOENT: return ". It was there when the data set was indexed; restore it, or index again (penstock index --update)";
    case EIO: return ". The device or its file system failed; its kernel log (dmesg) says more";
    case ESTALE: return ". The file server replaced or removed it; index again (penstock index --update)";
    case EISDIR: return ". A folder has taken the file's place; restore it, or index again (penstock index --update)";
    case ESPIPE: return ". It is a FIFO or a socket now, and no file; restore it, or index again (penstock index --update)";
    case ELOOP: return ". A symbolic link leads back to itself";
    default: return "";
  }
}

}  // namespace

std::string ErrnoText(int error_number) {
  const char* name = ::strerrorname_np(error_number);
  const char* text = ::strerrordesc_np(error_number);
  if (name == nullptr || text == nullptr) return absl::StrCat("error ", error_number);
  return absl::StrCat(text, " (", name, ", ", error_number, ")");
}

absl::StatusCode ErrnoToCode(int error_number) {
  switch (error_number) {
    case EIO:
    case EBADMSG:
    case EUCLEAN: return absl::StatusCode::kDataLoss;
    case EMFILE:
    case ENFILE:
    case ENOMEM: return absl::StatusCode::kResourceExhausted;
    default: return absl::ErrnoToStatusCode(error_number);
  }
}

absl::Status IoError(int error_number, absl::string_view what) {
  return absl::Status(ErrnoToCode(error_number), absl::StrCat(what, ": ", ErrnoText(error_number), Cure(error_number)));
}

}  // namespace penstock
