// Real JPEGs of any size become dense, normalised batches: [B, 3, 224, 224] in float, bfloat16 or half. libjpeg-turbo decodes and this file
// resizes each on the loader's compute threads (a codec), and TransformImages() normalises the batch.
//
//   cmake -S . -B build/examples -DCMAKE_BUILD_TYPE=Release && cmake --build build/examples --target 04_jpeg
//   python3 examples/make_jpegs.py build/data/jpegs       # from photographs that Debian packages hold
//   build/examples/examples/04_jpeg build/data/jpegs [--epochs=2] [--batch-size=64] [--size=224] [--policy=fail|skip|substitute]
//            [--type=float|bfloat16|half] [--cpu-share=1] [--json]
//
// A JPEG that cannot be decoded is an error of its sample: with --policy=fail the run ends with its name, with skip its image is zeros and
// valid[i] is 0, with substitute another image takes its place. Prints images per second and CPU seconds per 1000 images.
#include <CLI/CLI.hpp>
#include <sys/resource.h>
#include <turbojpeg.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "penstock/loader.h"
#include "penstock/transform.h"

namespace {

struct Arguments {
  std::string data;
  int64_t epochs = 2;
  int64_t batch_size = 64;
  int64_t size = 224;
  double cpu_share = 1;
  penstock::PixelType type = penstock::PixelType::kFloat32;
  std::string policy = "fail";
  bool json = false;
};

// ---- the codec: the part to copy into a program of your own ----

struct ImageSize {
  int side = 224;  // of the square that every image becomes
};

// What one compute thread keeps from image to image.
struct Decoder {
  Decoder() : handle(tjInitDecompress()) {}
  ~Decoder() { tjDestroy(handle); }
  tjhandle handle;
  std::vector<uint8_t> pixels;        // as decoded
  std::vector<int32_t> left, weight;  // of each output column: the input column to its left, and the 256ths of the one to its right
};

int Fail(const char* why, char* message, size_t message_capacity) {
  std::snprintf(message, message_capacity, "%s", why);
  return 1;
}

// An image that was left in the middle can leave the library's state so that a later one crashes (2.1.5): it begins anew.
int FailDecoding(Decoder& decoder, char* message, size_t message_capacity) {
  Fail(tjGetErrorStr2(decoder.handle), message, message_capacity);
  tjDestroy(decoder.handle);
  decoder.handle = tjInitDecompress();
  return 1;
}

// Bilinear, pixel centres on pixel centres, in 16-bit fixed point. The decoder has already made the image smaller than twice the size, or
// nearly, so that every input pixel counts.
void Resize(const Decoder& decoder, int width, int height, int side, uint8_t* output) {
  const double scale_y = static_cast<double>(height) / side;
  for (int y = 0; y < side; ++y) {
    const double source_y = std::clamp((y + 0.5) * scale_y - 0.5, 0.0, height - 1.0);
    const int top = std::min(static_cast<int>(source_y), std::max(0, height - 2));
    const auto down = static_cast<int32_t>(std::lround(256 * (source_y - top)));
    const uint8_t* const above = decoder.pixels.data() + static_cast<size_t>(top) * static_cast<size_t>(width) * 3;
    const uint8_t* const below = height > 1 ? above + static_cast<size_t>(width) * 3 : above;
    for (int x = 0; x < side; ++x) {
      const int32_t at = decoder.left[static_cast<size_t>(x)] * 3, next = width > 1 ? at + 3 : at;
      const int32_t right = decoder.weight[static_cast<size_t>(x)];
      for (int channel = 0; channel < 3; ++channel) {
        const int32_t upper = above[at + channel] * (256 - right) + above[next + channel] * right;
        const int32_t lower = below[at + channel] * (256 - right) + below[next + channel] * right;
        *output++ = static_cast<uint8_t>((upper * (256 - down) + lower * down + 32768) >> 16);
      }
    }
  }
}

// A penstock_codec_function: one JPEG to side x side x 3 bytes.
int DecodeJpeg(void* user, int64_t, const void* stored, size_t stored_bytes, void* delivered, size_t delivered_capacity,
               size_t* delivered_bytes, char* message, size_t message_capacity) {
  const int side = static_cast<const ImageSize*>(user)->side;
  *delivered_bytes = static_cast<size_t>(side) * static_cast<size_t>(side) * 3;
  if (delivered_capacity < *delivered_bytes) return Fail("the place is too small", message, message_capacity);
  static thread_local Decoder decoder;
  const auto* const jpeg = static_cast<const unsigned char*>(stored);
  int width = 0, height = 0, subsampling = 0, colour = 0;
  if (tjDecompressHeader3(decoder.handle, jpeg, stored_bytes, &width, &height, &subsampling, &colour) != 0) {
    return FailDecoding(decoder, message, message_capacity);
  }
  if (int64_t{width} * height > int64_t{1} << 28) return Fail("more than 2^28 pixels", message, message_capacity);
  // The decoder makes images of 1/8 to 8/8 of the size for less work: the smallest that is not smaller than what is wanted.
  int factor_count = 0;
  const tjscalingfactor* const factors = tjGetScalingFactors(&factor_count);
  int scaled_width = width, scaled_height = height;
  for (int i = 0; i < factor_count; ++i) {
    const int w = TJSCALED(width, factors[i]), h = TJSCALED(height, factors[i]);
    if (w >= side && h >= side && w < scaled_width) {
      scaled_width = w;
      scaled_height = h;
    }
  }
  decoder.pixels.resize(static_cast<size_t>(scaled_width) * static_cast<size_t>(scaled_height) * 3);
  // A file that ends early is a warning to the library, and grey below to the trainer: here it is an error.
  if (tjDecompress2(decoder.handle, jpeg, stored_bytes, decoder.pixels.data(), scaled_width, 0, scaled_height, TJPF_RGB,
                    TJFLAG_STOPONWARNING) != 0) {
    return FailDecoding(decoder, message, message_capacity);
  }
  decoder.left.resize(static_cast<size_t>(side));
  decoder.weight.resize(static_cast<size_t>(side));
  const double scale_x = static_cast<double>(scaled_width) / side;
  for (int x = 0; x < side; ++x) {
    const double source_x = std::clamp((x + 0.5) * scale_x - 0.5, 0.0, scaled_width - 1.0);
    const int left = std::min(static_cast<int>(source_x), std::max(0, scaled_width - 2));
    decoder.left[static_cast<size_t>(x)] = left;
    decoder.weight[static_cast<size_t>(x)] = static_cast<int32_t>(std::lround(256 * (source_x - left)));
  }
  Resize(decoder, scaled_width, scaled_height, side, static_cast<uint8_t*>(delivered));
  return 0;
}

// ---- the run ----

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int Complain(const absl::Status& status) { return std::fprintf(stderr, "%s\n", status.ToString().c_str()), 1; }

int Run(const Arguments& arguments) {
  ImageSize image{static_cast<int>(arguments.size)};
  penstock::LoaderOptions options;
  options.root = arguments.data;
  options.batch_size = arguments.batch_size;
  if (const absl::Status status = penstock::SetOption(options, "policy", arguments.policy); !status.ok()) return Complain(status);
  options.retries = 0;
  options.tail = penstock::Tail::kPartial;
  options.layout = penstock::Layout::kDense;
  options.cpu_share = arguments.cpu_share;
  options.codec.function = DecodeJpeg;
  options.codec.user = &image;
  options.codec.delivered_bytes_max_per_sample = arguments.size * arguments.size * 3;
  auto loader = penstock::Loader::Open(options);
  if (!loader.ok()) return Complain(loader.status());

  penstock::ImageTransform transform;
  transform.height = transform.width = arguments.size;
  transform.type = arguments.type;
  transform.mean = {0.485F, 0.456F, 0.406F};  // ImageNet's
  transform.deviation = {0.229F, 0.224F, 0.225F, 1};
  // A framework's tensor would do as well.
  std::vector<float> network_input(static_cast<size_t>(penstock::TransformedBytes(transform, arguments.batch_size) / 4 + 1));

  int64_t images = 0, skipped = 0, substituted = 0;
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start_s = CpuSeconds();
  double checksum = 0;
  for (int64_t epoch = 0; epoch < arguments.epochs; ++epoch) {
    if (epoch > 0) {
      if (const absl::Status status = (*loader)->StartEpoch(); !status.ok()) return Complain(status);
    }
    while (true) {
      auto batch = (*loader)->Next();
      if (!batch.ok()) return Complain(batch.status());
      if (batch->end_of_epoch()) break;
      const auto input_bytes = static_cast<int64_t>(4 * network_input.size());
      const absl::Status status = penstock::TransformImages(*batch, transform, network_input.data(), input_bytes, /*cuda_stream=*/nullptr);
      if (!status.ok()) return Complain(status);
      images += batch->size();
      checksum += static_cast<double>(network_input[0]);
    }
    const penstock::EpochReport report = (*loader)->report();
    skipped += report.skipped;
    substituted += report.substituted;
    for (const penstock::LedgerEntry& entry : report.ledger) {
      std::fprintf(stderr, "epoch %lld: %s\n", static_cast<long long>(epoch), entry.reason.c_str());
    }
  }
  const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double cpu_s = CpuSeconds() - cpu_start_s;
  const double per_1000 = 1000 * cpu_s / static_cast<double>(std::max<int64_t>(1, images));
  const char* const json = "{\"images\": %lld, \"skipped\": %lld, \"substituted\": %lld, \"images_per_s\": %.1f, \"cpu_s_per_1000\": %.4f, "
                           "\"first\": %.4f}\n";
  const char* const text = "%lld images (%lld skipped, %lld substituted), %.1f images/s, %.4f CPU s per 1000 images (first values: %.4f)\n";
  std::printf(arguments.json ? json : text, static_cast<long long>(images), static_cast<long long>(skipped),
              static_cast<long long>(substituted), static_cast<double>(images) / wall_s, per_1000, checksum);
  if (!arguments.json) std::printf("%s\n", (*loader)->report().verdict.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, penstock::PixelType> types = {
      {"float", penstock::PixelType::kFloat32}, {"bfloat16", penstock::PixelType::kBfloat16}, {"half", penstock::PixelType::kFloat16}};
  Arguments arguments;
  CLI::App app("Decodes a folder of JPEGs into normalised float batches.");
  app.add_option("data", arguments.data, "a folder of class folders")->required();
  app.add_option("--epochs", arguments.epochs)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--batch-size", arguments.batch_size)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--size", arguments.size, "rows and columns of an image in the batch")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--policy", arguments.policy, "fail, skip or substitute")->capture_default_str();
  app.add_option("--type", arguments.type)->transform(CLI::CheckedTransformer(types))->option_text("float|bfloat16|half");
  app.add_option("--cpu-share", arguments.cpu_share)->capture_default_str();
  app.add_flag("--json", arguments.json);
  CLI11_PARSE(app, argc, argv);
  return Run(arguments);
}
