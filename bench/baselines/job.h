// The job that every baseline does, and all of it but the reading: shuffled epochs over a file list, cut into batches; each batch a
// buffer in which every sample has its place before it is read; batches handed to a consumer in order.
//
// Readers (threads or rings) claim runs of samples, read each into its place, and report it done. The consumer checks every sample's
// byte count and that every file came exactly once per epoch, and touches the first and the last byte of each sample.
#ifndef PENSTOCK_BENCH_BASELINES_JOB_H_
#define PENSTOCK_BENCH_BASELINES_JOB_H_

#include <sys/uio.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "args.h"
#include "file_list.h"

namespace penstock::bench {

struct JobOptions {
  std::string root;
  std::string list_path;
  int64_t epochs = 1;
  int64_t batch_samples = 256;
  int64_t batch_buffers = 3;
  bool direct = false;
  int64_t alignment = 64;  // of places; what O_DIRECT wants with direct
  bool verify = false;
  uint64_t data_seed = 1;  // make_files --seed, for verify
  uint64_t order_seed = 1;
  bool json = false;
};

// The options common to the baselines, taken from `args`, and their part of the usage text.
JobOptions ParseJobOptions(Args& args);
extern const char kJobUsage[];

struct Batch {
  struct Sample {
    uint32_t id;
    int64_t bytes;
    int64_t offset;     // of its place in the buffer
    int64_t got_bytes;  // what its reader reports; -1 until then
  };
  char* buffer = nullptr;
  unsigned buffer_index = 0;  // in Job::Buffers()
  int64_t number = 0;         // counted over all epochs
  std::vector<Sample> samples;
  std::atomic<int64_t> missing{0};  // samples not done yet
};

// A run of samples to read.
struct Claim {
  Batch* batch = nullptr;
  int64_t first = 0;
  int64_t count = 0;  // 0: nothing now
};

class Job {
 public:
  explicit Job(const JobOptions& options);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const JobOptions& options() const { return options_; }
  const FileList& list() const { return list_; }
  // The memory of all batches, for who registers it with the kernel.
  std::vector<iovec> Buffers() const;

  // At most `most` samples of one batch. With `wait` it waits for a batch buffer where none is free, and an empty claim means that
  // everything has been claimed; without, an empty claim may also mean that no buffer is free now. Any thread.
  Claim Next(int64_t most, bool wait);

  // `count` samples of `batch` are done, their got_bytes set. Any thread.
  void Done(Batch& batch, int64_t count);

  // Runs `reader(i)` on `readers` threads, consumes all batches on this one and prints the report. `arm` names the program,
  // `settings` are (name, JSON value) pairs for the report. Returns the process's exit status.
  int Run(const char* arm, const std::vector<std::pair<std::string, std::string>>& settings, int64_t readers,
          const std::function<void(int64_t)>& reader);

 private:
  int64_t FileCount() const { return static_cast<int64_t>(list_.files.size()); }
  int64_t BatchesPerEpoch() const { return (FileCount() + options_.batch_samples - 1) / options_.batch_samples; }
  int64_t PlaceBytes(int64_t bytes) const;
  void Shuffle(int64_t epoch, std::vector<uint32_t>& order) const;
  int64_t LargestBatchBytes() const;
  void LayOut(Batch& batch, int64_t number);
  Batch* WaitForBatch(int64_t number);
  void Consume(const Batch& batch);

  const JobOptions options_;
  FileList list_;
  double setup_seconds_ = 0;
  char* memory_ = nullptr;
  int64_t memory_bytes_ = 0;
  int64_t buffer_bytes_ = 0;  // of each batch
  std::vector<Batch> batches_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable buffer_freed_;
  std::condition_variable batch_finished_;
  // The buffer freed last is used first: it is the likeliest to be in the cache still.
  std::vector<Batch*> free_;
  std::vector<Batch*> finished_;  // by number modulo batches_.size(); at most that many are under way
  Batch* filling_ = nullptr;      // what claims are cut from
  int64_t filling_next_ = 0;
  int64_t next_number_ = 0;
  std::vector<uint32_t> order_;  // of the epoch that filling_ belongs to

  // Only the consumer's.
  std::vector<uint8_t> seen_;  // by file, the number of the epoch (mod 255, plus 1) that last delivered it
  uint64_t touched_ = 0;
  int64_t samples_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_BASELINES_JOB_H_
