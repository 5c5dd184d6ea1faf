// Reads every file of a data set once for its CRC-32C.
#ifndef PENSTOCK_MANIFEST_CHECKSUMS_H_
#define PENSTOCK_MANIFEST_CHECKSUMS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "manifest/manifest_data.h"

namespace penstock {

// One checksum per range of the manifest, in their order. `known(object, crc)` returns true where it knows that of an object's only range
// already; it is called from several threads, and not where samples are records or an object has several ranges.
//
// Errors: FailedPrecondition  a file's length is not what the scan found: it changed meanwhile.
//         those of open(2) and read(2), with the file's name.
absl::StatusOr<std::vector<uint32_t>> ComputeChecksums(const ManifestData& data, int threads,
                                                       const std::function<bool(uint32_t, uint32_t&)>& known,
                                                       const std::function<void(const IndexProgress&)>& progress);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_CHECKSUMS_H_
