// A folder of a test, removed with everything in it.
#ifndef PENSTOCK_TESTS_STORE_TEMP_FOLDER_H_
#define PENSTOCK_TESTS_STORE_TEMP_FOLDER_H_

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <catch2/catch.hpp>

namespace penstock::testing {

class TempFolder {
 public:
  TempFolder() {
    // In a folder of its own, for what is kept beside a data set.
    char name[] = "/tmp/penstock-test-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    above_ = name;
    REQUIRE(::chmod(name, 0755) == 0);
    path_ = above_ + "/t";
    REQUIRE(::mkdir(path_.c_str(), 0700) == 0);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    // A test may have taken the permission away.
    ::chmod(above_.c_str(), 0755);
    ::chmod(path_.c_str(), 0755);
    std::error_code ignored;
    std::filesystem::remove_all(above_, ignored);
  }

  const std::string& path() const { return path_; }
  const std::string& above() const { return above_; }
  std::string At(const std::string& name) const { return path_ + "/" + name; }

  // A file with its folders; returns its path.
  std::string Write(const std::string& name, const std::string& content = "") const {
    const std::string path = At(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << content;
    out.close();
    REQUIRE(out.good());
    return path;
  }
  std::string MakeFolder(const std::string& name) const {
    std::filesystem::create_directories(At(name));
    return At(name);
  }
  void Link(const std::string& target, const std::string& name) const { REQUIRE(::symlink(target.c_str(), At(name).c_str()) == 0); }

 private:
  std::string above_;
  std::string path_;
};

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_STORE_TEMP_FOLDER_H_
