// Every function of c.h goes through here: what may throw inside becomes a code and an error object outside.
#ifndef PENSTOCK_CAPI_CALL_H_
#define PENSTOCK_CAPI_CALL_H_

#include <pthread.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "capi/handles.h"
#include "penstock/c.h"

namespace penstock::capi {

// Makes the error object, without throwing: where there is no memory it is a fixed one.
penstock_code Report(const absl::Status& status, penstock_error** error) noexcept;
penstock_code ReportThrown(const char* what, penstock_error** error) noexcept;
penstock_code ReportOutOfMemory(penstock_error** error) noexcept;

// Runs `body`, which returns a Status. A thread is not cancelled inside (pthread_cancel would unwind through locks): it is behind the call.
template <typename Body>
penstock_code Call(penstock_error** error, Body&& body) noexcept {
  int before = 0;
  ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
  penstock_code code;
  try {
    code = Report(body(), error);
  } catch (const std::bad_alloc&) {
    code = ReportOutOfMemory(error);
  } catch (const std::exception& thrown) {
    code = ReportThrown(thrown.what(), error);
  } catch (...) {
    code = ReportThrown("an exception of an unknown type", error);
  }
  ::pthread_setcancelstate(before, nullptr);
  return code;
}

// An argument that must not be NULL.
absl::Status Missing(absl::string_view function, absl::string_view argument);
absl::Status NoHandle(absl::string_view function, Kind kind, const void* handle);

// The object of a handle. Objects name their kind.
template <typename Object>
absl::StatusOr<std::shared_ptr<Object>> Find(absl::string_view function, const void* handle) {
  std::shared_ptr<void> object = HandleTable::Get().Find(Object::kKind, handle);
  if (object == nullptr) return NoHandle(function, Object::kKind, handle);
  return std::static_pointer_cast<Object>(std::move(object));
}

// Takes the object out of the table; null for NULL.
template <typename Object>
absl::StatusOr<std::shared_ptr<Object>> Take(absl::string_view function, const void* handle) {
  if (handle == nullptr) return nullptr;
  std::shared_ptr<void> object = HandleTable::Get().Take(Object::kKind, handle);
  if (object == nullptr) return NoHandle(function, Object::kKind, handle);
  return std::static_pointer_cast<Object>(std::move(object));
}

// Gives an object a handle.
template <typename Object, typename Handle>
absl::Status Give(std::shared_ptr<Object> object, Handle** handle) {
  absl::StatusOr<void*> made = HandleTable::Get().Insert(Object::kKind, std::move(object));
  if (!made.ok()) return made.status();
  *handle = static_cast<Handle*>(*made);
  return absl::OkStatus();
}

inline absl::Status GiveText(const std::string& text, char** out) {
  *out = HandleTable::Get().NewText(text);
  return absl::OkStatus();
}

// A name or path, and its length where that is asked for.
inline absl::Status GiveBytes(const std::string& text, char** out, int64_t* bytes) {
  *out = HandleTable::Get().NewText(text);
  if (bytes != nullptr) *bytes = static_cast<int64_t>(text.size());
  return absl::OkStatus();
}

// A struct that may be older or newer than this library's: as much as the caller has room for, and zeros behind what is known here.
// Errors: InvalidArgument  struct_bytes is smaller than the first version's, or no size at all.
template <typename View>
absl::Status FillView(absl::string_view function, const View& filled, size_t first_version_bytes, View* view) {
  constexpr uint64_t kSizeMax = 1 << 16;
  const uint64_t bytes = view->struct_bytes;
  if (bytes < first_version_bytes || bytes > kSizeMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(function, ": struct_bytes is ", bytes, "; set it to the size of the struct, ", sizeof(View), " here"));
  }
  auto* out = reinterpret_cast<unsigned char*>(view);
  const auto* in = reinterpret_cast<const unsigned char*>(&filled);
  for (uint64_t i = sizeof(uint64_t); i < bytes; ++i) out[i] = i < sizeof(View) ? in[i] : 0;
  return absl::OkStatus();
}

}  // namespace penstock::capi

#endif  // PENSTOCK_CAPI_CALL_H_
