// Memory of its own, from a page's start. Zero at first.
#ifndef PENSTOCK_MANIFEST_MEMORY_BLOCK_H_
#define PENSTOCK_MANIFEST_MEMORY_BLOCK_H_

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/io_error.h"

namespace penstock {

class MemoryBlock {
 public:
  MemoryBlock() = default;
  // `shown`: whose, for messages. Errors: ResourceExhausted.
  static absl::StatusOr<MemoryBlock> Make(uint64_t bytes, absl::string_view shown) {
    MemoryBlock block;
    if (bytes == 0) return block;
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::Status(ErrnoToCode(errno), absl::StrCat("memory for the manifest of ", shown, ", ", bytes, " bytes: ", ErrnoText(errno)));
    }
    // A hint: fewer page faults while it is filled, and fewer misses when it is asked.
    ::madvise(data, bytes, MADV_HUGEPAGE);
    block.data_ = static_cast<char*>(data);
    block.bytes_ = bytes;
    return block;
  }
  MemoryBlock(MemoryBlock&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryBlock& operator=(MemoryBlock&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MemoryBlock() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }

  char* data() { return data_; }
  const char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_MEMORY_BLOCK_H_
