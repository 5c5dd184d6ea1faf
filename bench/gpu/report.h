// What gpu_bench found: rows with a figure or the reason why there is none, written as JSON and as a table.
#ifndef PENSTOCK_BENCH_GPU_REPORT_H_
#define PENSTOCK_BENCH_GPU_REPORT_H_

#include <functional>
#include <string>
#include <vector>

namespace penstock::bench {

struct Row {
  std::string question;  // rows of one question stand together
  std::string arm;
  double value = 0;
  std::string unit;
  std::string note;      // what else was seen; or why there is no figure
  bool measured = false;
};

class Report {
 public:
  void Fact(const std::string& name, const std::string& value) { facts_.emplace_back(name, value); }
  void Add(const std::string& question, const std::string& arm, double value, const std::string& unit, const std::string& note = "");
  void Skip(const std::string& question, const std::string& arm, const std::string& reason);
  // Runs one measurement; what it throws is the reason why there is no figure.
  void Try(const std::string& question, const std::string& arm, const std::function<void()>& measure);

  // The largest figure of a question; 0 where there is none.
  double Best(const std::string& question) const;

  // Both throw where they cannot write.
  void WriteJson(const std::string& path) const;
  void WriteTable(const std::string& path) const;

 private:
  void Print(const Row& row) const;
  std::vector<std::pair<std::string, std::string>> facts_;
  std::vector<Row> rows_;
};

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_GPU_REPORT_H_
