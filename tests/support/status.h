// REQUIRE for a Status or StatusOr, with its message in the failure.
#ifndef PENSTOCK_TESTS_SUPPORT_STATUS_H_
#define PENSTOCK_TESTS_SUPPORT_STATUS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <catch2/catch.hpp>

namespace penstock::testing {

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

}  // namespace penstock::testing

#define REQUIRE_OK(expression)                                                    \
  do {                                                                            \
    const absl::Status require_ok_status = ::penstock::testing::ToStatus(expression); \
    INFO(require_ok_status.ToString());                                           \
    REQUIRE(require_ok_status.ok());                                              \
  } while (false)

#endif  // PENSTOCK_TESTS_SUPPORT_STATUS_H_
