// Options by name, and their tables.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "capi/objects.h"
#include "penstock/c.h"

using namespace penstock;
using namespace penstock::capi;

namespace {

// One table as C sees it: the defaults are texts that live as long as the process.
struct Table {
  absl::Span<const OptionInfo> infos;
  std::vector<std::string> defaults;
};

template <typename Options>
Table MakeTable(absl::Span<const OptionInfo> infos) {
  Table table{infos, {}};
  for (const OptionInfo& info : infos) table.defaults.push_back(GetOption(Options(), info.name));
  return table;
}

// Null where there is no such table.
const Table* TableOf(int32_t table) {
  static const auto* tables = new Table[3]{MakeTable<LoaderOptions>(OptionTable()), MakeTable<IndexOptions>(IndexOptionTable()),
                                           MakeTable<RuntimeOptions>(RuntimeOptionTable())};
  return table >= PENSTOCK_LOADER_OPTIONS && table <= PENSTOCK_RUNTIME_OPTIONS ? &tables[table] : nullptr;
}

absl::Status NoTable(const char* function, int32_t table) {
  return absl::InvalidArgumentError(
      absl::StrCat(function, ": there is no option table ", table,
                   "; PENSTOCK_LOADER_OPTIONS, PENSTOCK_INDEX_OPTIONS and PENSTOCK_RUNTIME_OPTIONS are 0 to 2"));
}

// Runs `body` on the loader options behind a handle.
template <typename Body>
absl::Status WithLoaderOptions(const char* function, penstock_options* handle, Body&& body) {
  absl::StatusOr<std::shared_ptr<OptionsObject>> object = Find<OptionsObject>(function, handle);
  if (!object.ok()) return object.status();
  std::lock_guard<std::mutex> lock((*object)->mutex);
  auto* options = std::get_if<LoaderOptions>(&(*object)->options);
  if (options == nullptr) return absl::InvalidArgumentError(absl::StrCat(function, ": it takes options of PENSTOCK_LOADER_OPTIONS"));
  return body(*options);
}

// Runs `body` on an options object, for an option of that name; `value` is what comes in or goes out.
template <typename Body>
absl::Status WithOption(const char* function, const penstock_options* handle, const char* name, const void* value, Body&& body) {
  absl::StatusOr<std::shared_ptr<OptionsObject>> object = Find<OptionsObject>(function, handle);
  if (!object.ok()) return object.status();
  if (name == nullptr) return Missing(function, "name");
  if (value == nullptr) return Missing(function, "value");
  std::lock_guard<std::mutex> lock((*object)->mutex);
  return body((*object)->options);
}

}  // namespace

int64_t penstock_option_count(int32_t table) {
  int64_t count = -1;
  Call(nullptr, [&] {
    const Table* found = TableOf(table);
    if (found != nullptr) count = static_cast<int64_t>(found->infos.size());
    return absl::OkStatus();
  });
  return count;
}

penstock_code penstock_option_at(int32_t table, int64_t index, const char** name, const char** group, const char** type, const char** help,
                                 const char** default_value, penstock_error** error) {
  for (const char** out : {name, group, type, help, default_value}) {
    if (out != nullptr) *out = nullptr;
  }
  return Call(error, [&, function = __func__]() -> absl::Status {
    const Table* found = TableOf(table);
    if (found == nullptr) return NoTable(function, table);
    if (index < 0 || index >= static_cast<int64_t>(found->infos.size())) {
      return absl::OutOfRangeError(absl::StrCat(function, ": index ", index, " of a table of ", found->infos.size(), " options"));
    }
    const OptionInfo& info = found->infos[static_cast<size_t>(index)];
    if (name != nullptr) *name = info.name;
    if (group != nullptr) *group = info.kind;
    if (type != nullptr) *type = info.type;
    if (help != nullptr) *help = info.help;
    if (default_value != nullptr) *default_value = found->defaults[static_cast<size_t>(index)].c_str();
    return absl::OkStatus();
  });
}

penstock_code penstock_options_create(int32_t table, penstock_options** options, penstock_error** error) {
  if (options != nullptr) *options = nullptr;
  return Call(error, [&, function = __func__]() -> absl::Status {
    if (options == nullptr) return Missing(function, "options");
    if (TableOf(table) == nullptr) return NoTable(function, table);
    auto object = std::make_shared<OptionsObject>();
    if (table == PENSTOCK_INDEX_OPTIONS) object->options = IndexOptions();
    if (table == PENSTOCK_RUNTIME_OPTIONS) object->options = RuntimeOptions();
    return Give(std::move(object), options);
  });
}

penstock_code penstock_options_close(penstock_options* options, penstock_error** error) {
  return Call(error, [&, function = __func__] { return Take<OptionsObject>(function, options).status(); });
}

penstock_code penstock_options_set(penstock_options* options, const char* name, const char* value, penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithOption(function, options, name, value,
                      [&](auto& held) { return std::visit([&](auto& of) { return SetOption(of, name, value); }, held); });
  });
}

penstock_code penstock_options_get(const penstock_options* options, const char* name, char** value, penstock_error** error) {
  if (value != nullptr) *value = nullptr;
  return Call(error, [&, function = __func__] {
    return WithOption(function, options, name, value, [&](const auto& held) -> absl::Status {
      for (const OptionInfo& info : TableOf(static_cast<int32_t>(held.index()))->infos) {
        if (absl::string_view(info.name) != name) continue;
        return GiveText(std::visit([&](const auto& of) { return GetOption(of, name); }, held), value);
      }
      // For the text with the nearest name.
      return std::visit([&](auto of) { return SetOption(of, name, ""); }, held);
    });
  });
}

penstock_code penstock_options_set_cancel(penstock_options* options, const int32_t* flag, penstock_error** error) {
  return Call(error, [&, function = __func__]() -> absl::Status {
    absl::StatusOr<std::shared_ptr<OptionsObject>> object = Find<OptionsObject>(function, options);
    if (!object.ok()) return object.status();
    std::lock_guard<std::mutex> lock((*object)->mutex);
    if (std::get_if<RuntimeOptions>(&(*object)->options) != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(function, ": a runtime opens nothing; it takes options of loaders and of indexing"));
    }
    (*object)->cancel = flag;
    return absl::OkStatus();
  });
}

penstock_code penstock_options_set_ids(penstock_options* options, const void* ids, int32_t id_bytes, int64_t count,
                                       penstock_error** error) {
  return Call(error, [&, function = __func__] {
    return WithLoaderOptions(function, options, [&](LoaderOptions& loader_options) -> absl::Status {
      constexpr int64_t kCountMax = int64_t{1} << 40;
      if (count < 0 || count > kCountMax) return absl::InvalidArgumentError(absl::StrCat(function, ": count is ", count));
      if (ids == nullptr && count > 0) return Missing(function, "ids");
      if (id_bytes != 4 && id_bytes != 8) {
        return absl::InvalidArgumentError(absl::StrCat(function, ": id_bytes is ", id_bytes, "; an id has 4 or 8 bytes"));
      }
      std::vector<int64_t> copied(static_cast<size_t>(count));
      // By memcpy, for the caller's memory need not be aligned.
      if (id_bytes == 8 && count > 0) {
        std::memcpy(copied.data(), ids, copied.size() * sizeof(int64_t));
      } else {
        for (size_t i = 0; i < copied.size(); ++i) {
          int32_t id;
          std::memcpy(&id, static_cast<const char*>(ids) + i * sizeof id, sizeof id);
          copied[i] = id;
        }
      }
      loader_options.ids = std::move(copied);
      return absl::OkStatus();
    });
  });
}

penstock_code penstock_options_set_codec(penstock_options* options, penstock_codec_function function, void* user, penstock_error** error) {
  return Call(error, [&, name = __func__] {
    return WithLoaderOptions(name, options, [&](LoaderOptions& loader_options) {
      loader_options.codec.function = function;
      loader_options.codec.user = user;
      return absl::OkStatus();
    });
  });
}
