#include "plan/sort_by_place.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/container/fixed_array.h"

namespace penstock {
namespace {

constexpr int kDigitBits = 8;
constexpr uint64_t kDigits = 1 << kDigitBits;

// Sorts by the digits of one field of which some bit differs. The result is in `from`, which may be the other memory then.
template <typename Field>
void SortByField(Field PlaceKey::*field, absl::Span<PlaceKey>& from, absl::Span<PlaceKey>& to) {
  Field differs = 0;
  for (const PlaceKey& key : from) differs |= key.*field ^ from[0].*field;
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Field)); shift += kDigitBits) {
    if ((differs >> shift) % kDigits == 0) continue;
    std::array<uint32_t, kDigits> place{};  // of the next key with this digit
    for (const PlaceKey& key : from) ++place[(key.*field >> shift) % kDigits];
    uint32_t before = 0;
    for (uint32_t& count : place) before += std::exchange(count, before);
    for (const PlaceKey& key : from) to[place[(key.*field >> shift) % kDigits]++] = key;
    std::swap(from, to);
  }
}

}  // namespace

void SortByPlace(absl::Span<PlaceKey> keys) {
  if (keys.empty()) return;
  absl::FixedArray<PlaceKey> others(keys.size());
  absl::Span<PlaceKey> from = keys;
  absl::Span<PlaceKey> to = absl::MakeSpan(others);
  SortByField(&PlaceKey::offset_bytes, from, to);
  SortByField(&PlaceKey::object, from, to);
  if (from.data() != keys.data()) std::copy(from.begin(), from.end(), keys.begin());
}

}  // namespace penstock
