// Options of the benchmark programs: "--name value", "--name=value" or a bare "--name". A program asks for each option once and
// then calls Finish(), which refuses what nobody asked for.
#ifndef PENSTOCK_BENCH_BASELINES_ARGS_H_
#define PENSTOCK_BENCH_BASELINES_ARGS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace penstock::bench {

// Prints "error: ..." and ends the process with status 1. Benchmarks have one caller and nothing to clean up.
[[noreturn]] void Die(const char* format, ...) __attribute__((format(printf, 1, 2)));

class Args {
 public:
  // `usage` is printed for --help and after a mistake.
  Args(int count, char** values, const char* usage);

  bool Flag(const char* name);
  bool Has(const char* name) const;
  int64_t Int(const char* name, int64_t fallback, int64_t least, int64_t most);
  int64_t Bytes(const char* name, int64_t fallback);  // "4096", "512KiB"
  double Double(const char* name, double fallback);
  // `choices` is empty, or the values allowed.
  std::string Text(const char* name, const std::string& fallback, const std::vector<std::string>& choices = {});
  // The one argument without dashes. Ends the program where there is none, or a second one, or an unknown option.
  std::string Finish();

 private:
  struct Given {
    std::string text;
    bool used = false;
  };
  [[noreturn]] void Refuse(const std::string& why) const;
  // The value of option `name`, or nullptr where it is not given. Takes its arguments out of what Finish() looks at.
  const char* Value(const char* name);

  const char* usage_;
  std::vector<Given> given_;
};

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_BASELINES_ARGS_H_
