// What make_files writes into a file and the baselines check with --verify: a function of seed and file number, so that a check
// needs no second copy of the data.
#ifndef PENSTOCK_BENCH_BASELINES_CONTENT_H_
#define PENSTOCK_BENCH_BASELINES_CONTENT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace penstock::bench {

// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
inline uint64_t Mix64(uint64_t value) {
  value += 0x9e3779b97f4a7c15ULL;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

// Word `word` of file `file`. Word 0 identifies the file; no two files or places share a run of words, so a sample in the wrong
// place, a torn one and a stale one all differ.
inline uint64_t ContentWord(uint64_t seed, uint64_t file, uint64_t word) { return Mix64(Mix64(seed * 0x100000001b3ULL + file) + word); }

inline void FillContent(uint64_t seed, uint64_t file, char* to, int64_t bytes) {
  uint64_t word = 0;
  for (int64_t at = 0; at < bytes; at += 8, ++word) {
    const uint64_t value = ContentWord(seed, file, word);
    std::memcpy(to + at, &value, std::min<int64_t>(8, bytes - at));
  }
}

// Returns the offset of the first wrong word, or -1 where all `bytes` bytes are right.
inline int64_t FindWrongContent(uint64_t seed, uint64_t file, const char* data, int64_t bytes) {
  uint64_t word = 0;
  for (int64_t at = 0; at < bytes; at += 8, ++word) {
    const uint64_t value = ContentWord(seed, file, word);
    if (std::memcmp(data + at, &value, std::min<int64_t>(8, bytes - at)) != 0) return at;
  }
  return -1;
}

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_BASELINES_CONTENT_H_
