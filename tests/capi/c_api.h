// What the tests of the C API share: handles that close themselves, and errors that are demanded.
#ifndef PENSTOCK_TESTS_CAPI_C_API_H_
#define PENSTOCK_TESTS_CAPI_C_API_H_

#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>
#include <utility>

#include "loader/data_set.h"
#include "penstock/c.h"

namespace penstock::testing {

// An error slot. `(code, error)` of a call that must succeed or fail.
class Error {
 public:
  ~Error() { penstock_error_free(error_); }
  penstock_error** operator&() {
    penstock_error_free(std::exchange(error_, nullptr));
    return &error_;
  }
  std::string text() const { return penstock_error_message(error_); }
  penstock_code code() const { return penstock_error_code(error_); }

 private:
  penstock_error* error_ = nullptr;
};

#define C_OK(error, call)                   \
  do {                                      \
    const penstock_code c_ok_code = (call); \
    INFO(#call << ": " << (error).text());  \
    REQUIRE(c_ok_code == PENSTOCK_OK);      \
  } while (false)

// The code is demanded, and an error with a text and the same code.
#define C_FAILS(error, expected, call)         \
  do {                                         \
    const penstock_code c_fails_code = (call); \
    INFO(#call << ": " << (error).text());     \
    CHECK(c_fails_code == (expected));         \
    CHECK((error).code() == (expected));       \
    CHECK_FALSE((error).text().empty());       \
  } while (false)

inline std::string TakeText(char* text) {
  std::string copy = text == nullptr ? "" : text;
  penstock_string_free(text);
  return copy;
}

// Loader options by name, over those of a data set.
class COptions {
 public:
  COptions(const std::string& root, EngineOption engine, int64_t batch_size = 16) {
    ::unsetenv("PENSTOCK_ENGINE");  // each case says itself what it is about
    Error error;
    C_OK(error, penstock_options_create(PENSTOCK_LOADER_OPTIONS, &options_, &error));
    Set("root", root);
    Set("batch_size", std::to_string(batch_size));
    Set("engine", engine == EngineOption::kUring ? "uring" : "threads");
    Set("rank", "0");
    Set("world_size", "1");
    Set("cpu_share", "1");
    Set("memory_bytes", "64MiB");
  }
  ~COptions() { penstock_options_close(options_, nullptr); }
  COptions(const COptions&) = delete;
  COptions& operator=(const COptions&) = delete;
  void Set(const std::string& name, const std::string& value) {
    Error error;
    C_OK(error, penstock_options_set(options_, name.c_str(), value.c_str(), &error));
  }
  penstock_options* get() const { return options_; }
  penstock_loader* Open(penstock_runtime* runtime = nullptr) const {
    Error error;
    penstock_loader* loader = nullptr;
    C_OK(error, penstock_loader_open(options_, runtime, &loader, &error));
    return loader;
  }

 private:
  penstock_options* options_ = nullptr;
};

inline penstock_batch* TakeBatch(penstock_loader* loader) {
  Error error;
  penstock_batch* batch = nullptr;
  C_OK(error, penstock_loader_next(loader, &batch, &error));
  REQUIRE(batch != nullptr);
  return batch;
}

inline penstock_batch_view ViewOf(penstock_batch* batch) {
  Error error;
  penstock_batch_view view{};
  view.struct_bytes = sizeof view;
  C_OK(error, penstock_batch_get(batch, &view, &error));
  return view;
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_CAPI_C_API_H_
