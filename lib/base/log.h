// Messages to the user's sink.
#ifndef PENSTOCK_BASE_LOG_H_
#define PENSTOCK_BASE_LOG_H_

#include "absl/strings/string_view.h"
#include "penstock/log.h"

namespace penstock {

// Hands one message to the sink. Never fails and never throws. Any thread.
void Log(LogLevel level, absl::string_view message);

}  // namespace penstock

#endif  // PENSTOCK_BASE_LOG_H_
