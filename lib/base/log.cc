#include "base/log.h"

#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace penstock {
namespace {

constexpr int64_t kLinesPerSecondMax = 10;

struct SinkState {
  std::mutex mutex;
  LogSink sink;
  int64_t window_start_ns = 0;
  int64_t lines_in_window = 0;
  int64_t suppressed = 0;
};

// Never destroyed: threads of ours may still log while static objects are taken down.
SinkState& State() {
  static auto* state = new SinkState;
  return *state;
}

void WriteLine(absl::string_view line) {
  // One write, so that lines of several processes do not mix. A closed or full standard error is not our problem
  // to solve: loading goes on.
  std::string text = absl::StrCat(line, "\n");
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

void WriteDefault(SinkState& state, LogLevel level, absl::string_view message) {
  const int64_t now_ns = MonotonicNs();
  if (now_ns - state.window_start_ns >= kNsPerSecond) {
    if (state.suppressed > 0) {
      WriteLine(absl::StrCat("penstock: ", state.suppressed, " messages left out (more than ", kLinesPerSecondMax, " a second)"));
    }
    state.window_start_ns = now_ns;
    state.lines_in_window = 0;
    state.suppressed = 0;
  }
  if (++state.lines_in_window > kLinesPerSecondMax) {
    ++state.suppressed;
    return;
  }
  const char* prefix = level == LogLevel::kError ? "error: " : level == LogLevel::kWarning ? "warning: " : "";
  WriteLine(absl::StrCat("penstock: ", prefix, message));
}

}  // namespace

void SetLogSink(LogSink sink) {
  SinkState& state = State();
  std::lock_guard<std::mutex> lock(state.mutex);
  state.sink = std::move(sink);
}

void Log(LogLevel level, absl::string_view message) {
  SinkState& state = State();
  std::lock_guard<std::mutex> lock(state.mutex);
  if (!state.sink) {
    WriteDefault(state, level, message);
    return;
  }
  try {
    state.sink(level, message);
  } catch (...) {
    // The sink is the user's; its failure must not stop a read.
  }
}

}  // namespace penstock
