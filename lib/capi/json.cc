#include "capi/json.h"

#include "nlohmann/json.hpp"

namespace penstock::capi {
namespace {

using Json = nlohmann::ordered_json;

// File names and kernel texts may hold any byte; JSON may not.
std::string Text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string ToJson(const EpochReport& report) {
  Json json = {{"epoch", report.epoch},
               {"expected", report.expected},
               {"taken", report.taken},
               {"delivered", report.delivered},
               {"substituted", report.substituted},
               {"skipped", report.skipped},
               {"passed", report.passed},
               {"dropped", report.dropped},
               {"padded", report.padded},
               {"batches", report.batches},
               {"bytes", report.bytes},
               {"member_samples", report.member_samples},
               {"wall_s", report.wall_s},
               {"wait_s", report.wait_s},
               {"first_batch_s", report.first_batch_s},
               {"stream_cpu_s", report.stream_cpu_s},
               {"next_p50_us", report.next_p50_us},
               {"next_p99_us", report.next_p99_us},
               {"open_s", report.open_s},
               {"transfer_s", report.transfer_s},
               {"idle_s", report.idle_s},
               {"codec_s", report.codec_s},
               {"copy_s", report.copy_s},
               {"read_latency_us", report.read_latency_us},
               {"open_latency_us", report.open_latency_us},
               {"latency_floor_us", report.latency_floor_us},
               {"bandwidth_mb_per_s", report.bandwidth_mb_per_s},
               {"reads", report.reads},
               {"read_bytes", report.read_bytes},
               {"reads_per_sample", report.reads_per_sample},
               {"read_bytes_per_byte", report.read_bytes_per_byte},
               {"label_distance", report.label_distance},
               {"label_distance_full_shuffle", report.label_distance_full_shuffle},
               {"warmed_samples", report.warmed_samples},
               {"warmed_bytes", report.warmed_bytes},
               {"requests", report.requests},
               {"kept_open", report.kept_open},
               {"memory_known", report.memory_known},
               {"from_memory", report.from_memory},
               {"retries", report.retries},
               {"late_reports", report.late_reports},
               {"queue_depth", report.queue_depth},
               {"io_workers", report.io_workers},
               {"queue_depth_why", report.queue_depth_why},
               {"io", report.io},
               {"io_why", report.io_why},
               {"verdict", report.verdict},
               {"bound", BoundName(report.bound)}};
  Json ledger = Json::array();
  for (const LedgerEntry& entry : report.ledger) {
    ledger.push_back({{"epoch", entry.epoch},
                      {"position", entry.position},
                      {"id", entry.id},
                      {"substitute", entry.substitute},
                      {"reason", entry.reason}});
  }
  json["ledger"] = std::move(ledger);
  return Text(json);
}

std::string ToJson(const SetupReport& setup) {
  Json members = Json::array();
  for (const MemberReport& member : setup.members) {
    members.push_back({{"root", member.root},
                       {"fingerprint", member.fingerprint},
                       {"samples", member.samples},
                       {"first_id", member.first_id},
                       {"period_samples", member.period_samples}});
  }
  return Text({{"rank", setup.rank},
               {"world_size", setup.world_size},
               {"local_rank", setup.local_rank},
               {"local_world_size", setup.local_world_size},
               {"rank_why", setup.rank_why},
               {"engine", setup.engine},
               {"engine_why", setup.engine_why},
               {"io", setup.io},
               {"io_why", setup.io_why},
               {"streams", setup.streams},
               {"streams_why", setup.streams_why},
               {"cpus_why", setup.cpus_why},
               {"queue_depth", setup.queue_depth},
               {"io_workers", setup.io_workers},
               {"queue_depth_why", setup.queue_depth_why},
               {"cpus", setup.cpus},
               {"numa_node", setup.numa_node},
               {"arena_bytes", setup.arena_bytes},
               {"memory_why", setup.memory_why},
               {"device", setup.device},
               {"device_bytes", setup.device_bytes},
               {"pages", setup.pages},
               {"binding", setup.binding},
               {"pinning", setup.pinning},
               {"batch_bytes_max", setup.batch_bytes_max},
               {"prefetch_batches", setup.prefetch_batches},
               {"open_files_max", setup.open_files_max},
               {"open_files", setup.open_files},
               {"open_files_why", setup.open_files_why},
               {"coalesce_gap_bytes", setup.coalesce_gap_bytes},
               {"coalesce_gap_why", setup.coalesce_gap_why},
               {"warm", setup.warm},
               {"quarantined_bytes", setup.quarantined_bytes},
               {"fingerprint", setup.fingerprint},
               {"members", members},
               {"mixture_period", setup.mixture_period},
               {"epoch_samples", setup.epoch_samples},
               {"warnings", setup.warnings}});
}

std::string ToJson(const Topology& topology) {
  Json nodes = Json::array();
  for (const NumaNode& node : topology.nodes) {
    nodes.push_back({{"id", node.id},
                     {"cpus", node.cpus},
                     {"has_memory", node.has_memory},
                     {"memory_bytes", node.memory_bytes},
                     {"distances", node.distances}});
  }
  Json gpus = Json::array();
  for (const GpuInfo& gpu : topology.gpus)
    gpus.push_back({{"pci_bus_id", gpu.pci_bus_id}, {"numa_node", gpu.numa_node}, {"near_cpus", gpu.near_cpus}});
  return Text({{"allowed_cpus", topology.allowed_cpus},
               {"cores", topology.cores},
               {"nodes", nodes},
               {"gpus", gpus},
               {"cpu_quota", topology.cpu_quota},
               {"text", topology.ToText()}});
}

std::string ToJson(const DoctorReport& report) {
  static constexpr const char* kLevels[] = {"good", "note", "problem"};
  Json findings = Json::array();
  for (const Finding& finding : report.findings) {
    findings.push_back({{"level", kLevels[static_cast<int>(finding.level)]},
                        {"subject", finding.subject},
                        {"seen", finding.seen},
                        {"advice", finding.advice}});
  }
  return Text({{"findings", findings}, {"topology", report.topology}});
}

std::string ToJson(const RankInfo& rank) {
  return Text({{"rank", rank.rank},
               {"world_size", rank.world_size},
               {"local_rank", rank.local_rank},
               {"local_world_size", rank.local_world_size},
               {"source", rank.source},
               {"text", rank.ToText()}});
}

std::string ToJson(const std::vector<FieldType>& types) {
  Json json = Json::array();
  for (const FieldType& type : types) {
    json.push_back({{"name", type.name}, {"dtype", type.dtype}, {"shape", type.has_shape ? Json(type.shape) : Json(nullptr)}});
  }
  return Text(json);
}

std::string ToJson(const IndexCounts& counts) {
  return Text({{"added", counts.added},
               {"removed", counts.removed},
               {"changed", counts.changed},
               {"hidden", counts.hidden},
               {"non_regular", counts.non_regular},
               {"broken_links", counts.broken_links},
               {"cycles", counts.cycles},
               {"repeated_folders", counts.repeated_folders},
               {"vanished", counts.vanished},
               {"no_shards", counts.no_shards},
               {"no_data", counts.no_data},
               {"excluded", counts.excluded},
               {"unknown_classes", counts.unknown_classes},
               {"unlabeled", counts.unlabeled},
               {"empty_classes", counts.empty_classes},
               {"empty_lines", counts.empty_lines},
               {"comment_lines", counts.comment_lines},
               {"examples", counts.examples}});
}

}  // namespace penstock::capi
