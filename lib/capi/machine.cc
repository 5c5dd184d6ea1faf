// This machine, this process's rank, and the log.
#include <cstdlib>
#include <string>

#include "capi/json.h"
#include "capi/objects.h"
#include "penstock/c.h"
#include "penstock/log.h"

using namespace penstock;
using namespace penstock::capi;

penstock_code penstock_set_log(penstock_log_function function, void* user, penstock_error** error) {
  return Call(error, [&] {
    if (function == nullptr) {
      SetLogSink(nullptr);
    } else {
      SetLogSink([function, user](LogLevel level, absl::string_view message) {
        function(user, static_cast<int32_t>(level), std::string(message).c_str());
      });
    }
    return absl::OkStatus();
  });
}

penstock_code penstock_topology_json(char** json, penstock_error** error) {
  if (json != nullptr) *json = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (json == nullptr) return Missing(function, "json");
    const absl::StatusOr<Topology> topology = ReadTopology();
    return topology.ok() ? GiveText(ToJson(*topology), json) : topology.status();
  });
}

penstock_code penstock_doctor_json(const char* root, char** json, penstock_error** error) {
  if (json != nullptr) *json = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (json == nullptr) return Missing(function, "json");
    return GiveText(ToJson(Examine(root == nullptr ? "" : root)), json);
  });
}

penstock_code penstock_rank_json(int32_t rank, int32_t world_size, const char* source, char** json, penstock_error** error) {
  if (json != nullptr) *json = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (json == nullptr) return Missing(function, "json");
    const absl::StatusOr<RankInfo> found =
        DiscoverRank(rank, world_size, [](const char* name) -> const char* { return std::getenv(name); },
                     source == nullptr ? "" : source);
    return found.ok() ? GiveText(ToJson(*found), json) : found.status();
  });
}
