#include "loader/depth_tuner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"

namespace penstock {
namespace {

constexpr int64_t kWindowLeastNs = 300 * kNsPerMs;
constexpr int64_t kWindowMostNs = 5 * kNsPerSecond;
constexpr double kWindowReadTimes = 4;   // of a read's mean time
constexpr double kWindowReads = 64;      // fewer are too few to tell a rate by
constexpr int64_t kSettleLeastNs = 100 * kNsPerMs;
constexpr double kSettleReadTimes = 2;   // until what was asked for at another depth has come
constexpr double kHeldBackStarved = 0.25;
constexpr double kHeldBackWaited = 0.5;

constexpr int kWantedWindows = 2;        // before a trial
constexpr int kEarlyWindows = 4;         // of a trial, when it is judged for the first, second and last time
constexpr int kUsualWindows = 8;
constexpr int kLastWindows = 16;
constexpr double kStep = 2;
constexpr double kStepLeast = 1.25;      // a smaller step could not be told from noise
constexpr double kPlain = 1.4;           // so much more in each of a few windows needs no further ones
constexpr double kGain = 1.1;            // less is not worth twice the threads, and twice the load on a store that others share
constexpr double kClearPairs = 0.9;      // of a window at each depth, in which the deeper one had more
constexpr double kAsGood = 0.95;
constexpr double kPlainLoss = 0.8;

// A trial in vain costs nothing but noise, and a store's limits change seldom.
constexpr int64_t kDeeperPauseNs = 2 * kNsPerSecond;
constexpr int64_t kDeeperPauseMostNs = 300 * kNsPerSecond;
// A trial of fewer costs what they are fewer.
constexpr int64_t kShallowerPauseNs = 30 * kNsPerSecond;
constexpr int64_t kShallowerPauseMostNs = 900 * kNsPerSecond;
constexpr size_t kChangeWindows = 10;
constexpr double kChange = 2;           // of the rate, by itself: the store is another one now

template <typename Windows, typename Of>
double Median(const Windows& windows, Of of) {
  std::vector<double> values;
  for (const auto& window : windows) values.push_back(of(window));
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

bool IsOther(int window) { return window % 4 == 1 || window % 4 == 2; }  // A B B A

}  // namespace

DepthTuner::DepthTuner(const DepthBounds& bounds)
    : bounds_(bounds),
      kept_(bounds.first),
      allowed_(bounds.first),
      most_tried_(bounds.first),
      steps_{{bounds.first}},
      deeper_pause_ns_(kDeeperPauseNs),
      shallower_pause_ns_(kShallowerPauseNs) {}

int32_t DepthTuner::wanted() const {
  if (trial_.has_value()) return std::max(kept_, trial_->candidate);
  const int32_t deeper = static_cast<int32_t>(std::min(static_cast<double>(std::max(bounds_.first, bounds_.most)), kStep * kept_));
  return deeper >= kStepLeast * kept_ ? deeper : kept_;
}

bool DepthTuner::Look(const DepthFigures& figures) {
  if (!figures.steady) {
    begun_ = false;
    wanted_windows_ = 0;
    not_before_ns_ = figures.now_ns + kSettleLeastNs;
    return false;
  }
  if (!begun_) {
    if (figures.now_ns < not_before_ns_) return false;
    begun_ = true;
    begin_ = figures;
    return false;
  }
  const int32_t before = allowed_;
  const int64_t took_ns = figures.now_ns - begin_.now_ns;
  const double requests = figures.requests - begin_.requests;
  const auto window_ns = std::clamp(static_cast<int64_t>(kWindowReadTimes * read_s_ * 1e9), kWindowLeastNs, kWindowMostNs);
  const bool none = requests == 0 && took_ns >= bounds_.patience_ns;
  if (!none && (took_ns < window_ns || (requests < kWindowReads && took_ns < kWindowMostNs))) return false;
  const double took_s = 1e-9 * static_cast<double>(took_ns);
  Window window;
  window.rate = (requests + (figures.bytes - begin_.bytes) / bounds_.read_bytes) / took_s;
  window.cores = (figures.cpu_s - begin_.cpu_s) / took_s;
  window.held_back = (figures.starved_s - begin_.starved_s) > kHeldBackStarved * took_s &&
                     (figures.waited_s - begin_.waited_s) < kHeldBackWaited * took_s;
  begin_ = figures;
  // Where the consumer holds the streams back there are fewer in flight than allowed, and nothing is late.
  if (!window.held_back) read_s_ = requests == 0 ? took_s : allowed_ * took_s / requests;
  if (!window.held_back && read_s_ >= 1e-9 * static_cast<double>(bounds_.patience_ns) && allowed_ > bounds_.first) {
    GoBack(figures.now_ns, requests == 0);
  } else {
    Close(window, figures.now_ns);
  }
  if (allowed_ == before) return false;
  most_tried_ = std::max(most_tried_, allowed_);
  begun_ = false;
  not_before_ns_ = figures.now_ns + std::clamp(static_cast<int64_t>(kSettleReadTimes * read_s_ * 1e9), kSettleLeastNs, kWindowMostNs);
  return true;
}

void DepthTuner::Close(const Window& window, int64_t now_ns) {
  if (trial_.has_value()) {
    CloseTrying(window, now_ns);
  } else {
    CloseWatching(window, now_ns);
  }
}

void DepthTuner::CloseWatching(const Window& window, int64_t now_ns) {
  if (window.held_back) {
    wanted_windows_ = 0;
    return;
  }
  ++wanted_windows_;
  rates_.push_back(window.rate);
  if (rates_.size() > kChangeWindows) rates_.pop_front();
  if (known_rate_ > 0 && rates_.size() == kChangeWindows) {
    const auto [least, most] = std::minmax_element(rates_.begin(), rates_.end());
    if (*most < known_rate_ / kChange || *least > known_rate_ * kChange) {
      known_rate_ = Median(rates_, [](double rate) { return rate; });
      deeper_pause_ns_ = kDeeperPauseNs;
      shallower_pause_ns_ = kShallowerPauseNs;
      next_deeper_ns_ = std::min(next_deeper_ns_, now_ns + deeper_pause_ns_);
      next_shallower_ns_ = std::min(next_shallower_ns_, now_ns + deeper_pause_ns_);
    }
  }
  if (wanted_windows_ < kWantedWindows) return;
  if (now_ns >= next_deeper_ns_ && wanted() > kept_) {
    // A read takes as long as there are others before it, where they wait for each other: too long is not tried.
    if (read_s_ * kStep * 1e9 < static_cast<double>(bounds_.patience_ns)) return Begin(wanted());
    next_deeper_ns_ = now_ns + deeper_pause_ns_;
  }
  if (now_ns >= next_shallower_ns_ && kept_ > bounds_.first) Begin(std::max(bounds_.first, static_cast<int32_t>(kept_ / kStep)));
}

void DepthTuner::Begin(int32_t candidate) {
  ++trials_;
  trial_ = Trial{.candidate = candidate};
}

void DepthTuner::CloseTrying(const Window& window, int64_t now_ns) {
  Trial& trial = *trial_;
  const bool other = IsOther(trial.windows++);
  const bool deeper = trial.candidate > kept_;
  if (other) {
    // Held back or not: the store gave at least so much.
    trial.other.push_back(window);
  } else if (!window.held_back) {
    trial.kept.push_back(window);
  } else if (trial.windows == 1) {
    // The consumer has all it wants.
    trial_.reset();
    wanted_windows_ = 0;
    return;
  }
  double gain = 1;
  double cores = 0;
  const Verdict verdict = deeper ? JudgeDeeper(gain, cores) : JudgeShallower(gain);
  if (verdict == Verdict::kOpen) {
    allowed_ = IsOther(trial.windows) ? trial.candidate : kept_;
    return;
  }
  const int32_t candidate = trial.candidate;
  known_rate_ = Median(verdict == Verdict::kYes ? trial.other : trial.kept, [](const Window& w) { return w.rate; });
  trial_.reset();
  rates_.clear();
  if (verdict == Verdict::kYes && deeper) {
    Keep(candidate, steps_.back().gain * gain, steps_.back().cores + cores);
    deeper_pause_ns_ = kDeeperPauseNs;
    shallower_pause_ns_ = kShallowerPauseNs;
    next_deeper_ns_ = now_ns;
    next_shallower_ns_ = now_ns + shallower_pause_ns_;
  } else if (verdict == Verdict::kYes) {
    Keep(candidate, steps_.back().gain * gain, 0);
    // Just seen to bring nothing.
    next_deeper_ns_ = now_ns + deeper_pause_ns_;
    next_shallower_ns_ = now_ns;
  } else if (deeper) {
    next_deeper_ns_ = now_ns + deeper_pause_ns_;
    deeper_pause_ns_ = std::min(2 * deeper_pause_ns_, kDeeperPauseMostNs);
    last_ = absl::StrFormat("%d brought %.2f times %s", candidate, gain, steps_.size() > 1 ? "that" : "the reads a second");
    if (gain >= kGain && steps_.back().cores + cores > bounds_.cores_max) {
      absl::StrAppendFormat(&last_, ", but took %.1f cores more, and cpu_share leaves %.1f for that", steps_.back().cores + cores,
                            bounds_.cores_max);
    }
  } else {
    next_shallower_ns_ = now_ns + shallower_pause_ns_;
    shallower_pause_ns_ = std::min(2 * shallower_pause_ns_, kShallowerPauseMostNs);
  }
  allowed_ = kept_;
  wanted_windows_ = 0;
}

DepthTuner::Verdict DepthTuner::JudgeDeeper(double& gain, double& cores) const {
  const Trial& trial = *trial_;
  if (trial.windows != kEarlyWindows && trial.windows != kUsualWindows && trial.windows != kLastWindows) return Verdict::kOpen;
  const auto rate = [](const Window& w) { return w.rate; };
  const auto used = [](const Window& w) { return w.cores; };
  const double kept = Median(trial.kept, rate);
  gain = kept > 0 ? Median(trial.other, rate) / kept : 1;
  cores = Median(trial.other, used) - Median(trial.kept, used);
  const auto judge = [&] {
    if (trial.kept.size() < 2 || gain < 1) return Verdict::kNo;
    int pairs = 0;
    int clear = 0;
    bool plain = true;
    for (const Window& b : trial.other) {
      for (const Window& a : trial.kept) {
        ++pairs;
        clear += b.rate > a.rate ? 1 : 0;
        plain = plain && b.rate >= kPlain * a.rate;
      }
    }
    if (trial.windows == kEarlyWindows) return plain ? Verdict::kYes : Verdict::kOpen;
    if (gain < kGain) return Verdict::kNo;
    if (trial.windows == kUsualWindows) return clear == pairs ? Verdict::kYes : Verdict::kOpen;
    return clear >= kClearPairs * pairs ? Verdict::kYes : Verdict::kNo;
  };
  const Verdict verdict = judge();
  return verdict == Verdict::kYes && steps_.back().cores + cores > bounds_.cores_max ? Verdict::kNo : verdict;
}

// Going shallower is worth it where it costs nothing: each read in flight is a thread, and load on a store that others share; and without
// a way back every trial that noise decided would stay, until after some days all there may be are in flight.
DepthTuner::Verdict DepthTuner::JudgeShallower(double& gain) const {
  const Trial& trial = *trial_;
  if (trial.windows != kEarlyWindows && trial.windows != kUsualWindows) return Verdict::kOpen;
  const auto rate = [](const Window& w) { return w.rate; };
  const double kept = Median(trial.kept, rate);
  gain = kept > 0 ? Median(trial.other, rate) / kept : 1;
  if (trial.kept.size() < 2 || gain < kPlainLoss) return Verdict::kNo;
  if (trial.windows == kEarlyWindows) return Verdict::kOpen;
  return gain >= kAsGood ? Verdict::kYes : Verdict::kNo;
}

void DepthTuner::Keep(int32_t depth, double gain, double cores) {
  while (steps_.size() > 1 && steps_.back().depth > depth) steps_.pop_back();
  if (steps_.back().depth < depth) steps_.push_back({depth, gain, cores});
  kept_ = allowed_ = depth;
  last_.clear();
}

// Nothing, or hardly anything, comes: a store that has stopped to answer is not given more, since what it holds ages towards deadline_s.
void DepthTuner::GoBack(int64_t now_ns, bool nothing_came) {
  const int32_t from = allowed_;
  trial_.reset();
  rates_.clear();
  const int32_t to = nothing_came ? bounds_.first : std::min(kept_, static_cast<int32_t>(from / kStep));
  Keep(std::max(bounds_.first, to), steps_.back().gain, steps_.back().cores);
  last_ = absl::StrFormat("back from %d, with which %s %.1f s", from, nothing_came ? "nothing came for" : "a read took", read_s_);
  wanted_windows_ = 0;
  known_rate_ = 0;
  next_deeper_ns_ = now_ns + deeper_pause_ns_;
  deeper_pause_ns_ = std::min(2 * deeper_pause_ns_, kDeeperPauseMostNs);
}

void DepthTuner::Bound(int32_t depth) {
  depth = std::max(depth, kept_);
  if (allowed_ <= depth) return;
  allowed_ = depth;
  if (!trial_.has_value()) return;
  if (depth >= kStepLeast * kept_) {
    trial_->candidate = depth;
    return;
  }
  trial_.reset();
  wanted_windows_ = 0;
  last_ = absl::StrCat("the budget of reads in flight has no more");
  next_deeper_ns_ = begin_.now_ns + deeper_pause_ns_;
  deeper_pause_ns_ = std::min(2 * deeper_pause_ns_, kDeeperPauseMostNs);
}

std::string DepthTuner::why() const {
  std::string why;
  if (steps_.size() > 1) {
    why = absl::StrFormat("%d -> %d: %.1f times the reads a second", bounds_.first, kept_, steps_.back().gain);
    if (!last_.empty()) absl::StrAppend(&why, "; ", last_);
  } else if (!last_.empty()) {
    why = absl::StrCat(bounds_.first, ": ", last_);
  } else {
    why = absl::StrFormat("%d to begin with, up to %d while they bring more and the consumer waits", bounds_.first, bounds_.most);
  }
  if (allowed_ != kept_) absl::StrAppend(&why, "; now ", allowed_, " are tried");
  return why;
}

}  // namespace penstock
