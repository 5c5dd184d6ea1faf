// The names of a manifest's objects, as they lie in its mapping: folder and last component apart, both NUL-terminated, so
// that a name goes to openat(2) without being copied.
#ifndef PENSTOCK_STORE_NAME_TABLE_H_
#define PENSTOCK_STORE_NAME_TABLE_H_

#include <cstdint>
#include <string>

namespace penstock {

// Every lookup stays inside the table whatever the columns hold: a manifest's columns are not always verified when it is opened.
// What cannot be looked up is the empty name, which the kernel refuses to open.
//
// The owner promises that `names` and `folder_names` end with a NUL byte where they are not empty.
struct NameTable {
  static constexpr int kBlockShift = 16;  // names of 2^16 objects share one 64-bit base, so that an offset takes 4 bytes

  uint64_t object_count = 0;
  const uint64_t* name_base = nullptr;    // per block
  const uint32_t* name_offset = nullptr;  // per object, from its block's base
  const char* names = nullptr;
  uint64_t names_bytes = 0;
  const uint32_t* folder = nullptr;  // per object

  uint64_t folder_count = 0;
  const uint64_t* folder_offset = nullptr;  // per folder
  const char* folder_names = nullptr;       // relative to the root, "" for the root itself; or absolute
  uint64_t folder_names_bytes = 0;

  // The last component of the object's name.
  const char* LastName(uint32_t object) const {
    if (object >= object_count || folder[object] >= folder_count) return "";
    const uint64_t base = name_base[object >> kBlockShift];
    const uint64_t offset = base + name_offset[object];
    return offset < base || offset >= names_bytes ? "" : names + offset;
  }

  const char* FolderName(uint32_t folder_index) const {
    if (folder_index >= folder_count || folder_offset[folder_index] >= folder_names_bytes) return "";
    return folder_names + folder_offset[folder_index];
  }

  // "folder/name", replacing what `path` held.
  void RelativeName(uint32_t object, std::string& path) const;
};

}  // namespace penstock

#endif  // PENSTOCK_STORE_NAME_TABLE_H_
