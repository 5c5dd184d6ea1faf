// Runs part of a test in a forked child: what cannot be undone (another user, a lower limit, a seccomp filter) ends with it.
#ifndef PENSTOCK_TESTS_SUPPORT_CHILD_H_
#define PENSTOCK_TESTS_SUPPORT_CHILD_H_

#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <string>

namespace penstock::testing {

// Returns what `body` returned ("" for success, by custom), or how the child ended instead. Catch2's macros inside `body` count
// for nothing in the parent; a failed REQUIRE shows as an exception.
inline std::string InChild(const std::function<std::string()>& body) {
  int pipe_fds[2];
  if (::pipe(pipe_fds) != 0) return "pipe failed";
  const pid_t pid = ::fork();
  if (pid < 0) return "fork failed";
  if (pid == 0) {
    ::close(pipe_fds[0]);
    std::string result;
    try {
      result = body();
    } catch (const std::exception& error) {
      result = std::string("exception: ") + error.what();
    } catch (...) {
      result = "exception";
    }
    for (size_t done = 0; done < result.size();) {
      const ssize_t written = ::write(pipe_fds[1], result.data() + done, result.size() - done);
      if (written <= 0) break;
      done += static_cast<size_t>(written);
    }
    ::_exit(0);
  }
  ::close(pipe_fds[1]);
  std::string result;
  char buffer[4096];
  for (ssize_t count; (count = ::read(pipe_fds[0], buffer, sizeof buffer)) > 0;) result.append(buffer, static_cast<size_t>(count));
  ::close(pipe_fds[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFSIGNALED(status)) return result + " [killed by signal " + std::to_string(WTERMSIG(status)) + "]";
  if (WEXITSTATUS(status) != 0) return result + " [exit status " + std::to_string(WEXITSTATUS(status)) + "]";
  return result;
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_CHILD_H_
