#include "manifest/joined.h"

#include <xxhash.h>

#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr size_t kMembersMax = 256;  // of a mixture

bool SameClasses(const Manifest& a, const Manifest& b) {
  if (a.class_count() != b.class_count()) return false;
  for (int64_t label = 0; label < a.class_count(); ++label) {
    if (a.class_name(static_cast<int32_t>(label)) != b.class_name(static_cast<int32_t>(label))) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Manifest>> Manifest::Join(absl::Span<const std::shared_ptr<const Manifest>> members) {
  if (members.empty() || members.size() > kMembersMax) {
    return absl::InvalidArgumentError(absl::StrCat("joining ", members.size(), " manifests: from 1 to ", kMembersMax, " can be joined"));
  }
  auto joined = std::make_unique<Joined>();
  std::shared_ptr<Manifest> manifest(new Manifest);
  std::string fingerprints = "penstock joined 1";
  joined->first_ids = {0};
  joined->first_objects = {0};
  joined->same_classes = true;
  for (const std::shared_ptr<const Manifest>& member : members) {
    if (member == nullptr || member->joined_ != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("joining manifests: member ", joined->members.size(),
                                                     member == nullptr ? " is null" : " is joined itself; give its members"));
    }
    joined->same_classes = joined->same_classes && SameClasses(*members[0], *member);
    manifest->is_mapped_ = manifest->is_mapped_ || member->is_mapped_;
    manifest->range_count_ += member->range_count_;
    manifest->max_stored_bytes_ = std::max(manifest->max_stored_bytes_, member->max_stored_bytes_);
    manifest->max_delivered_bytes_ = std::max(manifest->max_delivered_bytes_, member->max_delivered_bytes_);
    manifest->total_bytes_ += member->total_bytes_;
    joined->first_ids.push_back(joined->first_ids.back() + member->sample_count_);
    joined->first_objects.push_back(joined->first_objects.back() + static_cast<uint64_t>(member->object_count_));
    absl::StrAppend(&fingerprints, " ", member->fingerprint());
    joined->members.push_back(member);
  }
  if (joined->first_objects.back() > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("joining manifests of ", joined->first_objects.back(),
                                                   " files: up to 2^32-1 can be joined; pack some of the data sets into shards"));
  }
  manifest->sample_count_ = joined->first_ids.back();
  manifest->object_count_ = static_cast<int64_t>(joined->first_objects.back());
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(fingerprints.data(), fingerprints.size()));
  joined->fingerprint = absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(canonical.digest), sizeof canonical.digest));
  manifest->joined_ = std::move(joined);
  return std::shared_ptr<const Manifest>(std::move(manifest));
}

int64_t Manifest::member_count() const { return joined_ == nullptr ? 1 : static_cast<int64_t>(joined_->members.size()); }

const Manifest& Manifest::member(int64_t member) const {
  return joined_ == nullptr ? *this : *joined_->members[static_cast<size_t>(member)];
}

int64_t Manifest::FirstIdOf(int64_t member) const {
  return joined_ == nullptr ? (member == 0 ? 0 : sample_count_) : joined_->first_ids[static_cast<size_t>(member)];
}

int64_t Manifest::JoinedMemberOf(int64_t id) const { return static_cast<int64_t>(joined_->MemberOf(id)); }

int32_t Manifest::JoinedLabel(int64_t id) const {
  const Joined::Place place = joined_->OfId(id);
  return place.manifest.Label(place.id);
}

uint32_t Manifest::JoinedCrc(int64_t id, int i) const {
  const Joined::Place place = joined_->OfId(id);
  return place.manifest.Crc(place.id, i);
}

uint64_t Manifest::JoinedObjectBytes(uint32_t object) const {
  const Joined::Place place = joined_->OfObject(object);
  return place.manifest.ObjectBytes(static_cast<uint32_t>(place.id));
}

uint64_t Manifest::JoinedPlaceHint(uint32_t object) const {
  const Joined::Place place = joined_->OfObject(object);
  return place.manifest.place_hint(static_cast<uint32_t>(place.id));
}

int64_t Manifest::JoinedMtime(uint32_t object) const {
  const Joined::Place place = joined_->OfObject(object);
  return place.manifest.mtime_ns(static_cast<uint32_t>(place.id));
}

bool Manifest::JoinedHasLabels() const {
  return std::any_of(joined_->members.begin(), joined_->members.end(), [](const auto& member) { return member->has_labels(); });
}

bool Manifest::JoinedHasCrc() const {
  return std::all_of(joined_->members.begin(), joined_->members.end(), [](const auto& member) { return member->has_crc(); });
}

bool Manifest::JoinedHasMtimes() const {
  return std::all_of(joined_->members.begin(), joined_->members.end(), [](const auto& member) { return member->has_mtimes(); });
}

bool Manifest::JoinedEndsObject(const Range& range) const {
  const Joined::Place place = joined_->OfObject(range.object);
  Range own = range;
  own.object = static_cast<uint32_t>(place.id);
  return place.manifest.EndsObject(own);
}

bool Manifest::JoinedPacked() const {
  return std::any_of(joined_->members.begin(), joined_->members.end(), [](const auto& member) { return member->packed(); });
}

}  // namespace penstock
