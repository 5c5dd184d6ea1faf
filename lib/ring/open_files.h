// Files that stay open from one read to the next, and so across epochs: opening and closing cost more than a warm read of 4 KiB.
//
// One table of ordinary descriptors serves all streams, since whichever is free reads a file. First come, first kept: an epoch reads each
// object once, so that what was used last is the last to be wanted again, and nothing is gained by exchanging one file for another.
//
// A file is kept as it was when it was opened: one that is replaced (renamed over) is read as it was before, one that is truncated or
// grows in place shows that as any other. A read that fails or comes short drops its file, so that the next try opens it anew.
#ifndef PENSTOCK_RING_OPEN_FILES_H_
#define PENSTOCK_RING_OPEN_FILES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace penstock {

// All calls are thread-safe and wait for nothing.
class OpenFiles {
 public:
  // Keeps up to `files_max` files, all tables of the process together. `direct`: they are opened with O_DIRECT. `keep_alive` owns what
  // gives the objects' numbers their meaning.
  OpenFiles(int64_t files_max, bool direct, std::shared_ptr<const void> keep_alive = nullptr);
  ~OpenFiles();  // closes all; no entry may be in use
  OpenFiles(const OpenFiles&) = delete;
  OpenFiles& operator=(const OpenFiles&) = delete;

  bool direct() const { return direct_; }

  // The entry and the descriptor of an open file, or -1. An entry that was found is in use until Release().
  int32_t Find(uint32_t object, int& fd);
  void Prefetch(uint32_t object) const { __builtin_prefetch(&words_[BucketOf(object)]); }

  // Takes room for one more file; false: none is left. Keep() or Unreserve() follows.
  bool Reserve();
  void Unreserve();
  // Hands over a file that was opened after Reserve(). Returns its entry, in use, and in `fd` its descriptor from now on. -1: it cannot be
  // kept; the descriptor stays the caller's.
  int32_t Keep(uint32_t object, int& fd);

  void Release(int32_t entry);
  // An entry in use: no one finds it any more, and its last Release() closes it.
  void Drop(int32_t entry);

  // The process has run out of descriptors: closes some files that nobody reads, at least one where there is one, and keeps no more than
  // are left from now on. False: nothing could be closed.
  bool Shed();

  int64_t count() const { return count_.load(std::memory_order_relaxed); }
  int64_t files_max() const { return files_max_.load(std::memory_order_relaxed); }

 private:
  // A word is object + 1 (32 bits), uses (12), descriptor + 1 (20); 0: free.
  static constexpr int kUseShift = 20;
  static constexpr int kObjectShift = 32;
  static constexpr uint64_t kOneUse = uint64_t{1} << kUseShift;
  static constexpr uint64_t kUseMask = uint64_t{0xFFF} << kUseShift;
  static constexpr uint64_t kFileMask = kOneUse - 1;
  static constexpr uint64_t kDropped = uint64_t{UINT32_MAX} << kObjectShift;  // in place of the object
  static constexpr size_t kBucketWords = 8;                                   // one cache line

  size_t BucketOf(uint32_t object) const { return ((object * uint64_t{0x9E3779B97F4A7C15}) >> bucket_shift_) * kBucketWords; }
  void Close(uint64_t word);

  const bool direct_;
  const std::shared_ptr<const void> keep_alive_;
  std::atomic<int64_t> files_max_;
  std::atomic<int64_t> count_{0};  // with those reserved
  int bucket_shift_ = 0;
  size_t word_count_ = 0;
  std::atomic<uint64_t>* words_ = nullptr;
  std::atomic<size_t> shed_cursor_{0};
};

// Descriptors that are left to the rest of the program, at least.
inline constexpr int64_t kDescriptorReserve = 512;

// How many files may be kept open, and why.
struct OpenFilesLimit {
  int64_t files_max = 0;
  std::string why;
};

// What RLIMIT_NOFILE allows beside what is open already and a reserve for the rest of the program (kDescriptorReserve, or 1/32 of the
// limit). Where no number was asked for (`asked` = -1), kept files and `folders`, which are kept open too, take half of the limit at most:
// the other half is the program's, whose files, sockets and workers come later. The soft limit is raised towards the hard one as far as
// `wanted` files need it. `files_max` is at most `wanted`, and at most `asked` where that is not -1. `beside`: descriptors that reads of
// other files need at the same time.
OpenFilesLimit FindOpenFilesLimit(int64_t asked, int64_t wanted, int64_t beside = 0, int64_t folders = 0);

}  // namespace penstock

#endif  // PENSTOCK_RING_OPEN_FILES_H_
