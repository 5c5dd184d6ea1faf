#include "base/fork_guard.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

TEST_CASE("a child knows that it was forked, its parent is not affected", "[base]") {
  const penstock::ForkGuard guard;
  REQUIRE_FALSE(guard.InForkedChild());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(guard.InForkedChild() && !penstock::ForkGuard().InForkedChild() ? 0 : 1);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK_FALSE(guard.InForkedChild());
}
