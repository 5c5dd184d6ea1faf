#include "base/io_error.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

absl::string_view SampleCure(int error_number) {
  switch (error_number) {
    case EACCES: return ". Give this user read permission on the file and search permission on its folders";
    case ENOENT: return ". It was there when the data set was indexed; restore it, or index again (penstock index --update)";
    case ENOTDIR: return ". A folder of its path is none any more; restore it, or index again (penstock index --update)";
    case ESTALE: return ". The file server replaced or removed it; index again (penstock index --update)";
    case EISDIR: return ". A folder has taken the file's place; restore it, or index again (penstock index --update)";
    case ENXIO: return ". It is a socket or a device without a driver now, and no file; restore it, or index again (penstock index --update)";
    case ESPIPE: return ". It is a FIFO, a socket or a device now, and no file; restore it, or index again (penstock index --update)";
    default: return "";
  }
}

absl::string_view WriteCure(int error_number) {
  switch (error_number) {
    case EACCES:
    case EPERM: return ". Give this user write permission on the folder, or name another place";
    case EROFS: return ". That file system is read-only: name another place";
    case ENOENT: return ". Make the folder that it lies in, or name another place";
    case ENOTDIR: return ". A part of its path is no folder: name another place";
    case EISDIR: return ". A folder has that name: name another place";
    case EDQUOT: return ". The quota of this user there is used up: free space, or name another place";
    case EFBIG: return ". Raise RLIMIT_FSIZE (ulimit -f), or name a place on another file system";
    default: return "";
  }
}

absl::string_view Cure(int error_number, IoOperation operation) {
  switch (error_number) {
    case EMFILE: return ". This process has no file descriptor left: raise RLIMIT_NOFILE (ulimit -n)";
    case ENFILE: return ". The system has no file left: raise fs.file-max";
    case ENOSPC: return ". Free space on that file system, or choose another place";
    case EIO: return ". The device or its file system failed; its kernel log (dmesg) says more";
    case ENOSYS:
      return ". The kernel, or a seccomp profile that is older than the call (statx: Linux 4.11), does not know it: allow it in the profile, "
             "or use a newer container runtime";
    case ELOOP: return ". A symbolic link leads back to itself";
    default: break;
  }
  switch (operation) {
    case IoOperation::kSample: return SampleCure(error_number);
    case IoOperation::kWrite: return WriteCure(error_number);
    case IoOperation::kOther: break;
  }
  return error_number == EACCES ? ". Give this user the permission for it, on the folders of its path too" : "";
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
    case EFBIG:
    case ENOMEM: return absl::StatusCode::kResourceExhausted;
    case EBUSY:
    case ETXTBSY: return absl::StatusCode::kUnavailable;
    case ENOTDIR: return absl::StatusCode::kNotFound;
    case EROFS: return absl::StatusCode::kPermissionDenied;
    default: break;
  }
  // What Abseil gives to a code by which the loader says something of its own.
  const absl::StatusCode code = absl::ErrnoToStatusCode(error_number);
  switch (code) {
    case absl::StatusCode::kOutOfRange: return absl::StatusCode::kDataLoss;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded: return absl::StatusCode::kUnavailable;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOk: return absl::StatusCode::kUnknown;
    default: return code;
  }
}

absl::Status IoError(int error_number, absl::string_view what, IoOperation operation) {
  return absl::Status(ErrnoToCode(error_number), absl::StrCat(what, ": ", ErrnoText(error_number), Cure(error_number, operation)));
}

}  // namespace penstock
