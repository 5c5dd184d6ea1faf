// Which samples are tried in the place of one that cannot be read, and in which order.
#ifndef PENSTOCK_LOADER_SUBSTITUTES_H_
#define PENSTOCK_LOADER_SUBSTITUTES_H_

#include <cstdint>

namespace penstock {

// The numbers 0 .. count - 1, each once, in an order that seed, epoch and position choose: every rank and every restart has the same.
class SubstituteWalk {
 public:
  // count >= 1.
  SubstituteWalk(uint64_t seed, int64_t epoch, int64_t position, int64_t count);

  // 0 <= n < count.
  int64_t At(int64_t n) const {
    return static_cast<int64_t>((start_ + static_cast<unsigned __int128>(n) * stride_) % count_);
  }

 private:
  uint64_t count_;
  uint64_t start_;
  uint64_t stride_;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_SUBSTITUTES_H_
