// The header of a NumPy file: how many samples it holds, how many bytes each has, and where the first begins.
#ifndef PENSTOCK_MANIFEST_NPY_H_
#define PENSTOCK_MANIFEST_NPY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace penstock {

// What a file's array is to its data set.
enum class NpyUse {
  kShard,   // samples along the first axis
  kSample,  // one sample
};

struct NpyHeader {
  uint64_t header_bytes = 0;  // the array begins here
  uint64_t sample_count = 0;  // the first axis; 1 where the array is one sample
  uint64_t record_bytes = 0;  // of one sample: all other axes, or all axes
  uint64_t item_bytes = 0;    // of one number
  char kind = 'V';            // of the numbers, as NumPy has it: b, i, u, f, c, S, U, M, m, V (a structure)
  bool big_endian = false;
  std::string descr;          // as the header has it: equal where numbers are alike
  std::string dtype;          // the same without quotes, where it is no structure: <f4
  std::string inner_shape;    // of one sample
  std::vector<int64_t> shape;  // the same
};

// What the longest header may have. NumPy itself refuses more than 10,000 bytes unless told otherwise; structures of many fields need more.
inline constexpr uint64_t kNpyHeaderBytesMax = uint64_t{1} << 20;

// True where `begin`, the file's first bytes, are those of a .npy file.
bool IsNpy(absl::string_view begin);

// The bytes of prelude and header that the file claims, so that a caller knows how much to read. `begin` has at least 12 bytes, or all of
// the file. `shown` names the file in messages.
//
// Errors: InvalidArgument  no .npy file, a version that is not 1 to 3, or a header longer than kNpyHeaderBytesMax.
absl::StatusOr<uint64_t> NpyHeaderBytes(absl::string_view begin, const std::string& shown);

// Takes apart a whole header (NpyHeaderBytes() bytes) of a file of `file_bytes`.
//
// Errors: InvalidArgument  malformed; Fortran order, object or other dtypes without a fixed size; too large; more bytes than the array
//                          needs. Of a shard also: no axis; records of 0 bytes.
//         NotFound         a shard of 0 samples.
//         DataLoss         the file is shorter than its header says.
// Source: numpy/lib/format.py, "Format Version 1.0" to "3.0"; the grammar of the header is that of a Python literal.
absl::StatusOr<NpyHeader> ParseNpy(absl::string_view header, uint64_t file_bytes, const std::string& shown, NpyUse use = NpyUse::kShard);

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_NPY_H_
