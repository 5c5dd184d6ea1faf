// The three backends behind one face, so that one suite runs on all of them. Content is ScriptedRing::ByteAt everywhere.
#ifndef PENSTOCK_TESTS_RING_BACKENDS_H_
#define PENSTOCK_TESTS_RING_BACKENDS_H_

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "ring/engine.h"
#include "ring/scripted_ring.h"
#include "support/skip.h"
#include "support/status.h"

namespace penstock::testing {

inline std::string ContentOf(uint32_t object, uint64_t bytes) {
  std::string content(bytes, '\0');
  for (uint64_t i = 0; i < bytes; ++i) content[i] = static_cast<char>(ScriptedRing::ByteAt(object, i));
  return content;
}

// A folder which goes with the object.
class TempFolder {
 public:
  // Not in /tmp where it is a memory file system: that has no O_DIRECT before Linux 6.6.
  TempFolder() {
    const char* base = ::getenv("PENSTOCK_TEST_FOLDER");
    std::string path = absl::StrCat(base != nullptr ? base : "/var/tmp", "/penstock_ring_XXXXXX");
    REQUIRE(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Objects by name below one folder, opened as the real store does: relative to its descriptor.
class NamedObjects final : public ObjectStore {
 public:
  explicit NamedObjects(const std::string& folder) : folder_(folder), fd_(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {}
  ~NamedObjects() override { ::close(fd_); }
  uint32_t Add(std::string name) {
    names_.push_back(std::move(name));
    return static_cast<uint32_t>(names_.size() - 1);
  }
  absl::StatusOr<OpenTarget> Target(uint32_t object, std::string& scratch) const override {
    if (object >= names_.size()) return absl::NotFoundError("no such object");
    scratch.assign(names_[object]);
    return OpenTarget{fd_, scratch.c_str()};
  }
  std::string Name(uint32_t object) const override { return absl::StrCat(folder_, "/", names_[object]); }

 private:
  const std::string folder_;
  const int fd_;
  std::vector<std::string> names_;
};

// Real files in a folder, for both backends that read them.
class FileBackend {
 public:
  FileBackend(Engine engine, RingOptions options) : engine_(engine), options_(options), objects_(folder_.path()) {}

  uint32_t AddObject(uint64_t bytes) {
    const uint32_t object = objects_.Add(absl::StrCat("file", next_++));
    Write(object, ContentOf(object, bytes));
    return object;
  }
  uint32_t AddMissing() { return objects_.Add(absl::StrCat("missing", next_++)); }
  uint32_t AddNamed(const std::string& name) { return objects_.Add(name); }
  void Write(uint32_t object, const std::string& content) {
    std::ofstream file(objects_.Name(object), std::ios::binary | std::ios::trunc);
    file << content;
    REQUIRE(file.good());
  }
  std::string PathOf(uint32_t object) const { return objects_.Name(object); }
  const std::string& folder() const { return folder_.path(); }
  const ObjectStore& objects() const { return objects_; }

  // Made when first asked for.
  Ring& ring() {
    if (ring_ == nullptr) {
      auto ring = MakeRing(engine_, objects_, options_);
      REQUIRE_OK(ring);
      ring_ = *std::move(ring);
    }
    return *ring_;
  }
  void EndRing() { ring_.reset(); }
  std::unique_ptr<Ring> TakeRing() { return std::move(ring_); }

 private:
  const Engine engine_;
  const RingOptions options_;
  TempFolder folder_;
  NamedObjects objects_;
  int next_ = 0;
  std::unique_ptr<Ring> ring_;
};

inline void SkipWithoutUring() {
  const EngineChoice choice = ProbeEngine(Engine::kUring);
  if (!choice.uring.ok()) SkipTest(choice.why);
}

struct Uring : FileBackend {
  explicit Uring(RingOptions options = {}) : FileBackend((SkipWithoutUring(), Engine::kUring), options) {}
};

struct Threads : FileBackend {
  explicit Threads(RingOptions options = {}) : FileBackend(Engine::kThreads, options) {}
};

struct Scripted {
  explicit Scripted(RingOptions options = {})
      : ring_(ScriptedRing::Script{
            .capacity = options.capacity, .read_bytes_max = options.read_bytes_max, .order = ScriptedRing::Order::kRandom}) {}
  uint32_t AddObject(uint64_t bytes) {
    ring_.SetObject(next_, {.object_bytes = bytes});
    return next_++;
  }
  uint32_t AddMissing() {
    ring_.SetObject(next_, {.open_error = ENOENT});
    return next_++;
  }
  ScriptedRing& ring() { return ring_; }

 private:
  ScriptedRing ring_;
  uint32_t next_ = 0;
};

constexpr int64_t kTestDeadlineNs = 60 * kNsPerSecond;  // a hang of the ring fails the test, a slow machine does not

// Waits for and takes `count` completions; fewer only if the deadline passes.
inline std::vector<Completion> ReapCount(Ring& ring, size_t count) {
  std::vector<Completion> all;
  const int64_t deadline_ns = MonotonicNs() + kTestDeadlineNs;
  while (all.size() < count && MonotonicNs() < deadline_ns) {
    REQUIRE_OK(ring.Wait(deadline_ns));
    Completion some[16];
    const size_t n = ring.Reap(absl::MakeSpan(some, std::min<size_t>(16, count - all.size())));
    all.insert(all.end(), some, some + n);
  }
  REQUIRE(all.size() == count);
  return all;
}

inline Completion RunOne(Ring& ring, const Request& request) {
  REQUIRE(ring.Enqueue(request));
  REQUIRE_OK(ring.Submit());
  return ReapCount(ring, 1)[0];
}

inline std::string TextOf(const std::vector<std::byte>& bytes, size_t count) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), count);
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_RING_BACKENDS_H_
