#include "gpu/report.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace penstock::bench {

void Report::Print(const Row& row) const {
  if (row.measured) {
    std::printf("%s | %s | %.4g %s | %s\n", row.question.c_str(), row.arm.c_str(), row.value, row.unit.c_str(), row.note.c_str());
  } else {
    std::printf("%s | %s | - | %s\n", row.question.c_str(), row.arm.c_str(), row.note.c_str());
  }
  std::fflush(stdout);
}

void Report::Add(const std::string& question, const std::string& arm, double value, const std::string& unit, const std::string& note) {
  rows_.push_back({question, arm, value, unit, note, true});
  Print(rows_.back());
}

void Report::Skip(const std::string& question, const std::string& arm, const std::string& reason) {
  rows_.push_back({question, arm, 0, "", reason, false});
  Print(rows_.back());
}

void Report::Try(const std::string& question, const std::string& arm, const std::function<void()>& measure) {
  try {
    measure();
  } catch (const std::exception& error) {
    Skip(question, arm, error.what());
  }
}

double Report::Best(const std::string& question) const {
  double best = 0;
  for (const Row& row : rows_) {
    if (row.measured && row.question == question) best = std::max(best, row.value);
  }
  return best;
}

void Report::WriteJson(const std::string& path) const {
  nlohmann::ordered_json json;
  for (const auto& [name, value] : facts_) json["machine"][name] = value;
  json["rows"] = nlohmann::ordered_json::array();
  for (const Row& row : rows_) {
    nlohmann::ordered_json entry = {{"question", row.question}, {"arm", row.arm}};
    if (row.measured) {
      entry["value"] = row.value;
      entry["unit"] = row.unit;
      if (!row.note.empty()) entry["note"] = row.note;
    } else {
      entry["skipped"] = row.note;
    }
    json["rows"].push_back(std::move(entry));
  }
  std::ofstream file(path);
  file << json.dump(1) << "\n";
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

void Report::WriteTable(const std::string& path) const {
  std::ofstream file(path);
  for (const auto& [name, value] : facts_) file << "- " << name << ": " << value << "\n";
  file << "\n| question | arm | figure | |\n|---|---|---|---|\n";
  for (const Row& row : rows_) {
    const std::string figure = row.measured ? absl::StrFormat("%.4g %s", row.value, row.unit) : "-";
    const std::string note = row.measured ? row.note : "not measured: " + row.note;
    file << "| " << row.question << " | " << row.arm << " | " << figure << " | " << note << " |\n";
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace penstock::bench
