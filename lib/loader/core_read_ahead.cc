// Whether, and what, the warmer reads ahead.
#include "loader/loader_core.h"

#include <fcntl.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/align.h"
#include "base/unique_fd.h"
#include "manifest/map_file.h"

namespace penstock {
namespace {

constexpr int64_t kWarmBytesMax = 128 << 10;  // of a sample on average: larger ones are bound by bytes, not by places
constexpr int64_t kWarmRun = 1 << 15;  // samples of one run over the whole set
constexpr int64_t kWarmDepth = 128;
constexpr int64_t kWarmSortMax = 8 << 20;  // ids that are sorted by inode, where no order was saved

}  // namespace

bool LoaderCore::SmallSamples() const {
  return manifest_->total_bytes() / static_cast<uint64_t>(manifest_->sample_count()) <= static_cast<uint64_t>(kWarmBytesMax);
}

void LoaderCore::StartWarmer(int64_t epoch) {
  const auto choose = [&]() -> std::string {
    if (options_.warm == WarmAhead::kOff) return "nothing is read ahead: asked for";
    if (direct_) return "nothing is read ahead: reads are direct";
    if (!options_.mixture.empty()) return "nothing is read ahead: of a mixture not every sample is read in an epoch";
    if (packed_) return "nothing is read ahead: neighbours in one file share reads";
    if (!options_.disk_blocks && epoch != first_epoch_) return "nothing is read ahead: the first epoch has done that";
    if (!options_.disk_blocks && manifest_->place_order() == PlaceOrder::kNone &&
        (manifest_->place_hint(0) == 0 || manifest_->sample_count() > kWarmSortMax)) {
      return "nothing is read ahead: where files lie is not known; penstock index --place inode tells";
    }
    if (options_.warm == WarmAhead::kOn) return "";
    const UniqueFd root(::open(manifest_->root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root.valid() && IsOnNetwork(root.get())) {
      return "nothing is read ahead: the file system is on a network, and inodes say nothing of its drives";
    }
    if (!options_.disk_blocks && (residency_.available_bytes == 0 || !FitsInMemory(residency_.data_bytes, residency_.available_bytes))) {
      return "nothing is read ahead: the set does not fit in memory";
    }
    if (!SmallSamples()) return "nothing is read ahead: the files are large";
    return "";
  };
  std::string why = choose();
  std::unique_ptr<Warmer> made;
  int64_t steps_of_run = 0;
  if (why.empty()) {
    WarmerOptions options;
    options.engine = engine_;
    options.pool = pool_;
    options.ring = ring_options_;
    options.ring.capacity = kWarmDepth;
    options.unless_cached = options_.warm == WarmAhead::kAuto;
    if (options_.disk_blocks) {
      const StepPlan steps = StepsOf(epoch);
      const int64_t step_count = steps.steps();
      steps_of_run =
          std::max<int64_t>(1, static_cast<int64_t>(CeilDiv(static_cast<uint64_t>(*options_.window_samples * *options_.virtual_streams),
                                                            static_cast<uint64_t>(steps.global_batch()))));
      // Only what does not change while the loader lives: the warmer's thread may be the last to let go of it.
      auto next = [order = *order_, manifest = manifest_, steps, step_count, steps_of_run, epoch, rank = options_.rank](
                      int64_t run, std::vector<int64_t>& ids) {
        std::vector<int64_t> positions;
        for (int64_t step = run * steps_of_run; step < std::min(step_count, (run + 1) * steps_of_run); ++step) {
          steps.Positions(step, rank, positions);
          for (const int64_t position : positions) ids.push_back(order.IdOfPlan(epoch, position));
        }
        std::sort(ids.begin(), ids.end());  // places until here
        for (int64_t& id : ids) id = manifest->IdAtPlace(id);
        return run * steps_of_run < step_count;
      };
      made = std::make_unique<Warmer>(manifest_, objects_, options, std::move(next), /*runs_ahead=*/2);
      why = absl::StrCat("windows of ", *options_.window_samples, " samples are read ahead in the order of place");
    } else {
      // Each local rank takes its part of the drive; together they bring in the whole set.
      auto sorted = std::make_shared<std::vector<uint32_t>>();
      auto next = [sorted, manifest = manifest_, rank = int64_t{local_rank_}, world = int64_t{local_world_size_}](
                      int64_t run, std::vector<int64_t>& ids) {
        const int64_t count = manifest->sample_count();
        const bool saved = manifest->place_order() != PlaceOrder::kNone;
        if (!saved && sorted->empty()) {
          sorted->resize(static_cast<size_t>(count));
          for (int64_t i = 0; i < count; ++i) (*sorted)[static_cast<size_t>(i)] = static_cast<uint32_t>(i);
          std::sort(sorted->begin(), sorted->end(), [&](uint32_t a, uint32_t b) {
            return manifest->place_hint(manifest->RangeAt(a, 0).object) < manifest->place_hint(manifest->RangeAt(b, 0).object);
          });
        }
        const int64_t begin = count / world * rank + std::min(rank, count % world);
        const int64_t end = begin + count / world + (rank < count % world ? 1 : 0);
        for (int64_t place = begin + run * kWarmRun; place < std::min(end, begin + (run + 1) * kWarmRun); ++place) {
          ids.push_back(saved ? manifest->IdAtPlace(place) : int64_t{(*sorted)[static_cast<size_t>(place)]});
        }
        return begin + run * kWarmRun < end;
      };
      made = std::make_unique<Warmer>(manifest_, objects_, options, std::move(next), /*runs_ahead=*/std::numeric_limits<int32_t>::max());
      why = "the whole set is read ahead in the order of place";
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  setup_.warm = why;
  warm_steps_ = steps_of_run;
  warmer_ = std::move(made);
}

}  // namespace penstock
