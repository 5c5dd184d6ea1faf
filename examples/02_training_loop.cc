// Trains a small convolutional network on a folder of PGM files, read by penstock or by torch's own data set API.
//
//   cmake -S . -B build/examples -DCMAKE_BUILD_TYPE=Release && cmake --build build/examples --target 02_training_loop
//   build/examples/examples/02_training_loop DATA [--loader=penstock|plain] [--epochs=3] [--batch-size=128] [--seed=1]
//            [--expect-accuracy=88]
//
// DATA is what examples/make_dataset.py wrote. The accuracy in per cent that must be reached, if given, decides the exit status.
#include <CLI/CLI.hpp>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "penstock/loader.h"
#include "penstock/transform.h"
#include "plain_dataset.h"

namespace {

constexpr int64_t kRows = 28;
constexpr int64_t kColumns = 28;
constexpr int64_t kClassCount = 10;
constexpr int64_t kTestBatchSize = 1000;
constexpr double kPeakRate = 4e-3;
const std::string kHeader = "P5\n28 28\n255\n";  // what every file begins with; the pixels follow

struct Arguments {
  std::string data;
  std::string loader = "penstock";
  int64_t epochs = 3;
  int64_t batch_size = 128;
  int64_t seed = 1;
  double expect_accuracy = 0;
};

// Images in [0, 1] and their classes, on the device the network is on.
struct Minibatch {
  torch::Tensor pixels;  // [B, 1, rows, columns], float
  torch::Tensor labels;  // [B], int64
  double convert_s = 0;  // what it took to make these of bytes that were there
};

double Seconds(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One pass over a data set per epoch.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t size() const = 0;  // images of an epoch
  virtual void StartEpoch(int64_t epoch) = 0;
  virtual bool Next(Minibatch& minibatch) = 0;  // false: the epoch has ended
  virtual std::string Verdict() const { return ""; }
};

// ---- penstock: the part to copy into a program of your own ----

class PenstockSource : public Source {
 public:
  PenstockSource(const std::string& list, const Arguments& arguments, bool training, torch::Device device,
                 const std::shared_ptr<penstock::Runtime>& runtime)
      : device_(device) {
    penstock::LoaderOptions options;
    options.root = list;  // a folder of class folders would do as well
    options.manifest_path = list.substr(0, list.rfind('.')) + ".manifest";  // made by `penstock index`, or now
    options.batch_size = training ? arguments.batch_size : kTestBatchSize;
    options.seed = static_cast<uint64_t>(arguments.seed);
    options.shuffle = training;
    options.tail = training ? penstock::Tail::kDrop : penstock::Tail::kPartial;  // every test image counts, exactly once
    options.layout = penstock::Layout::kDense;                                    // all files have the same size: one [B, stride] tensor
    options.memory_bytes = 64 << 20;
    options.device = device.is_cuda() ? 0 : -1;
    auto loader = penstock::Loader::Open(options, runtime);
    if (options.device >= 0 && absl::IsUnavailable(loader.status())) {
      std::printf("batches come through host memory: %s\n", loader.status().ToString().c_str());
      options.device = -1;
      loader = penstock::Loader::Open(options, runtime);
    }
    if (!loader.ok()) throw std::runtime_error(loader.status().ToString());
    loader_ = *std::move(loader);
    transform_.height = kRows;
    transform_.width = kColumns;
    transform_.channels = 1;
    transform_.header_bytes = static_cast<int64_t>(kHeader.size());
  }

  int64_t size() const override { return loader_->manifest()->sample_count(); }

  void StartEpoch(int64_t epoch) override {
    const absl::Status status = loader_->StartEpoch(epoch);
    if (!status.ok()) throw std::runtime_error(status.ToString());
  }

  bool Next(Minibatch& minibatch) override {
    auto batch = loader_->Next();
    if (!batch.ok()) throw std::runtime_error(batch.status().ToString());
    if (batch->end_of_epoch()) return false;
    const auto start = std::chrono::steady_clock::now();
    // One call makes floats between 0 and 1 of the files' bytes, on the GPU where they lie there. torch works on CUDA's default stream.
    const torch::Device where = batch->on_device() ? device_ : torch::Device(torch::kCPU);
    torch::Tensor pixels = torch::empty({batch->size(), 1, kRows, kColumns}, torch::TensorOptions().device(where));
    const absl::Status status = penstock::TransformImages(*batch, transform_, pixels.data_ptr(), static_cast<int64_t>(pixels.nbytes()),
                                                          /*cuda_stream=*/nullptr);
    if (!status.ok()) throw std::runtime_error(status.ToString());
    minibatch.pixels = pixels.to(device_);
    const absl::Span<const int32_t> labels = batch->labels();
    minibatch.labels = torch::from_blob(const_cast<int32_t*>(labels.data()), {batch->size()}, torch::kInt32).to(device_, torch::kInt64);
    batch->Release();  // what was enqueued above still reads it, and is waited for before its memory is used again
    minibatch.convert_s = Seconds(start);
    return true;
  }

  std::string Verdict() const override { return loader_->report().verdict; }

 private:
  torch::Device device_;
  std::unique_ptr<penstock::Loader> loader_;
  penstock::ImageTransform transform_;
};

// ---- torch's own way, to compare with ----

template <typename Sampler>
class PlainSource : public Source {
 public:
  PlainSource(const std::string& list, int64_t batch_size, bool drop_last, torch::Device device) : device_(device) {
    auto dataset = PlainDataset(list, kHeader, kRows, kColumns).map(torch::data::transforms::Stack<>());
    size_ = static_cast<int64_t>(*dataset.size());
    loader_ = torch::data::make_data_loader<Sampler>(
        std::move(dataset), torch::data::DataLoaderOptions(static_cast<size_t>(batch_size)).workers(2).drop_last(drop_last));
  }
  int64_t size() const override { return size_; }
  void StartEpoch(int64_t) override { next_.reset(); }
  bool Next(Minibatch& minibatch) override {
    if (next_ == nullptr) {
      next_ = std::make_unique<Iterator>(loader_->begin());
    } else {
      ++*next_;  // not right after the last batch was taken: it would wait for this one then
    }
    if (*next_ == loader_->end()) return false;
    const torch::data::Example<>& batch = **next_;
    minibatch = {batch.data.to(device_), batch.target.to(device_)};  // converted by the workers
    return true;
  }

 private:
  using Mapped = decltype(std::declval<PlainDataset>().map(torch::data::transforms::Stack<>()));
  using Loader = torch::data::StatelessDataLoader<Mapped, Sampler>;
  using Iterator = decltype(std::declval<Loader>().begin());
  torch::Device device_;
  int64_t size_ = 0;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<Iterator> next_;
};

// ---- the network and its training ----

struct NetworkImpl : torch::nn::Module {
  NetworkImpl() {
    using namespace torch::nn;
    const auto halve = [](int64_t in, int64_t out, int64_t kernel) {
      return Conv2d(Conv2dOptions(in, out, kernel).stride(2).padding(kernel / 2));
    };
    layers = Sequential(halve(1, 16, 5), BatchNorm2d(16), ReLU(), halve(16, 32, 3), BatchNorm2d(32), ReLU(), Flatten(),
                        Linear(32 * (kRows / 4) * (kColumns / 4), 64), ReLU(), Linear(64, kClassCount));
    register_module("layers", layers);
  }
  torch::Tensor forward(const torch::Tensor& pixels) { return layers->forward(pixels); }
  torch::nn::Sequential layers{nullptr};
};
TORCH_MODULE(Network);

struct Spent {
  double wait_s = 0;     // for data
  double convert_s = 0;  // to make tensors of it
};

// Calls `step` with every minibatch of the epoch.
Spent ForEach(Source& source, int64_t epoch, const std::function<void(Minibatch&)>& step) {
  Spent spent;
  auto start = std::chrono::steady_clock::now();
  source.StartEpoch(epoch);
  Minibatch minibatch;
  while (source.Next(minibatch)) {
    spent.wait_s += Seconds(start) - minibatch.convert_s;
    spent.convert_s += minibatch.convert_s;
    step(minibatch);
    start = std::chrono::steady_clock::now();
  }
  spent.wait_s += Seconds(start);
  return spent;
}

// Per cent of the images that the network gets right.
double Accuracy(Network& network, Source& source, int64_t epoch) {
  const torch::NoGradGuard no_grad;
  network->eval();
  int64_t right = 0;
  int64_t total = 0;
  ForEach(source, epoch, [&](Minibatch& minibatch) {
    right += network->forward(minibatch.pixels).argmax(1).eq(minibatch.labels).sum().item<int64_t>();
    total += minibatch.labels.size(0);
  });
  return total == 0 ? 0 : 100.0 * static_cast<double>(right) / static_cast<double>(total);
}

int Train(const Arguments& arguments) {
  torch::manual_seed(static_cast<uint64_t>(arguments.seed));
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  std::unique_ptr<Source> training;
  std::unique_ptr<Source> validation;
  const std::string train_list = arguments.data + "/train.txt";
  const std::string test_list = arguments.data + "/test.txt";
  if (arguments.loader == "penstock") {
    const auto runtime = penstock::Runtime::Create();  // both loaders live side by side and share its budgets
    training = std::make_unique<PenstockSource>(train_list, arguments, /*training=*/true, device, runtime);
    validation = std::make_unique<PenstockSource>(test_list, arguments, /*training=*/false, device, runtime);
  } else {
    using torch::data::samplers::RandomSampler;
    using torch::data::samplers::SequentialSampler;
    training = std::make_unique<PlainSource<RandomSampler>>(train_list, arguments.batch_size, /*drop_last=*/true, device);
    validation = std::make_unique<PlainSource<SequentialSampler>>(test_list, kTestBatchSize, /*drop_last=*/false, device);
  }

  Network network;
  network->to(device);
  torch::optim::Adam optimizer(network->parameters(), torch::optim::AdamOptions(kPeakRate));
  const int64_t steps_expected = std::max<int64_t>(1, arguments.epochs * (training->size() / arguments.batch_size));
  int64_t step = 0;
  double accuracy = 0;
  std::printf("%lld images to train on, %lld to test with, read by %s, computed on the %s\n", static_cast<long long>(training->size()),
              static_cast<long long>(validation->size()), arguments.loader == "penstock" ? "penstock" : "torch's own data set",
              device.is_cuda() ? "GPU" : "CPU");
  for (int64_t epoch = 0; epoch < arguments.epochs; ++epoch) {
    network->train();
    torch::Tensor loss_sum = torch::zeros({}, device);
    int64_t sample_count = 0;
    int64_t batch_count = 0;
    const auto start = std::chrono::steady_clock::now();
    const Spent spent = ForEach(*training, epoch, [&](Minibatch& minibatch) {
      // The rate rises over the first tenth and falls to nothing at the end, so that the accuracy does not depend on the last few batches.
      const double done = static_cast<double>(step) / static_cast<double>(steps_expected);
      const double rate = kPeakRate * std::min(done / 0.1, std::max(0.0, (1 - done) / 0.9));
      for (auto& group : optimizer.param_groups()) static_cast<torch::optim::AdamOptions&>(group.options()).lr(rate);
      optimizer.zero_grad();
      const torch::Tensor loss = torch::nn::functional::cross_entropy(network->forward(minibatch.pixels), minibatch.labels);
      loss.backward();
      optimizer.step();
      loss_sum += loss.detach();
      sample_count += minibatch.labels.size(0);
      ++batch_count;
      ++step;
    });
    const double loss_mean = batch_count == 0 ? 0 : loss_sum.item<double>() / static_cast<double>(batch_count);  // waits for the GPU too
    const double wall_s = Seconds(start);
    const std::string verdict = training->Verdict();
    accuracy = Accuracy(network, *validation, epoch);
    std::printf("epoch %lld: loss %.4f, test accuracy %.2f %%, %.0f samples/s, waited for data %.2f %% of the time, made tensors of it "
                "%.2f %%\n",
                static_cast<long long>(epoch + 1), loss_mean, accuracy, static_cast<double>(sample_count) / wall_s,
                100 * spent.wait_s / wall_s, 100 * spent.convert_s / wall_s);
    if (!verdict.empty()) std::printf("  %s\n", verdict.c_str());
    std::fflush(stdout);
  }
  if (accuracy < arguments.expect_accuracy) {
    std::fprintf(stderr, "test accuracy %.2f %% is below the expected %.2f %%\n", accuracy, arguments.expect_accuracy);
    return 1;
  }
  if (arguments.expect_accuracy > 0) {
    std::printf("test accuracy %.2f %%, at least %.2f %% was expected: passed\n", accuracy, arguments.expect_accuracy);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trains a small convolutional network on images that penstock reads.");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);  // run.sh gives some before those of its caller
  app.add_option("data", arguments.data, "the folder that make_dataset.py made")->required();
  app.add_option("--loader", arguments.loader)->check(CLI::IsMember({"penstock", "plain"}))->capture_default_str();
  app.add_option("--epochs", arguments.epochs)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch-size", arguments.batch_size)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seed", arguments.seed)->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--expect-accuracy", arguments.expect_accuracy, "per cent; below it the exit status is 1");
  CLI11_PARSE(app, argc, argv);
  try {  // torch throws, penstock does not
    return Train(arguments);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
