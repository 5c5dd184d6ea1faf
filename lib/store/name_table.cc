#include "store/name_table.h"

namespace penstock {

void NameTable::RelativeName(uint32_t object, std::string& path) const {
  path.clear();
  const char* name = LastName(object);
  if (*name == '\0') return;
  path = FolderName(folder[object]);
  if (!path.empty() && path.back() != '/') path += '/';
  path += name;
}

}  // namespace penstock
