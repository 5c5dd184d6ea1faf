// A mounted file system with faults, for a test: see fault_fs_main.cc for what it can do.
#ifndef PENSTOCK_TESTS_SUPPORT_FAULT_FS_H_
#define PENSTOCK_TESTS_SUPPORT_FAULT_FS_H_

#include <sys/types.h>

#include <string>

namespace penstock::testing {

// Mounts in its own temporary folder. Where FUSE cannot be used the test is skipped, with the reason.
class FaultFs {
 public:
  FaultFs();
  // Removes all faults, so that what hangs goes on, and unmounts.
  ~FaultFs();
  FaultFs(const FaultFs&) = delete;
  FaultFs& operator=(const FaultFs&) = delete;

  const std::string& backing() const { return backing_; }  // make files here
  const std::string& mounted() const { return mounted_; }  // read them here

  // Replaces all faults, for instance "*.bin eio 0 4096\nslow/* delay 20000\n". In force when it returns.
  void Set(const std::string& faults);
  void Clear() { Set(""); }
  // How many reads and opens have begun to hang since the beginning. A test that needs one to hang waits for this, not for a time.
  int64_t hangs() const;
  // True once nothing has a file open on it. (A busy file system cannot be unmounted.)
  bool Unmount();

 private:
  std::string folder_;
  std::string backing_;
  std::string mounted_;
  std::string control_;
  pid_t pid_ = -1;
  bool is_mounted_ = false;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_FAULT_FS_H_
