// What a joined manifest holds: its members, and where the ids and objects of each begin.
#ifndef PENSTOCK_MANIFEST_JOINED_H_
#define PENSTOCK_MANIFEST_JOINED_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "penstock/manifest.h"

namespace penstock {

struct Manifest::Joined {
  // A member, and the number there of what was asked for.
  struct Place {
    const Manifest& manifest;
    int64_t id;
  };

  std::vector<std::shared_ptr<const Manifest>> members;
  std::vector<int64_t> first_ids;       // and behind them the number of all ids
  std::vector<uint64_t> first_objects;  // likewise
  std::string root = "/";
  std::string fingerprint;
  bool same_classes = false;

  size_t MemberOf(int64_t id) const { return Of(first_ids, id); }
  Place OfId(int64_t id) const {
    const size_t d = MemberOf(id);
    return {*members[d], id - first_ids[d]};
  }
  Place OfObject(uint32_t object) const {
    const size_t d = Of(first_objects, uint64_t{object});
    return {*members[d], static_cast<int64_t>(object - first_objects[d])};
  }

 private:
  // A member without samples has none of the numbers: the one behind it begins with the same.
  template <typename Number>
  static size_t Of(const std::vector<Number>& firsts, Number number) {
    return static_cast<size_t>(std::upper_bound(firsts.begin(), firsts.end() - 1, number) - firsts.begin()) - 1;
  }
};

}  // namespace penstock

#endif  // PENSTOCK_MANIFEST_JOINED_H_
