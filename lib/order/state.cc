#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "nlohmann/json.hpp"
#include "penstock/order.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

constexpr std::array<const char*, 3> kTailNames = {"drop", "pad", "partial"};
constexpr const char* kDiskBlocks = "disk-blocks";
// Ours is below 1 KiB. There is room for indentation, and none for text that is something else.
constexpr size_t kTextBytesMax = 8192;

// The canonical text, which the checksum is taken over: sorted keys, no white space. Never throws: bytes that are not UTF-8 are replaced.
std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string ChecksumText(const Json& json) {
  const std::string text = Dump(json);
  return absl::StrCat(absl::Hex(Crc32c(text.data(), text.size()), absl::kZeroPad8));
}

absl::Status NotAState(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("not a penstock state: ", what, ". Give the text that Loader::state() returned, unchanged"));
}

absl::Status GetInteger(const Json& json, const char* name, int64_t min, int64_t max, int64_t& value) {
  const Json& field = json[name];
  // Numbers without a sign are unsigned here, so a negative one is seen by its type.
  const uint64_t number = field.is_number_unsigned() ? field.get<uint64_t>() : UINT64_MAX;
  if (number < static_cast<uint64_t>(min) || number > static_cast<uint64_t>(max)) {
    return NotAState(absl::StrCat("\"", name, "\" is ", EscapeName(Dump(field)), ", and must be an integer from ", min, " to ", max));
  }
  value = static_cast<int64_t>(number);
  return absl::OkStatus();
}

absl::Status GetText(const Json& json, const char* name, std::string& value) {
  const Json& field = json[name];
  if (!field.is_string()) return NotAState(absl::StrCat("\"", name, "\" is ", EscapeName(Dump(field)), ", and must be a text"));
  value = field.get<std::string>();
  return absl::OkStatus();
}

bool IsHex(absl::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

Json ToFields(const State& state) {
  return {{"format_version", static_cast<uint64_t>(std::max(state.format_version, state.disk_blocks ? 2 : 1))},
          {"order_version", static_cast<uint64_t>(state.order_version)},
          {"fingerprint", state.fingerprint},
          {"seed", state.seed},
          {"epoch", static_cast<uint64_t>(state.epoch)},
          {"position", static_cast<uint64_t>(state.position)},
          {"block_samples", static_cast<uint64_t>(state.block_samples)},
          {"window_samples", static_cast<uint64_t>(state.window_samples)},
          {"virtual_streams", static_cast<uint64_t>(state.virtual_streams)},
          {"tail", kTailNames[static_cast<size_t>(state.tail)]},
          {"mixture", state.mixture},
          {"ids_hash", state.ids_hash},
          {"shuffle", state.disk_blocks ? Json(kDiskBlocks) : Json(state.shuffle)}};
}

absl::Status FromFields(const Json& json, State& state) {
  int64_t version = 0;
  if (absl::Status status = GetInteger(json, "order_version", 1, INT32_MAX, version); !status.ok()) return status;
  if (version > kOrderVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state was written with order version ", version, ", and this penstock knows versions up to ", kOrderVersion,
                     ": it cannot give the same samples; go on with the penstock that wrote it, or a newer one"));
  }
  state.order_version = static_cast<int>(version);
  struct IntegerField {
    const char* name;
    int64_t min;
    int64_t max;
    int64_t* value;
  };
  for (const IntegerField& field : {IntegerField{"epoch", 0, kEpochMax - 1, &state.epoch},
                                    IntegerField{"position", 0, kOrderMax - 1, &state.position},
                                    IntegerField{"block_samples", 1, kOrderMax, &state.block_samples},
                                    IntegerField{"window_samples", 1, kOrderMax, &state.window_samples},
                                    IntegerField{"virtual_streams", 1, kOrderMax, &state.virtual_streams}}) {
    if (absl::Status status = GetInteger(json, field.name, field.min, field.max, *field.value); !status.ok()) return status;
  }
  if (state.window_samples % state.block_samples != 0) return NotAState("\"window_samples\" is not a multiple of \"block_samples\"");
  if (!json["seed"].is_number_unsigned()) return NotAState("\"seed\" must be an integer from 0 to 2^64-1");
  state.seed = json["seed"].get<uint64_t>();
  const Json& shuffle = json["shuffle"];
  state.disk_blocks = state.format_version >= 2 && shuffle.is_string() && shuffle.get<std::string>() == kDiskBlocks;
  if (!state.disk_blocks && !shuffle.is_boolean()) {
    return NotAState("\"shuffle\" must be true, false or, from format 2 on, \"disk-blocks\"");
  }
  state.shuffle = state.disk_blocks || shuffle.get<bool>();

  std::string tail;
  struct TextField {
    const char* name;
    std::string* value;
  };
  for (const TextField& field : {TextField{"fingerprint", &state.fingerprint}, TextField{"tail", &tail},
                                 TextField{"mixture", &state.mixture}, TextField{"ids_hash", &state.ids_hash}}) {
    if (absl::Status status = GetText(json, field.name, *field.value); !status.ok()) return status;
  }
  if (!IsHex(state.fingerprint, 32)) return NotAState("\"fingerprint\" must be 32 hexadecimal digits");
  if (!state.ids_hash.empty() && !IsHex(state.ids_hash, 16)) return NotAState("\"ids_hash\" must be 16 hexadecimal digits, or empty");
  if (!state.mixture.empty() && !Json::accept(state.mixture)) return NotAState("\"mixture\" must be JSON text, or empty");
  size_t index = 0;
  while (index < kTailNames.size() && tail != kTailNames[index]) ++index;
  if (index == kTailNames.size()) return NotAState("\"tail\" must be drop, pad or partial");
  state.tail = static_cast<Tail>(index);
  return absl::OkStatus();
}

}  // namespace

std::string State::ToJson() const {
  Json json = ToFields(*this);
  json["crc32c"] = ChecksumText(json);
  return Dump(json);
}

absl::StatusOr<State> State::FromJson(absl::string_view text) {
  if (text.size() > kTextBytesMax) return NotAState(absl::StrCat("it has ", text.size(), " bytes, and a state less than 1024"));
  // The parser takes a zero byte for the end, whatever follows.
  if (text.find('\0') != absl::string_view::npos) return NotAState("it has a zero byte in it");
  // JSON parsers keep the last of two equal keys: which of them was meant is unknown, so that is refused.
  std::set<std::string> keys;
  bool twice = false;
  const auto see = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) twice = !keys.insert(parsed.get<std::string>()).second || twice;
    return true;
  };
  Json json = Json::parse(text.begin(), text.end(), see, /*allow_exceptions=*/false);
  if (json.is_discarded()) return NotAState("it is not JSON");
  if (!json.is_object()) return NotAState("it is not a JSON object");
  if (twice) return NotAState("a field comes twice");

  // First of all, since a newer format may have other fields and another checksum.
  int64_t version = 0;
  if (!json.contains("format_version")) return NotAState("\"format_version\" is missing");
  if (absl::Status status = GetInteger(json, "format_version", 1, INT32_MAX, version); !status.ok()) return status;
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the state has format ", version, ", and this penstock reads formats up to ",
                                                      kFormatVersion, ": go on with the penstock that wrote it, or a newer one"));
  }

  Json expected = ToFields(State());
  expected["crc32c"] = "";
  for (const auto& field : expected.items()) {
    if (!json.contains(field.key())) return NotAState(absl::StrCat("\"", field.key(), "\" is missing"));
  }
  for (const auto& field : json.items()) {
    if (!expected.contains(field.key())) return NotAState(absl::StrCat("\"", EscapeName(field.key()), "\" is unknown"));
  }

  std::string checksum;
  if (absl::Status status = GetText(json, "crc32c", checksum); !status.ok()) return status;
  json.erase("crc32c");
  if (const std::string computed = ChecksumText(json); checksum != computed) {
    return absl::DataLossError(absl::StrCat("the state is damaged: its CRC-32C is ", computed, ", and it says \"", EscapeName(checksum),
                                            "\"; take an older checkpoint"));
  }
  State state;
  state.format_version = static_cast<int>(version);
  if (absl::Status status = FromFields(json, state); !status.ok()) return status;
  return state;
}

absl::Status State::Matches(absl::string_view manifest_fingerprint, const Order& order) const {
  if (mixture.empty() != (order.mixture() == nullptr)) {
    return absl::FailedPreconditionError(
        mixture.empty() ? "the state was made with a single data set, and this run reads a mixture: give that data set, or start without "
                          "the state"
                        : "the state was made with a mixture of data sets, and this run reads a single one: give the same mixture, or "
                          "start without the state");
  }
  if (fingerprint != manifest_fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state is of the data set with fingerprint ", fingerprint, ", and this one's is ", manifest_fingerprint,
                     ": names, sizes, labels or their number differ. Give the data set it was made with, or start without the state"));
  }
  if (ids_hash != order.ids_hash_text()) {
    const auto name = [](absl::string_view hash) { return hash.empty() ? std::string("no list") : absl::StrCat("the list ", hash); };
    return absl::FailedPreconditionError(absl::StrCat("the state was made with ", name(ids_hash), " of ids, and this run has ",
                                                      name(order.ids_hash_text()), ": give the same ids, in the same order"));
  }
  if (position >= order.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state stands at position ", position, ", and an epoch has ", order.size(), " positions"));
  }
  return absl::OkStatus();
}

}  // namespace penstock
