#include "manifest/trust.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace penstock {
namespace {

// Whether others than the owner may put files into the folder. In a sticky folder (/tmp) each file stays its owner's.
bool OthersMayWrite(const struct stat& folder) { return (folder.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (folder.st_mode & S_ISVTX) == 0; }

}  // namespace

Trust Trust::OfDataSet(const std::string& root, const std::string& list) {
  Trust trust;
  struct stat folder;
  struct stat file;
  if (::stat(root.c_str(), &folder) != 0) return trust;
  if (list.empty()) {
    trust.has_owner = true;
    trust.owner = folder.st_uid;
  } else if (!OthersMayWrite(folder) && ::lstat(list.c_str(), &file) == 0) {
    trust.has_owner = true;
    trust.owner = file.st_uid;
  }
  // What a file server or a user namespace gives to files of owners that it does not know: it can be anybody.
  constexpr uid_t kOverflow = 65534;
  if (trust.owner == kOverflow && ::geteuid() != kOverflow) trust.has_owner = false;
  return trust;
}

std::string Trust::WhyNotOwner(const struct stat& info) const {
  const uid_t user = ::geteuid();
  if (info.st_uid == user || info.st_uid == 0 || (has_owner && info.st_uid == owner)) return "";
  return absl::StrCat("belongs to user ", info.st_uid, ", not to ", user, ", to root or to the owner of the data set");
}

std::string Trust::WhyNot(const struct stat& info) const {
  std::string why = WhyNotOwner(info);
  if (why.empty() && (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    why = absl::StrFormat("may be written by others than its owner (mode %04o)", info.st_mode & 07777);
  }
  return why;
}

}  // namespace penstock
