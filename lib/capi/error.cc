// Codes, error objects, text and version.
#include <cstring>

#include "capi/call.h"
#include "capi/objects.h"
#include "penstock/c.h"

namespace penstock::capi {
namespace {

constexpr const char* kOutOfMemory = "out of memory: there was not even enough for the text of an error";

// Stands for the error for which there is no memory. No handle: kinds end before 0xFF.
penstock_error* OutOfMemoryError() { return reinterpret_cast<penstock_error*>(~uint64_t{0}); }

}  // namespace

penstock_code ReportOutOfMemory(penstock_error** error) noexcept {
  if (error != nullptr) *error = OutOfMemoryError();
  return PENSTOCK_RESOURCE_EXHAUSTED;
}

penstock_code Report(const absl::Status& status, penstock_error** error) noexcept {
  const auto code = static_cast<penstock_code>(status.code());
  if (error == nullptr) return code;
  *error = nullptr;
  if (status.ok()) return code;
  try {
    auto object = std::make_shared<ErrorObject>();
    object->code = code;
    object->message = std::string(status.message());
    if (Give(std::move(object), error).ok()) return code;
  } catch (...) {
    // As below.
  }
  *error = OutOfMemoryError();
  return code;
}

penstock_code ReportThrown(const char* what, penstock_error** error) noexcept {
  try {
    return Report(absl::InternalError(absl::StrCat("penstock: ", what)), error);
  } catch (...) {
    return ReportOutOfMemory(error);
  }
}

absl::Status Missing(absl::string_view function, absl::string_view argument) {
  return absl::InvalidArgumentError(absl::StrCat(function, ": ", argument, " is NULL"));
}

absl::Status NoHandle(absl::string_view function, Kind kind, const void* handle) {
  return absl::InvalidArgumentError(
      absl::StrCat(function, ": the handle ", HandleTable::Get().WhyNone(kind, handle), "; it takes ", KindName(kind)));
}

}  // namespace penstock::capi

using namespace penstock::capi;

static_assert(static_cast<int>(absl::StatusCode::kUnauthenticated) == PENSTOCK_UNAUTHENTICATED &&
              static_cast<int>(absl::StatusCode::kDataLoss) == PENSTOCK_DATA_LOSS &&
              static_cast<int>(absl::StatusCode::kUnavailable) == PENSTOCK_UNAVAILABLE &&
              static_cast<int>(absl::StatusCode::kInternal) == PENSTOCK_INTERNAL &&
              static_cast<int>(absl::StatusCode::kOutOfRange) == PENSTOCK_OUT_OF_RANGE &&
              static_cast<int>(absl::StatusCode::kCancelled) == PENSTOCK_CANCELLED);

penstock_code penstock_error_code(const penstock_error* error) {
  if (error == nullptr) return PENSTOCK_OK;
  if (error == OutOfMemoryError()) return PENSTOCK_RESOURCE_EXHAUSTED;
  const std::shared_ptr<void> object = HandleTable::Get().Find(Kind::kError, error);
  return object == nullptr ? PENSTOCK_INVALID_ARGUMENT : static_cast<const ErrorObject*>(object.get())->code;
}

const char* penstock_error_message(const penstock_error* error) {
  if (error == nullptr) return "";
  if (error == OutOfMemoryError()) return kOutOfMemory;
  const std::shared_ptr<void> object = HandleTable::Get().Find(Kind::kError, error);
  return object == nullptr ? "penstock_error_message: this is no error, or was freed"
                           : static_cast<const ErrorObject*>(object.get())->message.c_str();
}

void penstock_error_free(penstock_error* error) {
  if (error != nullptr) HandleTable::Get().Take(Kind::kError, error);
}

const char* penstock_code_name(penstock_code code) {
  static constexpr const char* kNames[] = {"OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
                                           "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
                                           "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
                                           "DATA_LOSS", "UNAUTHENTICATED"};
  if (code == PENSTOCK_END_OF_EPOCH) return "END_OF_EPOCH";
  return code >= 0 && code < static_cast<penstock_code>(std::size(kNames)) ? kNames[code] : "UNKNOWN";
}

void penstock_string_free(char* text) {
  if (text != nullptr) HandleTable::Get().FreeText(text);
}

const char* penstock_version(void) { return PENSTOCK_VERSION_STRING; }
int32_t penstock_version_number(void) { return 10000 * PENSTOCK_VERSION_MAJOR + 100 * PENSTOCK_VERSION_MINOR + PENSTOCK_VERSION_PATCH; }
int32_t penstock_abi_version(void) { return PENSTOCK_C_ABI_VERSION; }
