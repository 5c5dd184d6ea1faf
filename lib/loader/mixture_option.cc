#include "loader/mixture_option.h"

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "nlohmann/json.hpp"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

std::string Shown(const Json& json) {
  constexpr size_t kShownMax = 60;
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return EscapeName(text.size() > kShownMax ? text.substr(0, kShownMax) + "..." : text);
}

absl::StatusOr<MixtureMember> ParseMember(const Json& json) {
  MixtureMember member;
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat("it is ", Shown(json), ", and not an object"));
  for (const auto& [key, value] : json.items()) {
    if (key == "weight") {
      if (!value.is_number()) return absl::InvalidArgumentError(absl::StrCat("its weight is ", Shown(value), ", and not a number"));
      member.weight = value.get<double>();
    } else if (key == "root" || key == "manifest_path") {
      if (!value.is_string()) return absl::InvalidArgumentError(absl::StrCat("its ", key, " is ", Shown(value), ", and not a text"));
      (key == "root" ? member.root : member.manifest_path) = value.get<std::string>();
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", EscapeName(key), "\" is none of root, weight, manifest_path"));
    }
  }
  if (member.root.empty()) return absl::InvalidArgumentError("its root is missing, or empty");
  return member;
}

}  // namespace

absl::StatusOr<std::vector<MixtureMember>> ParseMixture(absl::string_view text) {
  std::vector<MixtureMember> members;
  if (text.empty()) return members;
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) {
    return absl::InvalidArgumentError(R"(not a JSON array of data sets like [{"root": "a", "weight": 0.7}, {"root": "b", "weight": 0.3}])");
  }
  for (const Json& element : json) {
    absl::StatusOr<MixtureMember> member = ParseMember(element);
    if (!member.ok()) return absl::InvalidArgumentError(absl::StrCat("data set ", members.size(), ": ", member.status().message()));
    members.push_back(*std::move(member));
  }
  return members;
}

std::string FormatMixture(absl::Span<const MixtureMember> members) {
  if (members.empty()) return "";
  Json json = Json::array();
  for (const MixtureMember& member : members) {
    Json element = {{"root", member.root}, {"weight", member.weight}};
    if (!member.manifest_path.empty()) element["manifest_path"] = member.manifest_path;
    json.push_back(std::move(element));
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status CheckMixtureIsTheOrder(const LoaderOptions& options) {
  if (options.mixture.empty() || (options.ids.empty() && !options.disk_blocks)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "option mixture has an order of its own: it goes neither with a list of ids nor with shuffle=disk-blocks");
}

}  // namespace penstock
