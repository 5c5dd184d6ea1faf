// The option `mixture`: as text, which the command line and the other languages give, and what it goes with.
#ifndef PENSTOCK_LOADER_MIXTURE_OPTION_H_
#define PENSTOCK_LOADER_MIXTURE_OPTION_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "penstock/options.h"

namespace penstock {

// A JSON array of objects, {"root": text, "weight": number, "manifest_path": text}; the last two may be left out. Empty: no mixture.
//
// Errors: InvalidArgument  what the text is instead, and where.
absl::StatusOr<std::vector<MixtureMember>> ParseMixture(absl::string_view text);

// Such a text; empty for no members.
std::string FormatMixture(absl::Span<const MixtureMember> members);

// Errors: InvalidArgument  a mixture, and another order beside it.
absl::Status CheckMixtureIsTheOrder(const LoaderOptions& options);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_MIXTURE_OPTION_H_
