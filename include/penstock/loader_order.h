// The order of a loader without the loader: for tools that show or check it.
#ifndef PENSTOCK_LOADER_ORDER_H_
#define PENSTOCK_LOADER_ORDER_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "penstock/export.h"
#include "penstock/manifest.h"
#include "penstock/options.h"
#include "penstock/order.h"

namespace penstock {

/// The order in which a loader reads, and where it begins.
struct LoaderOrder {
  Order order;        ///< with shuffle=disk-blocks not of ids but of places: Manifest::IdAtPlace() makes ids of them
  int64_t epoch = 0;  ///< where options.state goes on; epoch 0, position 0 without one
  int64_t position = 0;
};

/// The order of a loader with these options over a data set. `Loader::Open` begins with it, `penstock plan` prints it.
///
/// `options` become those that count: what was not given of seed, shuffle, block, window, virtual streams, tail, and a mixture's period and
/// epoch is filled in, from the state where there is one. `manifest` is the data set's, or with options.mixture that of all its members together
/// (Manifest::Join). Null: there is none, and the order is that of `sample_count` samples; then a state's fingerprint is taken on trust.
/// Neither the environment nor the rank is looked at.
///
/// Errors:   InvalidArgument     options that do not go together, or not with this data set; text that is no state; an option of the order
///                               that was given and is not the state's: both values are named.
///           DataLoss            a state that is damaged.
///           FailedPrecondition  shuffle=disk-blocks, and the manifest has no order of place; a state that is newer, or of another data
///                               set, list of ids or mixture, or that stands beyond the epoch.
/// Threads:  any.
PENSTOCK_EXPORT absl::StatusOr<LoaderOrder> OrderOfLoader(LoaderOptions& options, const Manifest* manifest, int64_t sample_count = 0);

}  // namespace penstock

#endif  // PENSTOCK_LOADER_ORDER_H_
