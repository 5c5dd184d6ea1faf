// What penstock logs while this object lives.
#ifndef PENSTOCK_TESTS_SUPPORT_LOG_CAPTURE_H_
#define PENSTOCK_TESTS_SUPPORT_LOG_CAPTURE_H_

#include <mutex>
#include <string>
#include <vector>

#include "penstock/log.h"

namespace penstock::testing {

class LogCapture {
 public:
  LogCapture() {
    SetLogSink([this](LogLevel level, absl::string_view message) {
      std::lock_guard<std::mutex> lock(mutex_);
      lines_.push_back(std::string(level == LogLevel::kInfo ? "I " : "W ") + std::string(message));
    });
  }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  ~LogCapture() { SetLogSink(nullptr); }

  int CountOf(const std::string& part) const {
    std::lock_guard<std::mutex> lock(mutex_);
    int count = 0;
    for (const std::string& line : lines_) count += line.find(part) != std::string::npos;
    return count;
  }
  // Warnings and errors, one a line.
  std::vector<std::string> Warnings() const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> warnings;
    for (const std::string& line : lines_) {
      if (line[0] == 'W') warnings.push_back(line.substr(2));
    }
    return warnings;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_LOG_CAPTURE_H_
