// The same as 04_jpeg, on the GPU: nvJPEG decodes each batch on the consumer's CUDA stream, a kernel resizes and normalises it.
//
//   build/examples/examples/04_jpeg_gpu DATA [--epochs=2] [--batch-size=64] [--size=224] [--policy=fail|skip|substitute]
//
// Built where a CUDA toolkit with nvJPEG is. nvJPEG takes its JPEGs from host memory, so the loader's batches stay there. Whether a JPEG is
// whole is seen by the loader's compute threads (a codec that reads its header and looks for its end), so that a damaged one follows the
// error policy before the GPU sees it.
#include <CLI/CLI.hpp>
#include <cuda_runtime_api.h>
#include <nvjpeg.h>
#include <turbojpeg.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "04_jpeg_resize.h"
#include "penstock/loader.h"

namespace {

struct Arguments {
  std::string data;
  int64_t epochs = 2;
  int64_t batch_size = 64;
  int32_t size = 224;
  std::string policy = "fail";
};

void Cuda(int error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(static_cast<cudaError_t>(error)));
}
void Nvjpeg(nvjpegStatus_t status) {
  if (status != NVJPEG_STATUS_SUCCESS) throw std::runtime_error("nvJPEG: status " + std::to_string(status));
}
void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// A penstock_codec_function that delivers the JPEG as it is, if it has a header and an end.
int CheckJpeg(void*, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t delivered_capacity, size_t* delivered_bytes,
              char* message, size_t message_capacity) {
  struct Decoder {
    Decoder() : handle(tjInitDecompress()) {}
    ~Decoder() { tjDestroy(handle); }
    tjhandle handle;
  };
  static thread_local Decoder decoder;
  const auto* const bytes = static_cast<const unsigned char*>(stored);
  int width = 0, height = 0, subsampling = 0, colour = 0;
  *delivered_bytes = stored_bytes;
  if (delivered_capacity < stored_bytes) return 1;
  if (tjDecompressHeader3(decoder.handle, bytes, stored_bytes, &width, &height, &subsampling, &colour) != 0) {
    std::snprintf(message, message_capacity, "%s", tjGetErrorStr2(decoder.handle));
    tjDestroy(decoder.handle);  // its state is not to be trusted any more
    decoder.handle = tjInitDecompress();
    return 1;
  }
  // Cameras append a little; the end-of-image marker is FF D9.
  for (size_t end = stored_bytes; end >= 2 && stored_bytes - end < 1024; --end) {
    if (bytes[end - 2] == 0xFF && bytes[end - 1] == 0xD9) {
      std::memcpy(delivered, stored, stored_bytes);
      return 0;
    }
  }
  std::snprintf(message, message_capacity, "the JPEG ends without its end marker");
  return 1;
}

// Batches to float tensors [B, 3, side, side] on one CUDA stream. Its memory grows to the largest batch and stays.
class GpuDecoder {
 public:
  GpuDecoder(int64_t batch_size, int32_t side) : side_(side) {
    Cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    Nvjpeg(nvjpegCreateSimple(&library_));
    Nvjpeg(nvjpegJpegStateCreate(library_, &state_));
    const auto count = static_cast<size_t>(batch_size);
    Cuda(cudaMalloc(reinterpret_cast<void**>(&output_), count * 3 * static_cast<size_t>(side) * static_cast<size_t>(side) * sizeof(float)));
    Cuda(cudaMalloc(reinterpret_cast<void**>(&device_images_), count * sizeof(DecodedImage)));
  }
  ~GpuDecoder() {
    cudaStreamSynchronize(stream_);
    nvjpegJpegStateDestroy(state_);
    nvjpegDestroy(library_);
    cudaFree(output_);
    cudaFree(device_images_);
    cudaFree(pixels_);
    cudaStreamDestroy(stream_);
  }
  GpuDecoder(const GpuDecoder&) = delete;
  GpuDecoder& operator=(const GpuDecoder&) = delete;

  // The tensor in the GPU's memory, complete on return: until the next call.
  const float* Decode(const penstock::Batch& batch) {
    constexpr float kMean[3] = {0.485F, 0.456F, 0.406F}, kDeviation[3] = {0.229F, 0.224F, 0.225F};
    std::vector<DecodedImage> images(static_cast<size_t>(batch.size()));
    std::vector<const unsigned char*> jpegs;
    std::vector<size_t> lengths, offsets, which;
    size_t bytes = 0;
    for (int64_t i = 0; i < batch.size(); ++i) {
      const auto index = static_cast<size_t>(i);
      if (batch.valid()[index] == 0) continue;  // skipped: zeros
      const absl::Span<const std::byte> jpeg = batch.sample(i);
      int components = 0, widths[NVJPEG_MAX_COMPONENT] = {}, heights[NVJPEG_MAX_COMPONENT] = {};
      nvjpegChromaSubsampling_t subsampling;
      jpegs.push_back(reinterpret_cast<const unsigned char*>(jpeg.data()));
      lengths.push_back(jpeg.size());
      Nvjpeg(nvjpegGetImageInfo(library_, jpegs.back(), jpeg.size(), &components, &subsampling, widths, heights));
      images[index].width = widths[0];
      images[index].height = heights[0];
      which.push_back(index);
      offsets.push_back(bytes);
      bytes += (static_cast<size_t>(widths[0]) * static_cast<size_t>(heights[0]) * 3 + 255) / 256 * 256;
    }
    Grow(bytes);
    std::vector<nvjpegImage_t> targets(which.size());
    for (size_t n = 0; n < which.size(); ++n) {
      DecodedImage& image = images[which[n]];
      image.pixels = pixels_ + offsets[n];
      targets[n].channel[0] = pixels_ + offsets[n];
      targets[n].pitch[0] = static_cast<size_t>(image.width) * 3;
    }
    if (!which.empty()) {
      Nvjpeg(nvjpegDecodeBatchedInitialize(library_, state_, static_cast<int>(which.size()), 1, NVJPEG_OUTPUT_RGBI));
      Nvjpeg(nvjpegDecodeBatched(library_, state_, jpegs.data(), lengths.data(), targets.data(), stream_));
    }
    Cuda(cudaMemcpyAsync(device_images_, images.data(), images.size() * sizeof(DecodedImage), cudaMemcpyHostToDevice, stream_));
    Cuda(LaunchResize(device_images_, static_cast<int32_t>(batch.size()), side_, kMean, kDeviation, output_, stream_));
    // nvJPEG may read the JPEGs until the stream is done, and the host's batch has no stream to wait for.
    Cuda(cudaStreamSynchronize(stream_));
    return output_;
  }

 private:
  void Grow(size_t bytes) {
    if (bytes <= pixels_bytes_) return;
    Cuda(cudaFree(pixels_));
    pixels_ = nullptr;
    pixels_bytes_ = 0;
    Cuda(cudaMalloc(reinterpret_cast<void**>(&pixels_), bytes + bytes / 4));
    pixels_bytes_ = bytes + bytes / 4;
  }

  const int32_t side_;
  cudaStream_t stream_ = nullptr;
  nvjpegHandle_t library_ = nullptr;
  nvjpegJpegState_t state_ = nullptr;
  float* output_ = nullptr;
  DecodedImage* device_images_ = nullptr;
  uint8_t* pixels_ = nullptr;
  size_t pixels_bytes_ = 0;
};

void Run(const Arguments& arguments) {
  penstock::LoaderOptions options;
  options.root = arguments.data;
  options.batch_size = arguments.batch_size;
  Check(penstock::SetOption(options, "policy", arguments.policy));
  options.retries = 0;
  options.tail = penstock::Tail::kPartial;
  options.codec.function = CheckJpeg;
  auto loader = penstock::Loader::Open(options);
  Check(loader.status());
  GpuDecoder decoder(arguments.batch_size, arguments.size);
  int64_t images = 0, skipped = 0;
  const auto start = std::chrono::steady_clock::now();
  float first = 0, sum = 0;
  for (int64_t epoch = 0; epoch < arguments.epochs; ++epoch) {
    if (epoch > 0) Check((*loader)->StartEpoch());
    while (true) {
      auto batch = (*loader)->Next();
      Check(batch.status());
      if (batch->end_of_epoch()) break;
      const float* const tensor = decoder.Decode(*batch);
      Cuda(cudaMemcpy(&first, tensor, sizeof first, cudaMemcpyDeviceToHost));
      sum += first;
      images += batch->size();
    }
    skipped += (*loader)->report().skipped;
  }
  const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%lld images (%lld skipped), %.1f images/s (first values: %.4f)\n%s\n", static_cast<long long>(images),
              static_cast<long long>(skipped), static_cast<double>(images) / wall_s, static_cast<double>(sum),
              (*loader)->report().verdict.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Decodes a folder of JPEGs into normalised float batches on the GPU.");
  app.add_option("data", arguments.data, "a folder of class folders")->required();
  app.add_option("--epochs", arguments.epochs)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch-size", arguments.batch_size)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--size", arguments.size, "rows and columns of an image in the batch")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--policy", arguments.policy, "fail, skip or substitute")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    Run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "04_jpeg_gpu: %s\n", error.what());
    return 1;
  }
}
