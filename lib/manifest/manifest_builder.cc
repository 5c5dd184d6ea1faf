#include <unistd.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "manifest/checksums.h"
#include "manifest/manifest_data.h"
#include "manifest/place.h"
#include "manifest/place_order.h"
#include "manifest/save_file.h"
#include "penstock/manifest.h"

namespace penstock {

namespace {

absl::Status Save(const ManifestData& data, const std::string& path) {
  absl::StatusOr<SaveFile> file = SaveFile::Create(path);
  if (!file.ok()) return file.status();
  const absl::Status status = data.WriteTo(*file);
  return status.ok() ? file->Commit() : status;
}

}  // namespace

struct ManifestBuilder::Impl {
  explicit Impl(std::string root) : data(std::move(root)) {}
  ManifestData data;
  std::unordered_map<std::string, uint32_t> folders;
};

ManifestBuilder::ManifestBuilder(absl::string_view root) : impl_(new Impl(AbsolutePath(root))) {}
ManifestBuilder::~ManifestBuilder() = default;

absl::StatusOr<uint32_t> ManifestBuilder::AddObject(absl::string_view name, uint64_t bytes, uint64_t inode, int64_t mtime_ns) {
  if (name.empty() || name.back() == '/' || name.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("manifest of ", EscapeName(impl_->data.root()), ": \"", EscapeName(name),
                                                   "\" is no name of a file; it is empty, ends in a slash or has a NUL byte"));
  }
  const SplitName split = SplitAtLastSlash(name);
  const auto [found, is_new] = impl_->folders.try_emplace(std::string(split.folder), 0);
  if (is_new) found->second = impl_->data.AddFolder(split.folder, kMtimeUnknown);
  return impl_->data.AddObject(found->second, split.name, bytes, inode, mtime_ns);
}

absl::StatusOr<int64_t> ManifestBuilder::AddSample(int32_t label, absl::Span<const Range> ranges, absl::Span<const uint32_t> crcs) {
  return impl_->data.AddSample(label, ranges, crcs);
}

void ManifestBuilder::SetClassNames(absl::Span<const std::string> names) {
  impl_->data.SetClassNames(std::vector<std::string>(names.begin(), names.end()));
}

absl::Status ManifestBuilder::Write(absl::string_view path, const ManifestWriteOptions& options) {
  ManifestData& data = impl_->data;
  if (options.crc) {
    if (data.has_crcs()) {
      return absl::InvalidArgumentError(
          absl::StrCat("manifest of ", EscapeName(data.root()), ": its samples were added with checksums; leave out crc"));
    }
    absl::StatusOr<std::vector<uint32_t>> crcs = ComputeChecksums(data, std::max(options.threads, 1), nullptr, nullptr);
    if (!crcs.ok()) return crcs.status();
    data.SetCrcs(*std::move(crcs));
  }
  if (options.place != PlaceOrder::kNone) {
    absl::StatusOr<std::vector<uint32_t>> order = OrderByPlace(data, options.place, std::max(options.threads, 1), nullptr);
    if (!order.ok()) return order.status();
    data.SetPlaceOrder(options.place, *std::move(order));
  }
  const absl::Status status = Save(data, std::string(path));
  // What Write() found out is of this file only: samples may follow.
  if (options.crc) data.SetCrcs({});
  data.SetPlaceOrder(PlaceOrder::kNone, {});
  return status;
}

}  // namespace penstock
