#include "base/log.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

using penstock::Log;
using penstock::LogLevel;
using penstock::SetLogSink;

TEST_CASE("the user's sink gets every message", "[base]") {
  std::vector<std::string> seen;
  SetLogSink(
      [&](LogLevel level, absl::string_view message) { seen.push_back(std::to_string(static_cast<int>(level)) + std::string(message)); });
  for (int i = 0; i < 50; ++i) Log(LogLevel::kWarning, "slow");
  SetLogSink(nullptr);
  REQUIRE(seen.size() == 50);
  CHECK(seen[0] == "1slow");
}

TEST_CASE("a sink that throws does not stop the loader", "[base]") {
  SetLogSink([](LogLevel, absl::string_view) { throw std::runtime_error("full"); });
  CHECK_NOTHROW(Log(LogLevel::kError, "x"));
  SetLogSink(nullptr);
}

TEST_CASE("the default sink writes at most ten lines a second and survives a closed standard error", "[base]") {
  int pipe_fds[2];
  REQUIRE(::pipe(pipe_fds) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe_fds[1], STDERR_FILENO);
    for (int i = 0; i < 100; ++i) Log(LogLevel::kInfo, "tick");
    ::close(STDERR_FILENO);
    Log(LogLevel::kInfo, "to nowhere");
    ::_exit(0);
  }
  ::close(pipe_fds[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(pipe_fds[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(got));
  ::close(pipe_fds[0]);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  size_t lines = 0;
  for (char c : text) lines += c == '\n';
  CHECK(lines >= 10);
  CHECK(lines <= 21);  // two windows where the loop crosses a second, and the line that counts what was left out
}
