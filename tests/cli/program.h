// Runs the built penstock and keeps what it printed.
#ifndef PENSTOCK_TESTS_CLI_PROGRAM_H_
#define PENSTOCK_TESTS_CLI_PROGRAM_H_

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

namespace penstock::testing {

// Everybody may look into it: some programs run as another user.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-cli-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    ::chmod(pattern.c_str(), 0755);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct Outcome {
  int status = -1;  // as a shell has it: 128 + the signal where one ended it
  std::string out;
  std::string err;
};

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A program that is running.
class Program {
 public:
  explicit Program(std::vector<std::string> words) {
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      // A test runner may have been started with SIGINT ignored, which an exec does not undo.
      ::signal(SIGINT, SIG_DFL);
      if (std::freopen((folder_.path() + "/out").c_str(), "w", stdout) == nullptr) ::_exit(126);
      if (std::freopen((folder_.path() + "/err").c_str(), "w", stderr) == nullptr) ::_exit(126);
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
  }
  ~Program() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  pid_t pid() const { return pid_; }
  std::string err() const { return ReadFile(folder_.path() + "/err"); }
  bool ended() {
    if (pid_ > 0 && ::waitpid(pid_, &wait_status_, WNOHANG) == pid_) pid_ = -1;
    return pid_ < 0;
  }
  Outcome Wait() {
    if (pid_ > 0) ::waitpid(pid_, &wait_status_, 0);
    pid_ = -1;
    return {WIFSIGNALED(wait_status_) ? 128 + WTERMSIG(wait_status_) : WEXITSTATUS(wait_status_), ReadFile(folder_.path() + "/out"), err()};
  }

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
  int wait_status_ = 0;
};

inline Outcome Run(std::vector<std::string> words) { return Program(std::move(words)).Wait(); }

inline Outcome Penstock(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), PENSTOCK_CLI);
  return Run(std::move(arguments));
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_CLI_PROGRAM_H_
