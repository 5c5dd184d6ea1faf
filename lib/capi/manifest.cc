// Manifests: made, opened, asked.
#include <string>

#include "capi/json.h"
#include "capi/objects.h"
#include "penstock/c.h"

using namespace penstock;
using namespace penstock::capi;

namespace {

absl::Status GiveManifest(std::shared_ptr<const Manifest> manifest, penstock_manifest** handle) {
  auto object = std::make_shared<ManifestObject>();
  object->manifest = std::move(manifest);
  return Give(std::move(object), handle);
}

using Indexer = absl::StatusOr<IndexResult> (*)(absl::string_view root, const IndexOptions& options);

absl::Status Index(const char* function, Indexer index, const char* root, const penstock_options* options, penstock_manifest** manifest,
                   char** counts_json) {
  if (root == nullptr) return Missing(function, "root");
  if (manifest == nullptr) return Missing(function, "manifest");
  const absl::StatusOr<IndexOptions> index_options = CopyOptions<IndexOptions>(function, options, /*optional=*/true);
  if (!index_options.ok()) return index_options.status();
  absl::StatusOr<IndexResult> result = CallUntilCancelled<IndexResult>(
      options, [index, root = std::string(root), given = *index_options] { return index(root, given); });
  if (!result.ok()) return result.status();
  std::string counts;
  if (counts_json != nullptr) counts = ToJson(result->counts);
  if (absl::Status status = GiveManifest(std::move(result->manifest), manifest); !status.ok()) return status;
  return counts_json == nullptr ? absl::OkStatus() : GiveText(counts, counts_json);
}

// Runs `body` on the manifest behind a handle.
template <typename Body>
absl::Status WithManifest(const char* function, const penstock_manifest* handle, Body&& body) {
  absl::StatusOr<std::shared_ptr<ManifestObject>> object = Find<ManifestObject>(function, handle);
  if (!object.ok()) return object.status();
  return body(*(*object)->manifest);
}

// A text of the manifest, with its length.
template <typename Text>
penstock_code GetText(const char* function, const penstock_manifest* handle, char** text, int64_t* bytes, penstock_error** error,
                      Text&& of) {
  if (text != nullptr) *text = nullptr;
  if (bytes != nullptr) *bytes = 0;
  return Call(error, [&] {
    return WithManifest(function, handle, [&](const Manifest& manifest) -> absl::Status {
      if (text == nullptr) return Missing(function, "text");
      absl::StatusOr<std::string> got = of(manifest);
      return got.ok() ? GiveBytes(*got, text, bytes) : got.status();
    });
  });
}

}  // namespace

penstock_code penstock_manifest_open(const char* root, const penstock_options* index_options, penstock_manifest** manifest,
                                     penstock_error** error) {
  if (manifest != nullptr) *manifest = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (root == nullptr) return Missing(function, "root");
    if (manifest == nullptr) return Missing(function, "manifest");
    const absl::StatusOr<IndexOptions> options = CopyOptions<IndexOptions>(function, index_options, /*optional=*/true);
    if (!options.ok()) return options.status();
    absl::StatusOr<std::shared_ptr<const Manifest>> opened = CallUntilCancelled<std::shared_ptr<const Manifest>>(
        index_options, [root = std::string(root), given = *options] { return Manifest::Open(root, given); });
    return opened.ok() ? GiveManifest(*std::move(opened), manifest) : opened.status();
  });
}

penstock_code penstock_manifest_build(const char* root, const penstock_options* index_options, penstock_manifest** manifest,
                                      char** counts_json, penstock_error** error) {
  if (manifest != nullptr) *manifest = nullptr;
  if (counts_json != nullptr) *counts_json = nullptr;
  return Call(error, [&, function = __func__] { return Index(function, &Manifest::Build, root, index_options, manifest, counts_json); });
}

penstock_code penstock_manifest_update(const char* root, const penstock_options* index_options, penstock_manifest** manifest,
                                       char** counts_json, penstock_error** error) {
  if (manifest != nullptr) *manifest = nullptr;
  if (counts_json != nullptr) *counts_json = nullptr;
  return Call(error, [&, function = __func__] { return Index(function, &Manifest::Update, root, index_options, manifest, counts_json); });
}

penstock_code penstock_manifest_open_saved(const char* manifest_path, const char* root, penstock_manifest** manifest,
                                           penstock_error** error) {
  if (manifest != nullptr) *manifest = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (manifest_path == nullptr) return Missing(function, "manifest_path");
    if (manifest == nullptr) return Missing(function, "manifest");
    OpenSavedOptions options;
    if (root != nullptr) options.root = root;
    absl::StatusOr<std::shared_ptr<const Manifest>> opened = Manifest::OpenSaved(manifest_path, options);
    return opened.ok() ? GiveManifest(*std::move(opened), manifest) : opened.status();
  });
}

penstock_code penstock_manifest_close(penstock_manifest* manifest, penstock_error** error) {
  return Call(error, [&, function = __func__] { return Take<ManifestObject>(function, manifest).status(); });
}

penstock_code penstock_manifest_get(const penstock_manifest* manifest, penstock_manifest_view* view, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithManifest(function, manifest, [&](const Manifest& of) -> absl::Status {
      if (view == nullptr) return Missing(function, "view");
      penstock_manifest_view filled{};
      filled.sample_count = of.sample_count();
      filled.object_count = of.object_count();
      filled.class_count = of.class_count();
      filled.total_bytes = static_cast<int64_t>(of.total_bytes());
      filled.max_sample_bytes = static_cast<int64_t>(of.max_delivered_bytes());
      filled.record_bytes = static_cast<int64_t>(of.record_bytes());
      filled.file_bytes = static_cast<int64_t>(of.file_bytes());
      filled.has_labels = of.has_labels() ? 1 : 0;
      filled.has_checksums = of.has_crc() ? 1 : 0;
      filled.has_mtimes = of.has_mtimes() ? 1 : 0;
      filled.has_place_order = of.has_place_order() ? 1 : 0;
      return FillView(function, filled, offsetof(penstock_manifest_view, has_place_order) + sizeof(int32_t), view);
    });
  });
}

penstock_code penstock_manifest_fingerprint(const penstock_manifest* manifest, char** text, penstock_error** error) {
  return GetText(__func__, manifest, text, nullptr, error, [](const Manifest& of) { return of.fingerprint(); });
}

penstock_code penstock_manifest_root(const penstock_manifest* manifest, char** text, int64_t* bytes, penstock_error** error) {
  return GetText(__func__, manifest, text, bytes, error, [](const Manifest& of) { return of.root(); });
}

penstock_code penstock_manifest_path(const penstock_manifest* manifest, char** text, int64_t* bytes, penstock_error** error) {
  return GetText(__func__, manifest, text, bytes, error, [](const Manifest& of) { return of.path(); });
}

penstock_code penstock_manifest_sample_name(const penstock_manifest* manifest, int64_t id, char** text, int64_t* bytes,
                                            penstock_error** error) {
  return GetText(__func__, manifest, text, bytes, error, [&, function = __func__](const Manifest& of) -> absl::StatusOr<std::string> {
    if (id < 0 || id >= of.sample_count())
      return absl::OutOfRangeError(absl::StrCat(function, ": id ", id, " of ", of.sample_count(), " samples"));
    return of.Name(id);
  });
}

penstock_code penstock_manifest_class_name(const penstock_manifest* manifest, int32_t label, char** text, int64_t* bytes,
                                           penstock_error** error) {
  return GetText(__func__, manifest, text, bytes, error, [&, function = __func__](const Manifest& of) -> absl::StatusOr<std::string> {
    if (label < 0 || label >= of.class_count())
      return absl::OutOfRangeError(absl::StrCat(function, ": label ", label, " of ", of.class_count(), " classes"));
    return of.class_name(label);
  });
}

penstock_code penstock_manifest_fields_json(const penstock_manifest* manifest, char** json, penstock_error** error) {
  return GetText(__func__, manifest, json, nullptr, error, [](const Manifest& of) { return ToJson(of.field_types()); });
}

penstock_code penstock_manifest_samples(const penstock_manifest* manifest, int64_t first, int64_t count, int64_t* sizes, int32_t* labels,
                                        penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithManifest(function, manifest, [&](const Manifest& of) -> absl::Status {
      if (first < 0 || count < 0 || first > of.sample_count() || count > of.sample_count() - first) {
        return absl::OutOfRangeError(
            absl::StrCat(function, ": first ", first, " and count ", count, " of ", of.sample_count(), " samples"));
      }
      for (int64_t i = 0; i < count; ++i) {
        if (sizes != nullptr) sizes[i] = static_cast<int64_t>(of.DeliveredBytes(first + i));
        if (labels != nullptr) labels[i] = of.Label(first + i);
      }
      return absl::OkStatus();
    });
  });
}

penstock_code penstock_manifest_verify(const penstock_manifest* manifest, penstock_error** error) {
  return Call(error, [&, function = __func__] { return WithManifest(function, manifest, [](const Manifest& of) { return of.Verify(); }); });
}
