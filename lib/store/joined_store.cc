#include "store/joined_store.h"

#include <algorithm>

namespace penstock {

size_t JoinedStore::StoreOf(uint32_t object) const {
  const auto after = std::upper_bound(first_objects_.begin(), first_objects_.end() - 1, uint64_t{object});
  return static_cast<size_t>(after - first_objects_.begin()) - 1;
}

absl::StatusOr<OpenTarget> JoinedStore::Target(uint32_t object, std::string& scratch) const {
  const size_t store = StoreOf(object);
  return stores_[store]->Target(OwnObject(store, object), scratch);
}

void JoinedStore::Prefetch(absl::Span<const uint32_t> objects) const {
  // By store, so that each sees its objects together.
  std::vector<std::vector<uint32_t>> own(stores_.size());
  for (const uint32_t object : objects) {
    const size_t store = StoreOf(object);
    own[store].push_back(OwnObject(store, object));
  }
  for (size_t store = 0; store < own.size(); ++store) {
    if (!own[store].empty()) stores_[store]->Prefetch(own[store]);
  }
}

std::string JoinedStore::Name(uint32_t object) const {
  const size_t store = StoreOf(object);
  return stores_[store]->Name(OwnObject(store, object));
}

}  // namespace penstock
