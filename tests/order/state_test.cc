#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/crc32c.h"
#include "nlohmann/json.hpp"
#include "penstock/mixture.h"
#include "penstock/order.h"
#include "support/status.h"

using nlohmann::json;
using penstock::Order;
using penstock::State;
using penstock::Tail;

namespace {

State Example() {
  State state;
  state.fingerprint = "00112233445566778899aabbccddeeff";
  state.seed = 18446744073709551615u;
  state.epoch = 41;
  state.position = 524'288;
  state.block_samples = 8;
  state.window_samples = 4096;
  state.virtual_streams = 512;
  state.tail = Tail::kPad;
  state.mixture = R"({"p0":0,"n":[1,2]})";
  state.ids_hash = "0123456789abcdef";
  state.shuffle = false;
  return state;
}

// The text with a checksum that fits, as a program would write it that makes a mistake in a field.
std::string Sealed(json fields) {
  fields.erase("crc32c");
  const std::string text = fields.dump();
  fields["crc32c"] = absl::StrCat(absl::Hex(penstock::Crc32c(text.data(), text.size()), absl::kZeroPad8));
  return fields.dump();
}

absl::StatusCode CodeOf(const std::string& text) { return State::FromJson(text).status().code(); }

}  // namespace

TEST_CASE("a state comes back from its text as it was", "[order]") {
  for (const Tail tail : {Tail::kDrop, Tail::kPad, Tail::kPartial}) {
    for (const bool plain : {false, true}) {
      State state = Example();
      state.tail = tail;
      if (plain) {
        state = State();
        state.fingerprint = std::string(32, '0');
        state.tail = tail;
      }
      const auto back = State::FromJson(state.ToJson());
      REQUIRE_OK(back);
      CHECK(*back == state);
      CHECK(back->ToJson() == state.ToJson());
    }
  }
}

TEST_CASE("a state is below 1 KiB with everything at its longest", "[order]") {
  State state = Example();
  state.epoch = penstock::kEpochMax - 1;
  state.position = penstock::kOrderMax - 1;
  state.block_samples = state.window_samples = state.virtual_streams = penstock::kOrderMax;
  state.tail = Tail::kPartial;
  state.mixture = "[";
  for (int i = 0; i < 82; ++i) absl::StrAppend(&state.mixture, i == 0 ? "" : ",", "\"\"");  // each quote is escaped
  state.mixture += "]";
  REQUIRE(state.mixture.size() >= 240);
  const std::string text = state.ToJson();
  CHECK(text.size() < 1024);
  REQUIRE_OK(State::FromJson(text));
}

// Written by the first release. It must be readable for ever, and mean the same.
TEST_CASE("the text of format 1 does not change", "[order]") {
  const std::string text =
      R"({"block_samples":8,"crc32c":"40b0a909","epoch":41,"fingerprint":"00112233445566778899aabbccddeeff","format_version":1,"i)"
      R"(ds_hash":"0123456789abcdef","mixture":"{\"p0\":0,\"n\":[1,2]}","order_version":1,"position":524288,"seed":18446744073709)"
      R"(551615,"shuffle":false,"tail":"pad","virtual_streams":512,"window_samples":4096})";
  const auto state = State::FromJson(text);
  REQUIRE_OK(state);
  CHECK(*state == Example());
  CHECK(Example().ToJson() == text);
}

TEST_CASE("a state that was indented or reordered on its way is still good", "[order]") {
  const json fields = json::parse(Example().ToJson());
  const auto indented = State::FromJson(fields.dump(4));
  REQUIRE_OK(indented);
  CHECK(*indented == Example());
  nlohmann::ordered_json reversed;
  for (auto it = fields.rbegin(); it != fields.rend(); ++it) reversed[it.key()] = *it;
  CHECK(reversed.dump() != Example().ToJson());
  const auto reordered = State::FromJson(reversed.dump());
  REQUIRE_OK(reordered);
  CHECK(*reordered == Example());
}

TEST_CASE("every change of a single byte is refused", "[order]") {
  const std::string text = Example().ToJson();
  for (size_t at = 0; at < text.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = text;
      changed[at] = static_cast<char>(value);
      if (changed == text || !State::FromJson(changed).ok()) continue;
      FAIL("byte " << at << " set to " << value << " is accepted: " << changed);
    }
  }
}

TEST_CASE("a state that was cut off or has something behind it is refused", "[order]") {
  const std::string text = Example().ToJson();
  for (size_t length = 0; length < text.size(); ++length) REQUIRE(CodeOf(text.substr(0, length)) == absl::StatusCode::kInvalidArgument);
  CHECK(CodeOf(text + "}") == absl::StatusCode::kInvalidArgument);
  CHECK(CodeOf(text + text) == absl::StatusCode::kInvalidArgument);
  CHECK(CodeOf(text + std::string(1, '\0')) == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("a damaged state names its checksum", "[order]") {
  const std::string damaged = absl::StrReplaceAll(Example().ToJson(), {{"\"epoch\":41", "\"epoch\":42"}});
  const absl::Status status = State::FromJson(damaged).status();
  CHECK(status.code() == absl::StatusCode::kDataLoss);
  CHECK(status.message().find("CRC-32C") != absl::string_view::npos);
}

TEST_CASE("a state of a newer format or order is refused with the reason", "[order]") {
  json fields = json::parse(Example().ToJson());
  fields["format_version"] = 3;
  fields["something_new"] = 1;
  for (const std::string& text : {fields.dump(), Sealed(fields)}) {
    const absl::Status status = State::FromJson(text).status();
    CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
    CHECK(status.message().find("format 3") != absl::string_view::npos);
  }
  fields = json::parse(Example().ToJson());
  fields["order_version"] = 2;
  const absl::Status status = State::FromJson(Sealed(fields)).status();
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(status.message().find("order version 2") != absl::string_view::npos);
}

TEST_CASE("disk-blocks is format 2, and every other state stays readable by a penstock that knows only format 1", "[order]") {
  State state = Example();
  CHECK(json::parse(state.ToJson())["format_version"] == 1);
  CHECK(State::FromJson(state.ToJson())->format_version == 1);
  state.shuffle = state.disk_blocks = true;
  state.format_version = 2;
  const json fields = json::parse(state.ToJson());
  CHECK(fields["format_version"] == 2);
  CHECK(fields["shuffle"] == "disk-blocks");
  const auto back = State::FromJson(state.ToJson());
  REQUIRE_OK(back);
  CHECK(*back == state);
  // The word means nothing in format 1, and other words mean nothing at all.
  for (const auto& [version, word] : {std::pair<int, const char*>{1, "disk-blocks"}, {2, "disk"}, {2, ""}}) {
    json bad = fields;
    bad["format_version"] = version;
    bad["shuffle"] = word;
    CHECK(CodeOf(Sealed(bad)) == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a missing or unknown or repeated field is refused by name", "[order]") {
  const json fields = json::parse(Example().ToJson());
  REQUIRE(State::FromJson(Sealed(fields)).ok());
  for (const auto& field : fields.items()) {
    json without = fields;
    without.erase(field.key());
    const std::string text = field.key() == "crc32c" ? without.dump() : Sealed(without);
    const absl::Status status = State::FromJson(text).status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(status.message().find(field.key()) != absl::string_view::npos);
  }
  json more = fields;
  more["comment"] = "mine";
  CHECK(State::FromJson(Sealed(more)).status().message().find("\"comment\" is unknown") != absl::string_view::npos);
  const std::string twice = absl::StrReplaceAll(fields.dump(), {{"\"epoch\":41", "\"epoch\":40,\"epoch\":41"}});
  CHECK(State::FromJson(twice).status().message().find("twice") != absl::string_view::npos);
}

TEST_CASE("a field of the wrong type or out of range is refused by name", "[order]") {
  const json good = json::parse(Example().ToJson());
  const std::vector<std::pair<const char*, json>> cases = {
      {"format_version", 0},           {"format_version", "1"},     {"format_version", 1.0},
      {"order_version", 0},            {"order_version", -1},       {"seed", -1},
      {"seed", 1e30},                  {"seed", "7"},               {"epoch", -1},
      {"epoch", INT64_MAX},            {"epoch", 0.5},              {"position", -1},
      {"position", penstock::kOrderMax}, {"position", nullptr},     {"block_samples", 0},
      {"window_samples", 0},           {"window_samples", 4097},    {"virtual_streams", 0},
      {"virtual_streams", UINT64_MAX}, {"tail", "Drop"},            {"tail", 0},
      {"fingerprint", ""},             {"fingerprint", std::string(32, 'G')}, {"fingerprint", json::array()},
      {"ids_hash", "12"},              {"mixture", "{"},            {"mixture", json::object()},
      {"shuffle", 1},                  {"shuffle", "true"}};
  for (const auto& [name, value] : cases) {
    json fields = good;
    fields[name] = value;
    INFO(name << " = " << value.dump());
    const absl::Status status = State::FromJson(Sealed(fields)).status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(status.message().find(name) != absl::string_view::npos);
  }
}

TEST_CASE("what is no state at all is refused without harm", "[order]") {
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("{}"), std::string("42"), std::string("checkpoint.json"),
        std::string("{\"format_version\":"), std::string(8000, '['), std::string(8000, '{'), std::string(1 << 20, ' '),
        std::string("\xff\xfe{}"), std::string("{\"format_version\":99999999999999999999999}")}) {
    INFO(text.substr(0, 40));
    CHECK(CodeOf(text) == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a mixture that is not UTF-8 makes a text and not an exception", "[order]") {
  State state = Example();
  state.mixture = "\xff\xfe";
  CHECK_NOTHROW(state.ToJson());
}

TEST_CASE("a state fits only the data set and the ids it was made with", "[order]") {
  State state = Example();
  state.ids_hash.clear();
  state.mixture.clear();
  const Order order = *Order::Create(1'000'000, {});
  REQUIRE_OK(state.Matches(state.fingerprint, order));
  CHECK(state.Matches(std::string(32, '1'), order).message().find("fingerprint") != absl::string_view::npos);
  CHECK(state.Matches(state.fingerprint, *Order::Create(524'288, {})).message().find("524288") != absl::string_view::npos);
  REQUIRE_OK(state.Matches(state.fingerprint, *Order::Create(524'289, {})));
  const Order listed = *Order::FromIds(std::vector<int64_t>(600'000, 3), 10);
  CHECK(state.Matches(state.fingerprint, listed).code() == absl::StatusCode::kFailedPrecondition);
  state.ids_hash = listed.ids_hash_text();
  REQUIRE_OK(state.Matches(state.fingerprint, listed));
  CHECK(state.Matches(state.fingerprint, order).message().find("ids") != absl::string_view::npos);
  state = Example();
  CHECK(state.Matches(state.fingerprint, order).message().find("mixture") != absl::string_view::npos);
}

TEST_CASE("a state of a mixture fits a mixture, and one of a single data set does not", "[order]") {
  const auto mixture = penstock::Mixture::Create({10, 20}, {1, 2}, {{}, 9, 50});
  REQUIRE_OK(mixture);
  const Order order = Order::FromMixture(*mixture);
  State state = Example();
  state.ids_hash.clear();
  state.position = 40;
  state.mixture = mixture->ToText();
  REQUIRE_OK(state.Matches(state.fingerprint, order));
  REQUIRE_OK(State::FromJson(state.ToJson()));
  CHECK(State::FromJson(state.ToJson())->mixture == mixture->ToText());
  state.mixture.clear();
  CHECK(state.Matches(state.fingerprint, order).message().find("single data set") != absl::string_view::npos);
}
