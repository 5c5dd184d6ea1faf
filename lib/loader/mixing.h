// How well the classes are mixed: how far the labels of a batch are from those of the data set, beside what a full shuffle would give.
#ifndef PENSTOCK_LOADER_MIXING_H_
#define PENSTOCK_LOADER_MIXING_H_

#include <cstdint>
#include <unordered_map>

#include "absl/types/span.h"
#include "penstock/manifest.h"

namespace penstock {

// The distance is the total variation: half the sum over labels of |share in the batch - share in the data set|. 0: the batch is the data
// set in small; 1 - p: it holds nothing but one label of share p.
class LabelMixing {
 public:
  // Counts the labels of all samples: O(N), once. Labels that are not classes (more than 65,536 different ones) are not compared.
  explicit LabelMixing(const Manifest& manifest);

  bool usable() const { return !shares_.empty(); }
  void Add(absl::Span<const int32_t> labels);
  // Means over the batches added since Reset().
  double distance() const { return batches_ > 0 ? distance_ / static_cast<double>(batches_) : 0; }
  double full_shuffle_distance() const { return batches_ > 0 ? expected_ / static_cast<double>(batches_) : 0; }
  void Reset() { distance_ = expected_ = 0, batches_ = 0; }

  // The mean distance of `count` samples that are drawn from the data set without regard of their labels.
  double ExpectedDistance(int64_t count);

 private:
  int64_t sample_count_ = 0;
  std::unordered_map<int32_t, double> shares_;
  std::unordered_map<int64_t, double> expected_of_;  // by batch size
  std::unordered_map<int32_t, int64_t> counts_;      // of one batch; kept for its memory
  double distance_ = 0;
  double expected_ = 0;
  int64_t batches_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_MIXING_H_
