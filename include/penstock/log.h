// Where penstock's messages go: one process-wide sink, the standard error output unless told otherwise.
#ifndef PENSTOCK_LOG_H_
#define PENSTOCK_LOG_H_

#include <functional>

#include "absl/strings/string_view.h"
#include "penstock/export.h"

namespace penstock {

enum class LogLevel { kInfo = 0, kWarning = 1, kError = 2 };

using LogSink = std::function<void(LogLevel level, absl::string_view message)>;

/// Replaces the sink; an empty function restores the default (one line on standard error, at most ten lines a second;
/// what is left out is counted and named in the next line).
///
/// Errors:   none. A sink that fails (a closed or full output) never stops loading.
/// Lifetime: the old sink is not called again once this returns.
/// Threads:  any. The sink is called by one thread at a time, from penstock's threads; it must not call penstock.
PENSTOCK_EXPORT void SetLogSink(LogSink sink);

}  // namespace penstock

#endif  // PENSTOCK_LOG_H_
