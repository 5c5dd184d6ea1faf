// Where the bytes of an object lie, as a ring backend needs to know it.
#ifndef PENSTOCK_STORE_OBJECT_STORE_H_
#define PENSTOCK_STORE_OBJECT_STORE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

// What openat(2) takes.
struct OpenTarget {
  int dir_fd = -1;             // an ordinary descriptor, which the store keeps open; AT_FDCWD for an absolute path
  const char* path = nullptr;  // NUL-terminated
};

// The objects of one manifest: ids 0 .. count-1. All calls are thread-safe.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  // How to open `object`. The path is valid as long as the store, or until `scratch` (the caller's, kept as long as the
  // open is under way) changes.
  //
  // Errors: those of opening the object's folder, which is done once and kept.
  virtual absl::StatusOr<OpenTarget> Target(uint32_t object, std::string& scratch) const = 0;

  // A hint: Target() of these objects will be called soon.
  virtual void Prefetch(absl::Span<const uint32_t> /*objects*/) const {}

  // The object's whole name for messages, not escaped.
  virtual std::string Name(uint32_t object) const = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_STORE_OBJECT_STORE_H_
