// The order in which the files of a data set lie on their drive.
#ifndef PENSTOCK_MANIFEST_PLACE_ORDER_H_
#define PENSTOCK_MANIFEST_PLACE_ORDER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "manifest/manifest_data.h"
#include "penstock/manifest.h"

namespace penstock {

// The samples of a tree or list, one file each, in the order of place: by inode number, which the scan brought along and which most file
// systems give out in the order of the data's place; or by the first extent's address (FIEMAP), which opens every file.
//
// Errors: ResourceExhausted   2^32 samples or more.
//         FailedPrecondition  the file system tells no extents, or no inodes.
//         those of opening a file.
absl::StatusOr<std::vector<uint32_t>> OrderByPlace(const ManifestData& data, PlaceOrder kind, int threads,
                                                   const std::function<void(const IndexProgress&)>& progress);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_PLACE_ORDER_H_
