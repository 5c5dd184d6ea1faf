// IndexOptions::classes as names in the order of their labels.
#ifndef PENSTOCK_MANIFEST_CLASS_LIST_H_
#define PENSTOCK_MANIFEST_CLASS_LIST_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "manifest/place.h"
#include "penstock/manifest.h"

namespace penstock {

inline constexpr char kNumericClasses[] = "numeric";

// The option with every "@PATH" replaced by the names behind it, a line each; "numeric" and nothing stay.
//
// Errors: InvalidArgument  a name twice, an empty one, one with a slash; a data set without classes.
//         NotFound         there is no such file, or no saved manifest of the data set.
absl::StatusOr<std::string> ResolveClasses(const std::string& text);

// The names of what ResolveClasses gave.
std::vector<std::string> ClassNames(const std::string& resolved);

// Warns where a data set beside this one, with a saved manifest, has one of its classes under another number.
void WarnOfOtherNumbers(const DataSet& data_set, const Manifest& manifest);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_CLASS_LIST_H_
