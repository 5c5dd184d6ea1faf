#include "loader/mixing.h"

#include <cmath>

namespace penstock {
namespace {

constexpr size_t kLabelsMax = 65'536;

}  // namespace

LabelMixing::LabelMixing(const Manifest& manifest) : sample_count_(manifest.sample_count()) {
  if (!manifest.has_labels()) return;
  std::unordered_map<int32_t, int64_t> counts;
  for (int64_t id = 0; id < sample_count_; ++id) {
    ++counts[manifest.Label(id)];
    if (counts.size() > kLabelsMax) return;
  }
  for (const auto& [label, count] : counts) shares_[label] = static_cast<double>(count) / static_cast<double>(sample_count_);
}

void LabelMixing::Add(absl::Span<const int32_t> labels) {
  if (!usable() || labels.empty()) return;
  counts_.clear();
  for (const int32_t label : labels) ++counts_[label];
  // What is absent from the batch contributes its share: all of 1, less the shares of what is present.
  double sum = 1;
  for (const auto& [label, count] : counts_) {
    const auto found = shares_.find(label);
    const double share = found == shares_.end() ? 0 : found->second;
    sum += std::abs(static_cast<double>(count) / static_cast<double>(labels.size()) - share) - share;
  }
  distance_ += sum / 2;
  expected_ += ExpectedDistance(static_cast<int64_t>(labels.size()));
  ++batches_;
}

double LabelMixing::ExpectedDistance(int64_t count) {
  const auto [found, is_new] = expected_of_.try_emplace(count, 0);
  if (!is_new) return found->second;
  const auto n = static_cast<double>(count);
  double sum = 0;
  for (const auto& [label, share] : shares_) {
    if (share >= 1) continue;
    // The mean absolute deviation of a binomial: E|X - np| = 2 k C(n,k) p^k q^(n-k+1) with k = floor(np) + 1 (de Moivre).
    const double k = std::floor(n * share) + 1;
    if (k > n) continue;
    const double log_term = std::log(2 * k) + std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) + k * std::log(share) +
                            (n - k + 1) * std::log1p(-share);
    sum += std::exp(log_term) / n;
  }
  // Drawn without putting back.
  const auto all = static_cast<double>(sample_count_);
  found->second = sample_count_ > 1 ? sum / 2 * std::sqrt(std::max(0.0, (all - n) / (all - 1))) : 0;
  return found->second;
}

}  // namespace penstock
