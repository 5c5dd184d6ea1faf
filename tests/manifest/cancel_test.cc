// Who opens a data set can give up: while another process indexes it, while it is listed, and while its file system does not answer.
#include "penstock/cancel.h"

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"
#include "manifest/lease.h"
#include "support/fault_fs.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

absl::StatusOr<std::shared_ptr<const Manifest>> OpenUntil(const std::string& root, const IndexOptions& options,
                                                          const std::function<bool()>& cancelled) {
  return UntilCancelled<std::shared_ptr<const Manifest>>([root, options] { return Manifest::Open(root, options); }, cancelled);
}

}  // namespace

TEST_CASE("a call that nobody gives up brings its result", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x", "1");
  const auto manifest = OpenUntil(tree.path(), {}, [] { return false; });
  REQUIRE_OK(manifest);
  CHECK((*manifest)->sample_count() == 1);
  const auto none = OpenUntil(tree.At("none"), {}, [] { return false; });
  CHECK(none.status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("the wait for another process's lease can be given up", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("x");
  auto held = Lease::TryAcquire(PlaceOf(tree.path()) + ".lease");
  REQUIRE_OK(held);
  IndexOptions options;
  options.wait_s = 1000;
  int asked = 0;
  const auto manifest = OpenUntil(tree.path(), options, [&] { return ++asked == 3; });
  CHECK(manifest.status().code() == absl::StatusCode::kCancelled);
  CHECK(asked == 3);
}

TEST_CASE("an index that is given up gives its lease back and saves nothing", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 300; ++i) tree.Write("c" + std::to_string(i) + "/x", "1");
  const auto lease = std::make_shared<std::string>(PlaceOf(tree.path()) + ".lease");
  IndexOptions options;
  options.threads = 1;
  // The scan does not end before it was given up.
  const auto given_up = std::make_shared<std::atomic<bool>>(false);
  options.progress = [given_up](const IndexProgress& progress) {
    for (int i = 0; i < 10'000 && !*given_up && progress.phase == IndexProgress::Phase::kScanning; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  const auto manifest = OpenUntil(tree.path(), options, [&] {
    const bool give_up = std::filesystem::exists(*lease);
    if (give_up) *given_up = true;
    return give_up;
  });
  CHECK(manifest.status().code() == absl::StatusCode::kCancelled);
  for (int i = 0; i < 10'000 && std::filesystem::exists(*lease); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_FALSE(std::filesystem::exists(*lease));
  CHECK_FALSE(std::filesystem::exists(PlaceOf(tree.path())));
}

TEST_CASE("a file system that does not answer can be given up", "[manifest]") {
  LogCapture log;
  FaultFs files;
  std::filesystem::create_directories(files.backing() + "/set/a");
  TempFolder keep;
  IndexOptions options;
  options.manifest_path = keep.At("m");
  files.Set("set/a attrhang\n");
  const int64_t hangs = files.hangs();
  bool hung = false;
  const auto manifest = OpenUntil(files.mounted() + "/set", options, [&] { return hung = files.hangs() > hangs; });
  CHECK(manifest.status().code() == absl::StatusCode::kCancelled);
  CHECK(hung);
  files.Clear();
}
