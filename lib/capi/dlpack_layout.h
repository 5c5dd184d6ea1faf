/* The layout of DLPack, which is an ABI: both sides write it down.
   Source: https://github.com/dmlc/dlpack, include/dlpack/dlpack.h, version 1.1; DLManagedTensor as before 1.0. Debian 12 ships 0.6,
   which lacks the versioned one. Names and order are theirs. */
#ifndef PENSTOCK_CAPI_DLPACK_LAYOUT_H_
#define PENSTOCK_CAPI_DLPACK_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

#define PENSTOCK_DLPACK_MAJOR 1
#define PENSTOCK_DLPACK_MINOR 1

enum { kDLCPU = 1, kDLCUDA = 2 };

typedef struct {
  int32_t device_type;
  int32_t device_id;
} DLDevice;

typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* in elements */
  uint64_t byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

typedef struct {
  uint32_t major;
  uint32_t minor;
} DLPackVersion;

typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;

#define DLPACK_FLAG_BITMASK_READ_ONLY (UINT64_C(1) << 0)
#define DLPACK_FLAG_BITMASK_IS_COPIED (UINT64_C(1) << 1)

#endif /* PENSTOCK_CAPI_DLPACK_LAYOUT_H_ */
