// From stored to delivered bytes: nothing, a comparison with the manifest's CRC-32C, a user's function, or both of these.
#ifndef PENSTOCK_CODEC_CODEC_H_
#define PENSTOCK_CODEC_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/codec.h"

namespace penstock {

// One stored range of a sample as the manifest has it.
struct RangeCrc {
  uint64_t stored_bytes = 0;
  bool known = false;  // whether the manifest has a checksum for it
  uint32_t crc32c = 0;
};

// What a codec may want to know of a sample. Its stored bytes are its ranges one behind the other.
struct SampleContext {
  int64_t id = 0;
  absl::string_view name;  // for messages; verbatim
  absl::Span<const RangeCrc> ranges;  // only read when checksums are verified
};

// Stateless and thread-safe: one for all compute threads.
class Codec {
 public:
  virtual ~Codec() = default;

  // Nothing is done at all: Decode need not be called, stored bytes may be read straight into their place.
  virtual bool identity() const = 0;
  // Decode only looks: stored bytes are read straight into their place, and Decode is called with that place as both spans.
  virtual bool in_place() const = 0;
  // Most bytes that Decode delivers for a sample with these sizes in the manifest. The plan reserves that much.
  virtual uint64_t DeliveredBound(uint64_t stored_bytes, uint64_t manifest_delivered_bytes) const = 0;
  // Writes `delivered` (of at least DeliveredBound bytes, unless in place) and returns how many bytes it wrote.
  //
  // Errors: DataLoss            the bytes are damaged: checksum, or the user's function says so. Names the sample.
  //         FailedPrecondition  more bytes than fit, or a checksum is wanted and the manifest has none. Names the cure.
  //         Internal            the user's function broke its contract.
  virtual absl::StatusOr<uint64_t> Decode(const SampleContext& sample, absl::Span<const std::byte> stored,
                                          absl::Span<std::byte> delivered) const = 0;
};

// The codec that the options ask for.
//
// Errors: InvalidArgument  sizes without a function, or that make no sense.
absl::StatusOr<std::shared_ptr<const Codec>> MakeCodec(const CodecOptions& options);

// OK if the stored bytes have the checksums of their ranges; see Codec::Decode.
absl::Status VerifyCrc(const SampleContext& sample, absl::Span<const std::byte> stored);

}  // namespace penstock

#endif  // PENSTOCK_CODEC_CODEC_H_
