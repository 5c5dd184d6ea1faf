// The objects of several stores as one: those of store d begin where those of store d-1 end.
#ifndef PENSTOCK_STORE_JOINED_STORE_H_
#define PENSTOCK_STORE_JOINED_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "store/object_store.h"

namespace penstock {

class JoinedStore : public ObjectStore {
 public:
  // `first_objects`: of each store, ascending, and behind them the number of all objects.
  JoinedStore(std::vector<std::shared_ptr<const ObjectStore>> stores, std::vector<uint64_t> first_objects)
      : stores_(std::move(stores)), first_objects_(std::move(first_objects)) {}

  absl::StatusOr<OpenTarget> Target(uint32_t object, std::string& scratch) const override;
  void Prefetch(absl::Span<const uint32_t> objects) const override;
  std::string Name(uint32_t object) const override;

 private:
  // Of an object beyond the last one: the last store, which refuses it.
  size_t StoreOf(uint32_t object) const;
  uint32_t OwnObject(size_t store, uint32_t object) const { return static_cast<uint32_t>(object - first_objects_[store]); }

  const std::vector<std::shared_ptr<const ObjectStore>> stores_;
  const std::vector<uint64_t> first_objects_;
};

}  // namespace penstock

#endif  // PENSTOCK_STORE_JOINED_STORE_H_
