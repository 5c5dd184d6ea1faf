// The same PGM files read through torch's own data set API, to compare with: one open, read and close per image, in torch's worker threads.
#ifndef PENSTOCK_EXAMPLES_PLAIN_DATASET_H_
#define PENSTOCK_EXAMPLES_PLAIN_DATASET_H_

#include <torch/torch.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

class PlainDataset : public torch::data::datasets::Dataset<PlainDataset> {
 public:
  // `list` has a line `path<TAB>label` per image, paths relative to its folder; `header` is what each file must begin with.
  PlainDataset(const std::string& list, std::string header, int64_t rows, int64_t columns)
      : header_(std::move(header)), rows_(rows), columns_(columns) {
    const std::string folder = list.substr(0, list.rfind('/') + 1);
    std::ifstream lines(list);
    std::string line;
    while (std::getline(lines, line)) {
      const size_t tab = line.find('\t');
      if (tab == std::string::npos) throw std::runtime_error(list + ": a line without a tab: " + line);
      files_.push_back({folder + line.substr(0, tab), std::stoll(line.substr(tab + 1))});
    }
    if (files_.empty()) throw std::runtime_error(list + ": cannot be read, or is empty");
  }

  torch::data::Example<> get(size_t index) override {
    const auto& [path, label] = files_[index];
    std::ifstream file(path, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const size_t file_bytes = header_.size() + static_cast<size_t>(rows_ * columns_);
    if (!file || content.size() != file_bytes || content.compare(0, header_.size(), header_) != 0) {
      throw std::runtime_error(path + ": cannot be read as a PGM image of the expected size");
    }
    char* const pixels = const_cast<char*>(content.data()) + header_.size();
    const torch::Tensor bytes = torch::from_blob(pixels, {1, rows_, columns_}, torch::kUInt8);  // not a copy; to(kFloat32) makes one
    return {bytes.to(torch::kFloat32).div_(255), torch::tensor(label)};
  }

  torch::optional<size_t> size() const override { return files_.size(); }

 private:
  std::string header_;
  int64_t rows_;
  int64_t columns_;
  std::vector<std::pair<std::string, int64_t>> files_;
};

#endif  // PENSTOCK_EXAMPLES_PLAIN_DATASET_H_
