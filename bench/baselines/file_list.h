// The files of a data set with their sizes, known before the clock starts, and their folders held open.
#ifndef PENSTOCK_BENCH_BASELINES_FILE_LIST_H_
#define PENSTOCK_BENCH_BASELINES_FILE_LIST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace penstock::bench {

struct FileList {
  struct File {
    uint32_t folder;       // index into folders
    uint32_t name_offset;  // into names; ended by a NUL byte
    int64_t bytes;
  };
  std::vector<UniqueFd> folders;
  std::vector<File> files;
  std::string names;      // names relative to the file's folder; neither moves nor changes once loaded
  std::string from;       // "walk", or the list file
  double seconds = 0;     // what loading it took

  int FolderFd(uint32_t id) const { return folders[files[id].folder].get(); }
  const char* Name(uint32_t id) const { return names.data() + files[id].name_offset; }
};

// Loads the list of the folder `root`.
//
// From `list_path` where that file exists ("bytes TAB relative name" a line, as make_files writes it); else by a walk that asks for
// the size of every file, and so leaves the metadata warm: a cold measurement needs the list. Where `list_path` is given and no
// such file exists, the walk's outcome is written to it. An empty `list_path` means root + ".list", which is read but never written.
// Ends the program with a message where the folder or the list cannot be read.
FileList LoadFileList(const std::string& root, const std::string& list_path);

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_BASELINES_FILE_LIST_H_
