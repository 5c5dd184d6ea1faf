// TransformImages() over a loader: on the host path and on a scripted device, whose results must have the same bits.
#include "penstock/transform.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "loader/data_set.h"
#include "loader/runtime.h"
#include "support/child.h"
#include "support/status.h"
#include "transfer/scripted_device.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

// Images of 12 x 10 pixels, 3 channels, behind a header of 13 bytes; a batch of 8.
constexpr int64_t kPixelBytes = 12 * 10 * 3, kHeader = 13, kBatch = 8;

ImageTransform Images() {
  ImageTransform transform;
  transform.height = 12;
  transform.width = 10;
  transform.header_bytes = kHeader;
  transform.mean = {0.485F, 0.456F, 0.406F};
  transform.deviation = {0.229F, 0.224F, 0.225F, 1};
  return transform;
}

struct Machine {
  Machine() : device(std::make_shared<ScriptedDevice>()) {
    runtime = RuntimeCore::MakeRuntime({}, [device = device](int) -> absl::StatusOr<std::shared_ptr<Device>> { return device; });
    cuda_stream = *device->CreateStream();
  }
  LoaderOptions Options(const DataSet& data) const {
    LoaderOptions options = data.Options(kBatch);
    options.device = 0;
    options.device_bytes = 1 << 20;
    options.memory_bytes = 16 << 20;
    options.piece_bytes = 64 << 10;
    return options;
  }
  std::shared_ptr<ScriptedDevice> device;
  std::shared_ptr<Runtime> runtime;
  CudaStream cuda_stream = nullptr;
};

DataSet ImageFiles(int count = 40) { return DataSet(count, -static_cast<int>(kHeader + kPixelBytes)); }

std::vector<std::byte> OnHost(Batch& batch, const ImageTransform& transform) {
  std::vector<std::byte> output(static_cast<size_t>(TransformedBytes(transform, batch.size())));
  REQUIRE_OK(TransformImages(batch, transform, output.data(), static_cast<int64_t>(output.size()), nullptr));
  return output;
}

bool Says(const absl::Status& status, const std::string& text) { return std::string(status.message()).find(text) != std::string::npos; }

}  // namespace

TEST_CASE("images in host memory are cast, normalised and laid out by planes", "[transform]") {
  const DataSet data = ImageFiles();
  const bool dense = GENERATE(false, true);
  LoaderOptions options = data.Options(kBatch);
  options.layout = dense ? Layout::kDense : Layout::kRagged;
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  CHECK((batch->stride() != 0) == dense);
  const ImageTransform transform = Images();
  REQUIRE(TransformedBytes(transform, kBatch) == kBatch * kPixelBytes * 4);
  const std::vector<std::byte> output = OnHost(*batch, transform);
  for (int64_t sample = 0; sample < kBatch; ++sample) {
    for (int64_t pixel = 0; pixel < 120; ++pixel) {
      for (int64_t channel = 0; channel < 3; ++channel) {
        const auto byte = static_cast<uint8_t>(batch->sample(sample)[static_cast<size_t>(kHeader + pixel * 3 + channel)]);
        float value;
        std::memcpy(&value, output.data() + (sample * kPixelBytes + channel * 120 + pixel) * 4, 4);
        const auto index = static_cast<size_t>(channel);
        REQUIRE(value == Approx((byte / 255.0 - transform.mean[index]) / transform.deviation[index]).margin(1e-6));
      }
    }
  }
}

TEST_CASE("with mean 0 and deviation 1 every pixel is a 255th to the last place", "[transform]") {
  const DataSet data = ImageFiles();
  auto loader = MustOpen(data.Options(kBatch));
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  ImageTransform transform;
  transform.height = 1;
  transform.width = kHeader + kPixelBytes;  // whatever the bytes are
  transform.channels = 1;
  transform.layout = ImageLayout::kHwc;
  const std::vector<std::byte> output = OnHost(*batch, transform);
  for (size_t i = 0; i < static_cast<size_t>(transform.width); ++i) {
    float value;
    std::memcpy(&value, output.data() + i * 4, 4);
    const float exact = static_cast<float>(static_cast<uint8_t>(batch->sample(0)[i])) / 255;
    REQUIRE(std::fabs(value - exact) <= std::nextafter(exact, 2.0F) - exact);
  }
}

TEST_CASE("the device's result has the host's bits, in every type and layout, dense or not", "[transform][device]") {
  const DataSet data = ImageFiles();
  Machine machine;
  LoaderOptions host_options = data.Options(kBatch);
  LoaderOptions device_options = machine.Options(data);
  host_options.layout = device_options.layout = GENERATE(Layout::kRagged, Layout::kDense);
  ImageTransform transform = Images();
  transform.type = GENERATE(PixelType::kFloat32, PixelType::kFloat16, PixelType::kBfloat16);
  transform.layout = GENERATE(ImageLayout::kChw, ImageLayout::kHwc);
  auto host_loader = MustOpen(host_options);
  auto device_loader = MustOpen(device_options, machine.runtime);
  const int64_t bytes = TransformedBytes(transform, kBatch);
  std::byte* const output = *machine.device->Malloc(static_cast<size_t>(bytes));
  for (int step = 0; step < 5; ++step) {
    absl::StatusOr<Batch> host_batch = host_loader->Next();
    absl::StatusOr<Batch> device_batch = device_loader->Next();
    REQUIRE_OK(host_batch);
    REQUIRE_OK(device_batch);
    REQUIRE(device_batch->on_device());
    CHECK(device_batch->stride() == host_batch->stride());
    REQUIRE_OK(TransformImages(*device_batch, transform, output, bytes, machine.cuda_stream));
    CHECK(std::memcmp(OnHost(*host_batch, transform).data(), output, static_cast<size_t>(bytes)) == 0);
  }
  device_loader.reset();
  machine.device->Free(output);
  CHECK(machine.device->violations().empty());
}

TEST_CASE("a batch released right after its transform was enqueued is not overwritten before it has run", "[transform][device]") {
  const DataSet data(100, -60000);
  Machine machine;
  LoaderOptions options = machine.Options(data);  // device memory for two batches
  auto loader = MustOpen(options, machine.runtime);
  auto host_loader = MustOpen(data.Options(kBatch));
  ImageTransform transform = Images();
  transform.height = 100;
  transform.width = 200;
  transform.header_bytes = 0;
  const int64_t bytes = TransformedBytes(transform, kBatch);
  std::byte* const output = *machine.device->Malloc(static_cast<size_t>(bytes));
  machine.device->Hold(machine.cuda_stream);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  REQUIRE_OK(TransformImages(*batch, transform, output, bytes, machine.cuda_stream));
  batch->Release();  // without the stream: the transform's use was recorded
  absl::StatusOr<Batch> second = loader->Next();
  REQUIRE_OK(second);
  second->Release();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the streams would fill the first batch's memory now
  machine.device->Unhold(machine.cuda_stream);
  absl::StatusOr<Batch> host_batch = host_loader->Next();
  REQUIRE_OK(host_batch);
  CHECK(std::memcmp(OnHost(*host_batch, transform).data(), output, static_cast<size_t>(bytes)) == 0);
  REQUIRE_OK(loader->Next());
  loader.reset();
  CHECK(machine.device->violations().empty());
}

TEST_CASE("a skipped sample becomes zeros on both paths", "[transform][device]") {
  const DataSet data = ImageFiles(kBatch);
  REQUIRE_OK(Manifest::Build(data.root(), {}));
  std::filesystem::remove(data.root() + "/class1/1000004.bin");
  Machine machine;
  LoaderOptions options = GENERATE(false, true) ? machine.Options(data) : data.Options(kBatch);
  options.policy = ErrorPolicy::kSkip;
  options.retries = 0;
  auto loader = MustOpen(options, machine.runtime);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  ImageTransform transform = Images();
  transform.type = PixelType::kBfloat16;
  const int64_t bytes = TransformedBytes(transform, kBatch);
  std::byte* const output = *machine.device->Malloc(static_cast<size_t>(bytes));
  REQUIRE_OK(TransformImages(*batch, transform, output, bytes, machine.cuda_stream));
  int zeros = 0;
  for (size_t sample = 0; sample < static_cast<size_t>(kBatch); ++sample) {
    const std::byte* const image = output + sample * kPixelBytes * 2;
    const bool zero = std::all_of(image, image + kPixelBytes * 2, [](std::byte byte) { return byte == std::byte{0}; });
    CHECK(zero == (batch->valid()[sample] == 0));
    zeros += zero;
  }
  CHECK(zeros == 1);
}

TEST_CASE("what does not fit is refused with the sample and the numbers", "[transform]") {
  const DataSet data = ImageFiles();
  DataSet::Write(data.root() + "/class0/1000000.bin", 100);
  LoaderOptions options = data.Options(kBatch);
  options.shuffle = false;
  auto loader = MustOpen(options);
  absl::StatusOr<Batch> batch = loader->Next();
  REQUIRE_OK(batch);
  std::vector<float> output(kBatch * kPixelBytes);
  const auto bytes = static_cast<int64_t>(output.size() * 4);
  absl::Status status = TransformImages(*batch, Images(), output.data(), bytes, nullptr);
  CHECK(absl::IsInvalidArgument(status));
  CHECK(Says(status, "sample 0 of the batch (id 0) has 100 bytes, but a header of 13 and 12 x 10 x 3 pixels have 373"));
  batch = loader->Next();
  REQUIRE_OK(batch);
  REQUIRE_OK(TransformImages(*batch, Images(), output.data(), bytes, nullptr));
  status = TransformImages(*batch, Images(), output.data(), bytes - 1, nullptr);
  CHECK(absl::IsInvalidArgument(status));
  CHECK(Says(status, "the output has 11519 bytes, but 8 images of 360 elements of 4 bytes need 11520"));
  CHECK(absl::IsInvalidArgument(TransformImages(*batch, Images(), reinterpret_cast<std::byte*>(output.data()) + 1, bytes, nullptr)));
  CHECK(absl::IsInvalidArgument(TransformImages(*batch, Images(), nullptr, bytes, nullptr)));

  const auto refused = [&](const ImageTransform& transform) {
    return absl::IsInvalidArgument(TransformImages(*batch, transform, output.data(), bytes, nullptr));
  };
  ImageTransform wrong = Images();
  wrong.channels = 5;
  CHECK(refused(wrong));
  CHECK(TransformedBytes(wrong, 1) == 0);
  wrong = Images();
  wrong.height = int64_t{1} << 40;
  CHECK(refused(wrong));
  wrong = Images();
  wrong.header_bytes = -1;
  CHECK(refused(wrong));
  for (const float deviation : {0.0F, -1.0F, NAN, 1e-39F}) {
    wrong = Images();
    wrong.deviation[1] = deviation;
    CHECK(refused(wrong));
  }
  wrong = Images();
  wrong.mean[2] = INFINITY;
  CHECK(refused(wrong));

  CHECK(InChild([&]() -> std::string {
          const absl::Status in_child = TransformImages(*batch, Images(), output.data(), bytes, nullptr);
          return absl::IsFailedPrecondition(in_child) ? "" : in_child.ToString();
        }) == "");
  batch->Release();
  CHECK(absl::IsFailedPrecondition(TransformImages(*batch, Images(), output.data(), bytes, nullptr)));
}
