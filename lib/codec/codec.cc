#include "codec/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/crc32c.h"

namespace penstock {
namespace {

constexpr size_t kMessageBytes = 512;
// No place is larger: offsets are int64.
constexpr uint64_t kBoundMax = uint64_t{1} << 62;

std::string SampleText(const SampleContext& sample) { return absl::StrCat("sample ", sample.id, " (", EscapeName(sample.name), ")"); }

absl::Status NoCrc(absl::string_view where) {
  return absl::FailedPreconditionError(absl::StrCat(where, ": verify_crc is set, but the manifest has no CRC-32C for it: index the data "
                                                           "set again with checksums, or switch verify_crc off"));
}

// Stored bytes as they are; where the spans are the same memory nothing is left to do.
absl::StatusOr<uint64_t> CopyThrough(const SampleContext& sample, absl::Span<const std::byte> stored, absl::Span<std::byte> delivered) {
  if (delivered.size() < stored.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(SampleText(sample), ": ", stored.size(), " bytes do not fit into its place of ", delivered.size(), " bytes"));
  }
  if (!stored.empty() && stored.data() != delivered.data()) std::memcpy(delivered.data(), stored.data(), stored.size());
  return stored.size();
}

class IdentityCodec final : public Codec {
 public:
  bool identity() const override { return true; }
  bool in_place() const override { return true; }
  uint64_t DeliveredBound(uint64_t stored_bytes, uint64_t) const override { return stored_bytes; }
  absl::StatusOr<uint64_t> Decode(const SampleContext& sample, absl::Span<const std::byte> stored,
                                  absl::Span<std::byte> delivered) const override {
    return CopyThrough(sample, stored, delivered);
  }
};

class CrcVerifyCodec final : public Codec {
 public:
  bool identity() const override { return false; }
  bool in_place() const override { return true; }
  uint64_t DeliveredBound(uint64_t stored_bytes, uint64_t) const override { return stored_bytes; }
  absl::StatusOr<uint64_t> Decode(const SampleContext& sample, absl::Span<const std::byte> stored,
                                  absl::Span<std::byte> delivered) const override {
    absl::Status status = VerifyCrc(sample, stored);
    if (!status.ok()) return status;
    return CopyThrough(sample, stored, delivered);
  }
};

class UserFunctionCodec final : public Codec {
 public:
  explicit UserFunctionCodec(const CodecOptions& options) : options_(options) {}

  bool identity() const override { return false; }
  bool in_place() const override { return false; }

  uint64_t DeliveredBound(uint64_t stored_bytes, uint64_t manifest_delivered_bytes) const override {
    uint64_t bound = kBoundMax;
    if (options_.delivered_bytes_max_per_sample > 0) bound = static_cast<uint64_t>(options_.delivered_bytes_max_per_sample);
    if (options_.expansion_max > 0) {
      const double expanded = std::ceil(static_cast<double>(stored_bytes) * options_.expansion_max);
      if (expanded < static_cast<double>(kBoundMax)) bound = std::min(bound, static_cast<uint64_t>(expanded));
    }
    const bool is_set = options_.delivered_bytes_max_per_sample > 0 || options_.expansion_max > 0;
    return is_set ? bound : manifest_delivered_bytes;
  }

  absl::StatusOr<uint64_t> Decode(const SampleContext& sample, absl::Span<const std::byte> stored,
                                  absl::Span<std::byte> delivered) const override {
    if (options_.verify_crc) {
      absl::Status status = VerifyCrc(sample, stored);
      if (!status.ok()) return status;
    }
    char message[kMessageBytes] = {};
    size_t delivered_bytes = 0;
    int result = 0;
    std::string thrown;
    bool has_thrown = true;
    try {
      result = options_.function(options_.user, sample.id, stored.data(), stored.size(), delivered.data(), delivered.size(),
                                 &delivered_bytes, message, sizeof(message));
      has_thrown = false;
    } catch (const std::exception& exception) {
      thrown = exception.what();
    } catch (...) {
      thrown = "something that is no std::exception";
    }
    if (has_thrown) {
      return absl::DataLossError(absl::StrCat(SampleText(sample), ": the user's codec function threw: ", EscapeName(thrown)));
    }
    message[sizeof(message) - 1] = '\0';
    const std::string message_text = message[0] == '\0' ? "" : absl::StrCat(": ", EscapeName(message));
    if (delivered_bytes > delivered.size()) {
      const std::string text =
          absl::StrCat(SampleText(sample), ": the user's codec function ", result == 0 ? "says that it wrote " : "needs ", delivered_bytes,
                       " bytes where it was given ", delivered.size(), " (", stored.size(), " stored)", message_text);
      // Saying that it wrote past its place, it may have damaged its neighbours; asking for more is what the contract has for this.
      if (result == 0) return absl::InternalError(absl::StrCat(text, ". It must never write more than delivered_capacity"));
      return absl::FailedPreconditionError(absl::StrCat(text, ". Raise CodecOptions::delivered_bytes_max_per_sample or expansion_max"));
    }
    if (result != 0) {
      return absl::DataLossError(absl::StrCat(SampleText(sample), ": the user's codec function returned ", result, " for ", stored.size(),
                                              " stored bytes", message_text));
    }
    return delivered_bytes;
  }

 private:
  const CodecOptions options_;
};

}  // namespace

absl::Status VerifyCrc(const SampleContext& sample, absl::Span<const std::byte> stored) {
  uint64_t offset_bytes = 0;
  for (size_t range_index = 0; range_index < sample.ranges.size(); ++range_index) {
    const RangeCrc& range = sample.ranges[range_index];
    const auto where = [&] {
      return sample.ranges.size() == 1 ? SampleText(sample)
                                       : absl::StrCat(SampleText(sample), ", range ", range_index, " of ", sample.ranges.size());
    };
    if (!range.known) return NoCrc(where());
    if (range.stored_bytes > stored.size() - offset_bytes) {
      return absl::DataLossError(absl::StrCat(where(), ": the manifest has ", range.stored_bytes, " bytes at ",
                                              offset_bytes, ", but the sample has only ", stored.size()));
    }
    const uint32_t found = Crc32c(stored.data() + offset_bytes, range.stored_bytes);
    if (found != range.crc32c) {
      return absl::DataLossError(absl::StrFormat("%s: its %d stored bytes have CRC-32C %08x, the manifest has %08x: the data changed since "
                                                 "it was indexed, or was damaged",
                                                 where(), range.stored_bytes, found, range.crc32c));
    }
    offset_bytes += range.stored_bytes;
  }
  if (offset_bytes == stored.size()) return absl::OkStatus();
  if (sample.ranges.empty()) return NoCrc(SampleText(sample));
  return absl::DataLossError(
      absl::StrCat(SampleText(sample), ": it has ", stored.size(), " stored bytes, its checksums cover ", offset_bytes));
}

absl::StatusOr<std::shared_ptr<const Codec>> MakeCodec(const CodecOptions& options) {
  if (options.delivered_bytes_max_per_sample < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("CodecOptions::delivered_bytes_max_per_sample is ", options.delivered_bytes_max_per_sample, "; 0 means not set"));
  }
  if (!(options.expansion_max >= 0) || std::isinf(options.expansion_max)) {
    return absl::InvalidArgumentError(
        absl::StrCat("CodecOptions::expansion_max is ", options.expansion_max,
                     "; it is a number of delivered bytes per stored byte, 0 means not set"));
  }
  if (options.function == nullptr && (options.delivered_bytes_max_per_sample > 0 || options.expansion_max > 0)) {
    return absl::InvalidArgumentError("CodecOptions has a bound for delivered bytes, but no function that could deliver them");
  }
  if (options.function != nullptr) return std::make_shared<const UserFunctionCodec>(options);
  if (options.verify_crc) return std::make_shared<const CrcVerifyCodec>();
  return std::make_shared<const IdentityCodec>();
}

}  // namespace penstock
