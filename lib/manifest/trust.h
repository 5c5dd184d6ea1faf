// Whose manifests and leases are believed.
#ifndef PENSTOCK_MANIFEST_TRUST_H_
#define PENSTOCK_MANIFEST_TRUST_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

namespace penstock {

// A manifest decides which files are read as samples, with the rights of the process. So its file belongs to this user, to root, or to the
// owner of the data set, and nobody else may write it. The data set's owner is no danger beyond the data set itself: its links and lists
// name any file as well. The folder of the file is not asked: what another user puts there belongs to that user.
struct Trust {
  // No owner beside this user and root.
  Trust() = default;
  // `root`: the data set's folder. `list`: its list file, or empty; who may write there can name files as well.
  static Trust OfDataSet(const std::string& root, const std::string& list);

  bool has_owner = false;
  uid_t owner = 0;

  // Why the file behind `info` is not believed; empty where it is.
  std::string WhyNot(const struct stat& info) const;
  // As above, of its owner only.
  std::string WhyNotOwner(const struct stat& info) const;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_TRUST_H_
