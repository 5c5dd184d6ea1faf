// How many reads to have in flight on a store that makes each of them wait: found out while running, by trying more.
//
//   rate
//    |            ________   cap            A trial compares windows of time, kept depth (A) and candidate (B), in the order A B B A:
//    |          /                           what drifts meanwhile (other users of the store, other work on the machine) falls on both.
//    |        /
//    |______/________________ depth
//        d / latency
//
// Pure: no thread and no clock. Whoever feeds it counts what came, and does what depth() says.
#ifndef PENSTOCK_LOADER_DEPTH_TUNER_H_
#define PENSTOCK_LOADER_DEPTH_TUNER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace penstock {

struct DepthBounds {
  int32_t first = 1;              // where it begins. It never goes below: what is known good is not given up for a measurement
  int32_t most = 1;
  double cores_max = 1e9;         // of CPU time, that the reads beyond the first ones may take
  int64_t patience_ns = 2'000'000'000;  // reads that take longer on the mean wait for each other: there are fewer at once then
  double read_bytes = 512 << 10;  // a request counts as one read, and one more for each so many bytes
};

// As they stand; what is counted is counted from any beginning.
struct DepthFigures {
  int64_t now_ns = 0;
  double requests = 0;   // that have come
  double bytes = 0;      // of these
  double starved_s = 0;  // the streams had nothing to ask for: far enough ahead, or no memory. Their mean
  double waited_s = 0;   // the consumer waited for a batch
  double cpu_s = 0;      // that the process has used
  bool steady = true;    // false: these figures say nothing of the store (an epoch's end, a jump)
};

class DepthTuner {
 public:
  explicit DepthTuner(const DepthBounds& bounds);

  // To be called some times a second. True: depth() has changed.
  bool Look(const DepthFigures& figures);

  // No more than so many can be had (a budget): the answer to a depth() that was asked for in vain.
  void Bound(int32_t depth);

  int32_t depth() const { return allowed_; }  // to be in flight now, in a trial too
  int32_t kept() const { return kept_; }      // found to be best up to now
  int32_t most_tried() const { return most_tried_; }
  bool trying() const { return trial_.has_value(); }
  int64_t trials() const { return trials_; }
  // What a trial would go to, or goes to: enough must be there to be read. At least kept().
  int32_t wanted() const;
  // "64 -> 256: 3.9 times the reads a second; 512 brought 1.02 times that".
  std::string why() const;

 private:
  struct Window {
    double rate = 0;  // reads a second
    double cores = 0;
    bool held_back = false;  // by the consumer, or for want of memory: it says how much was wanted, not how much the store gives
  };
  struct Trial {
    int32_t candidate = 0;
    int windows = 0;
    std::vector<Window> kept, other;
  };
  // A depth that was kept, and what it brought, as a multiple of the first one's rate.
  struct Step {
    int32_t depth = 0;
    double gain = 1;
    double cores = 0;  // beyond the first one's
  };
  enum class Verdict { kOpen, kYes, kNo };

  void Close(const Window& window, int64_t now_ns);
  void CloseWatching(const Window& window, int64_t now_ns);
  void CloseTrying(const Window& window, int64_t now_ns);
  Verdict JudgeDeeper(double& gain, double& cores) const;
  Verdict JudgeShallower(double& gain) const;
  void Begin(int32_t candidate);
  void Keep(int32_t depth, double gain, double cores);
  void GoBack(int64_t now_ns, bool nothing_came);

  const DepthBounds bounds_;
  int32_t kept_;
  int32_t allowed_;
  int32_t most_tried_;
  std::vector<Step> steps_;
  std::string last_;  // what the last trial in vain showed
  std::optional<Trial> trial_;
  int64_t trials_ = 0;

  bool begun_ = false;  // a window
  DepthFigures begin_;
  int64_t not_before_ns_ = 0;  // until then reads of another depth come
  double read_s_ = 0;          // a read's mean time, by Little's law

  int wanted_windows_ = 0;     // in a row, in which the streams were what is waited for
  std::deque<double> rates_;   // of the last of these
  double known_rate_ = 0;      // when the last trial ended
  int64_t next_deeper_ns_ = 0;
  int64_t next_shallower_ns_ = 0;
  int64_t deeper_pause_ns_;
  int64_t shallower_pause_ns_;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_DEPTH_TUNER_H_
