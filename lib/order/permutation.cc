#include "order/permutation.h"

#include <utility>

namespace penstock {
namespace {

// Distinct numbers which keep the keys apart: of blocks, of windows, of mixtures and of their members.
constexpr uint64_t kBlockTag = 0x626c6f636b000001u;
constexpr uint64_t kWindowTag = 0x77696e646f770001u;
constexpr uint64_t kMixtureTag = 0x6d69787475720001u;
constexpr uint64_t kMemberTag = 0x6d656d6265720001u;

// Mixed one after another, so that no two of (seed, epoch, tag, ...) meet by adding up to the same sum.
constexpr uint64_t Absorb(uint64_t key, uint64_t word) { return Mix64((key ^ word) + 0x9e3779b97f4a7c15u); }

uint64_t EpochKey(uint64_t seed, int64_t epoch, uint64_t tag) {
  return Absorb(Absorb(Absorb(0, seed), static_cast<uint64_t>(epoch)), tag);
}

}  // namespace

uint64_t BlockKey(uint64_t seed, int64_t epoch) { return EpochKey(seed, epoch, kBlockTag); }

uint64_t WindowKey(uint64_t seed, int64_t epoch, int64_t chunk, int64_t window) {
  return Absorb(Absorb(EpochKey(seed, epoch, kWindowTag), static_cast<uint64_t>(chunk)), static_cast<uint64_t>(window));
}

uint64_t MixtureKey(uint64_t seed, int64_t segment_begin, int64_t block) {
  return Absorb(EpochKey(seed, segment_begin, kMixtureTag), static_cast<uint64_t>(block));
}

uint64_t MemberSeed(uint64_t seed, int64_t member) { return EpochKey(seed, member, kMemberTag); }

Permutation::Permutation(uint64_t key, int64_t n) : n_(n) {
  if (n >= kTableDomainEnd) {
    cipher_ = FeistelCipher<kFeistelRounds>(key, std::bit_width(static_cast<uint64_t>(n - 1)));
    return;
  }
  forward_.resize(static_cast<size_t>(n));
  FillShuffled(key, absl::MakeSpan(forward_));
}

void Permutation::ApplyAll(absl::Span<int64_t> values) const {
  if (!forward_.empty()) {
    for (int64_t& value : values) value = forward_[static_cast<size_t>(value)];
    return;
  }
  const FeistelCipher<kFeistelRounds> cipher = cipher_;  // a copy, which the stores below cannot change: its keys stay in registers
  const uint64_t n = static_cast<uint64_t>(n_);
  constexpr size_t kGroup = 256;
  uint16_t outside[kGroup];
  for (size_t begin = 0; begin < values.size(); begin += kGroup) {
    const absl::Span<int64_t> group = values.subspan(begin, kGroup);
    size_t count = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      const uint64_t y = cipher.Encrypt(static_cast<uint64_t>(group[i]));
      group[i] = static_cast<int64_t>(y);
      outside[count] = static_cast<uint16_t>(i);
      count += y >= n;
    }
    while (count > 0) {
      size_t still = 0;
      for (size_t k = 0; k < count; ++k) {
        const uint16_t i = outside[k];
        const uint64_t y = cipher.Encrypt(static_cast<uint64_t>(group[i]));
        group[i] = static_cast<int64_t>(y);
        outside[still] = i;
        still += y >= n;
      }
      count = still;
    }
  }
}

int64_t Permutation::Invert(int64_t y) const {
  if (!forward_.empty()) {
    std::call_once(inverse_once_, [this] {
      std::vector<uint16_t> inverse(forward_.size());
      for (size_t x = 0; x < forward_.size(); ++x) inverse[forward_[x]] = static_cast<uint16_t>(x);
      inverse_ = std::move(inverse);
    });
    return inverse_[static_cast<size_t>(y)];
  }
  const uint64_t n = static_cast<uint64_t>(n_);
  uint64_t x = static_cast<uint64_t>(y);
  do x = cipher_.Decrypt(x);
  while (x >= n);
  return static_cast<int64_t>(x);
}

}  // namespace penstock
