/* The codec stage as a user sees it: a C function that turns a sample's stored bytes into its delivered bytes, and how it
   is told to a loader. The first half of this file is plain C11; CodecOptions is C++. */
#ifndef PENSTOCK_CODEC_H_
#define PENSTOCK_CODEC_H_

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>
extern "C" {
#else
#include <stddef.h>
#include <stdint.h>
#endif

/* Writes the delivered bytes of one sample. It is called once per sample, on a compute thread of the loader.

   user                the pointer given with the function
   sample_id           the sample's id in the manifest
   stored              what the store holds, stored_bytes long; valid during the call
   delivered           where to write, delivered_capacity bytes, 64-byte aligned; never the same memory as stored
   delivered_bytes     out: how many bytes were written, at most delivered_capacity
   message             out, optional: zero-terminated text for the error, at most message_capacity bytes with its zero

   Returns:  0 when the sample is delivered. Anything else fails this sample only: the loader's policy (fail, skip, substitute)
             goes on from there, and the error names the sample, the number returned and the message.
             If delivered_capacity is too small, set *delivered_bytes to what is needed and return a number other than 0.
   Threads:  several calls run at the same time, each with its own memory; the function must not keep any of the pointers.
             It must not call the loader that it belongs to. A C++ exception leaving it is an error like any other. */
typedef int (*penstock_codec_function)(void* user, int64_t sample_id, const void* stored, size_t stored_bytes, void* delivered,
                                       size_t delivered_capacity, size_t* delivered_bytes, char* message,
                                       size_t message_capacity);

#ifdef __cplusplus
}  // extern "C"

namespace penstock {

/// What is done to a sample between store and batch. The default is nothing, and then it costs nothing.
struct CodecOptions {
  /// Decodes each sample; nullptr: stored bytes are delivered as they are.
  penstock_codec_function function = nullptr;
  void* user = nullptr;

  // How much the function may deliver for one sample, since places are planned before the first byte is read. Where both are set
  // the smaller one counts; where neither is, it may deliver as many bytes as the manifest says (for a plain file: its size).
  int64_t delivered_bytes_max_per_sample = 0;  ///< the same for every sample; 0: not set
  double expansion_max = 0;                    ///< times the stored bytes, rounded up; 0: not set

  /// Compares the stored bytes with the CRC-32C in the manifest, before the function sees them. A difference is DataLoss.
  bool verify_crc = false;
};

}  // namespace penstock
#endif  // __cplusplus

#endif  // PENSTOCK_CODEC_H_
