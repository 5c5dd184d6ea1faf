/* The C API of penstock: plain C11, and C++ too. What Python and every other language is built on.

   Handles   The types with an opaque struct are handles, not addresses: never dereference one. A handle that was closed, is of another
             type or was made up is answered with PENSTOCK_INVALID_ARGUMENT and a text, never with a crash; the same handle is never
             given out twice in a process. Closing NULL is allowed and does nothing.
   Errors    Every function that can fail returns a code, equal to Abseil's, and takes `penstock_error **error` as its last argument.
             Where that is not NULL it is set: to NULL with PENSTOCK_OK, else to an error that the caller frees with
             penstock_error_free(). Outputs are NULL or 0 then. An output that is not marked optional must not be NULL
             (PENSTOCK_INVALID_ARGUMENT). Nothing throws, and no argument aborts the process.
   Text      In: zero-terminated, any bytes; NULL is PENSTOCK_INVALID_ARGUMENT unless marked optional. Out as `char **`: owned by the
             caller, freed with penstock_string_free(). Out as `const char *`: never freed; static unless said otherwise. What is called
             JSON is one object in UTF-8; bytes of a name that are none become U+FFFD there.
   Threads   "any" means any thread at any time, several at once. Two threads may use different handles at the same time without a word. A
             handle that is closed while another thread is in a call with it stays valid for that call.
   fork      In a forked child calls with a loader or a batch of the parent are PENSTOCK_FAILED_PRECONDITION; closing them there
             is allowed and does nothing to the parent. Open a loader of the child's own.
   ABI       penstock_abi_version() counts changes that break a program that was built before. Structs that are filled for the caller
             begin with their size, so that they can grow. All integers have a fixed width. */
#ifndef PENSTOCK_C_H_
#define PENSTOCK_C_H_

#include <stddef.h>
#include <stdint.h>

#include "penstock/codec.h"   /* penstock_codec_function */
#include "penstock/version.h"

#if defined(__GNUC__)
#define PENSTOCK_C_API __attribute__((visibility("default")))
#else
#define PENSTOCK_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PENSTOCK_C_ABI_VERSION 1

/* ---- Codes and errors ---------------------------------------------------------------------------------------------------- */

/* The values of absl::StatusCode; and PENSTOCK_END_OF_EPOCH, which is no error and has no error object. */
typedef int32_t penstock_code;
enum {
  PENSTOCK_OK = 0,
  PENSTOCK_CANCELLED = 1,
  PENSTOCK_UNKNOWN = 2,
  PENSTOCK_INVALID_ARGUMENT = 3,
  PENSTOCK_DEADLINE_EXCEEDED = 4,
  PENSTOCK_NOT_FOUND = 5,
  PENSTOCK_ALREADY_EXISTS = 6,
  PENSTOCK_PERMISSION_DENIED = 7,
  PENSTOCK_RESOURCE_EXHAUSTED = 8,
  PENSTOCK_FAILED_PRECONDITION = 9,
  PENSTOCK_ABORTED = 10,
  PENSTOCK_OUT_OF_RANGE = 11,
  PENSTOCK_UNIMPLEMENTED = 12,
  PENSTOCK_INTERNAL = 13,
  PENSTOCK_UNAVAILABLE = 14,
  PENSTOCK_DATA_LOSS = 15,
  PENSTOCK_UNAUTHENTICATED = 16,
  PENSTOCK_END_OF_EPOCH = 100 /* of penstock_loader_next() and _next_within() only */
};

typedef struct penstock_error penstock_error;
typedef struct penstock_options penstock_options;
typedef struct penstock_runtime penstock_runtime;
typedef struct penstock_manifest penstock_manifest;
typedef struct penstock_loader penstock_loader;
typedef struct penstock_batch penstock_batch;

/* The code of an error; PENSTOCK_OK for NULL. Threads: any. */
PENSTOCK_C_API penstock_code penstock_error_code(const penstock_error *error);
/* Its text, valid until the error is freed; never NULL. Threads: any, but not while another frees it. */
PENSTOCK_C_API const char *penstock_error_message(const penstock_error *error);
/* Threads: any. */
PENSTOCK_C_API void penstock_error_free(penstock_error *error);
/* "INVALID_ARGUMENT" and so on; "UNKNOWN" for another number. Threads: any. */
PENSTOCK_C_API const char *penstock_code_name(penstock_code code);
/* Frees text that a function gave out. NULL, and what is no such text any more, is left alone. Threads: any. */
PENSTOCK_C_API void penstock_string_free(char *text);

/* "0.1.0" of the library that is loaded; 10000 * major + 100 * minor + patch; and its ABI, to be compared with
   PENSTOCK_C_ABI_VERSION. Threads: any. */
PENSTOCK_C_API const char *penstock_version(void);
PENSTOCK_C_API int32_t penstock_version_number(void);
PENSTOCK_C_API int32_t penstock_abi_version(void);

/* ---- Options --------------------------------------------------------------------------------------------------------------- */

/* Which table an option is looked up in; what it is for. */
enum {
  PENSTOCK_LOADER_OPTIONS = 0,  /* penstock_loader_open() */
  PENSTOCK_INDEX_OPTIONS = 1,   /* penstock_manifest_open(), _build(), _update() */
  PENSTOCK_RUNTIME_OPTIONS = 2  /* penstock_runtime_create() */
};

/* How many options a table has; -1 for a table that is none. Threads: any. */
PENSTOCK_C_API int64_t penstock_option_count(int32_t table);
/* Option `index` of a table. Each output is optional, and static text: its name; its group ("behaviour" or "speed"); its type ("text",
   "integer", "number", "bytes", "boolean", or the words it takes: "auto|uring|threads"); one line of help; its default.
   Errors:   OUT_OF_RANGE  no such index.   Threads: any. */
PENSTOCK_C_API penstock_code penstock_option_at(int32_t table, int64_t index, const char **name, const char **group, const char **type,
                                                const char **help, const char **default_value, penstock_error **error);

/* Options of one table, with their defaults. Threads: any; an options object itself is used by one thread at a time. */
PENSTOCK_C_API penstock_code penstock_options_create(int32_t table, penstock_options **options, penstock_error **error);
PENSTOCK_C_API penstock_code penstock_options_close(penstock_options *options, penstock_error **error);
/* Sets one option from text: ("batch_size", "256"), ("memory_bytes", "2 GiB").
   Errors:   INVALID_ARGUMENT  an unknown name (the nearest known one is named), or a value that it does not take. */
PENSTOCK_C_API penstock_code penstock_options_set(penstock_options *options, const char *name, const char *value, penstock_error **error);
/* The value as penstock_options_set() would take it. */
PENSTOCK_C_API penstock_code penstock_options_get(const penstock_options *options, const char *name, char **value,
                                                  penstock_error **error);
/* Loader: order = ids, a custom sampler or a subset. `ids` are signed integers of `id_bytes` bytes each, 4 or 8. They are copied; count 0:
   no list. What is no id of the data set is refused when the loader is opened.
   Errors:   INVALID_ARGUMENT  another size than 4 or 8; a count below 0. */
PENSTOCK_C_API penstock_code penstock_options_set_ids(penstock_options *options, const void *ids, int32_t id_bytes, int64_t count,
                                                      penstock_error **error);
/* Loader and index: a number that says when to give up. penstock_loader_open(), penstock_manifest_open(), _build() and _update() look at it
   about every 20 ms and end with CANCELLED once it is not 0, also where a file system does not answer: what hangs then ends on a thread of
   its own, and nothing is saved. A signal handler may set it. NULL: none. It must stay valid until the calls that are given these options
   have returned. */
PENSTOCK_C_API penstock_code penstock_options_set_cancel(penstock_options *options, const int32_t *flag, penstock_error **error);
/* Loader: decodes each sample with a function (codec.h has its contract); NULL: none. How much it may deliver is said by the options
   codec_delivered_bytes_max and codec_expansion_max. `user` and the function must stay valid until the loaders that were opened with them
   are closed. */
PENSTOCK_C_API penstock_code penstock_options_set_codec(penstock_options *options, penstock_codec_function function, void *user,
                                                        penstock_error **error);

/* ---- The log --------------------------------------------------------------------------------------------------------------- */

enum { PENSTOCK_LOG_INFO = 0, PENSTOCK_LOG_WARNING = 1, PENSTOCK_LOG_ERROR = 2 };
/* Called by one thread at a time, from penstock's threads. `message` is valid during the call. It must not call penstock. */
typedef void (*penstock_log_function)(void *user, int32_t level, const char *message);
/* Where messages of the whole process go; NULL: lines on standard error. The old function is not called again once this returns. Threads:
   any, but not from within a log function. */
PENSTOCK_C_API penstock_code penstock_set_log(penstock_log_function function, void *user, penstock_error **error);

/* ---- This machine ---------------------------------------------------------------------------------------------------------- */

/* Cores, NUMA nodes and GPUs as JSON: {"allowed_cpus": [...], "cores": [[...]], "nodes": [...], "gpus": [...], "cpu_quota": 0.0, "text":
   "..."}.
   Threads: any. */
PENSTOCK_C_API penstock_code penstock_topology_json(char **json, penstock_error **error);
/* What bounds this machine and what to change, as JSON: {"findings": [{"level": "good|note|problem", "subject", "seen", "advice"}],
   "topology": "..."}. `root`, optional: a data set to look at too. Threads: any. */
PENSTOCK_C_API penstock_code penstock_doctor_json(const char *root, char **json, penstock_error **error);
/* Which process of a training job this is: from the arguments where they are not -1, else from the environment of torchrun, MPI, jsrun,
   Flux or Slurm: {"rank", "world_size", "local_rank", "local_world_size", "source", "text"}. `source`, optional: what the arguments are
   called there; NULL: "arguments".
   Errors:   INVALID_ARGUMENT  launchers disagree, a launcher's variables are not complete, or a value is no number.
   Threads:  none may change the environment meanwhile. */
PENSTOCK_C_API penstock_code penstock_rank_json(int32_t rank, int32_t world_size, const char *source, char **json, penstock_error **error);

/* ---- The manifest ---------------------------------------------------------------------------------------------------------- */

/* Index options are optional everywhere. Manifests are immutable; Threads: any. */

/* Opens the manifest saved for `root`; builds it where there is none, and again where it is damaged or older than the data set. */
PENSTOCK_C_API penstock_code penstock_manifest_open(const char *root, const penstock_options *index_options, penstock_manifest **manifest,
                                                    penstock_error **error);
/* Scans `root` and saves its manifest, whatever was saved before. `counts_json`, optional: what was found and left out:
   {"added", "removed", "changed", "hidden", "non_regular", "broken_links", "cycles", "vanished", "no_shards", "unlabeled",
   "empty_classes", "examples"}. */
PENSTOCK_C_API penstock_code penstock_manifest_build(const char *root, const penstock_options *index_options,
                                                     penstock_manifest **manifest, char **counts_json, penstock_error **error);
/* As build, and counts what changed; checksums of what did not are kept. */
PENSTOCK_C_API penstock_code penstock_manifest_update(const char *root, const penstock_options *index_options,
                                                      penstock_manifest **manifest, char **counts_json, penstock_error **error);
/* Opens a saved manifest's file and never builds one. `root`, optional: where the data set is now. */
PENSTOCK_C_API penstock_code penstock_manifest_open_saved(const char *manifest_path, const char *root, penstock_manifest **manifest,
                                                          penstock_error **error);
PENSTOCK_C_API penstock_code penstock_manifest_close(penstock_manifest *manifest, penstock_error **error);

typedef struct penstock_manifest_view {
  uint64_t struct_bytes;     /* in: sizeof(penstock_manifest_view) */
  int64_t sample_count;      /* ids are 0 .. sample_count - 1 */
  int64_t object_count;      /* files */
  int64_t class_count;
  int64_t total_bytes;       /* of all samples, as delivered */
  int64_t max_sample_bytes;
  int64_t record_bytes;      /* the size of every sample where files are shards of equal records; else 0 */
  int64_t file_bytes;        /* of the manifest itself */
  int32_t has_labels;
  int32_t has_checksums;
  int32_t has_mtimes;        /* verify=stat can be used */
  int32_t has_place_order;   /* shuffle=disk-blocks can be used */
} penstock_manifest_view;
PENSTOCK_C_API penstock_code penstock_manifest_get(const penstock_manifest *manifest, penstock_manifest_view *view,
                                                   penstock_error **error);

/* 32 hexadecimal digits; the same for a copy of the data set elsewhere. */
PENSTOCK_C_API penstock_code penstock_manifest_fingerprint(const penstock_manifest *manifest, char **text, penstock_error **error);
/* Names and paths may hold any byte but zero. `bytes`, optional: the length without the terminating zero. The path is empty for a
   manifest that could not be saved.
   Errors:   OUT_OF_RANGE  no such sample or class. */
PENSTOCK_C_API penstock_code penstock_manifest_root(const penstock_manifest *manifest, char **text, int64_t *bytes,
                                                    penstock_error **error);
PENSTOCK_C_API penstock_code penstock_manifest_path(const penstock_manifest *manifest, char **text, int64_t *bytes,
                                                    penstock_error **error);
PENSTOCK_C_API penstock_code penstock_manifest_sample_name(const penstock_manifest *manifest, int64_t id, char **text, int64_t *bytes,
                                                           penstock_error **error);
PENSTOCK_C_API penstock_code penstock_manifest_class_name(const penstock_manifest *manifest, int32_t label, char **text, int64_t *bytes,
                                                          penstock_error **error);
/* Sizes (as delivered) and labels (-1: none) of the samples first .. first + count - 1; either array is optional.
   Errors:   OUT_OF_RANGE  not all of them exist. */
PENSTOCK_C_API penstock_code penstock_manifest_samples(const penstock_manifest *manifest, int64_t first, int64_t count, int64_t *sizes,
                                                       int32_t *labels, penstock_error **error);
/* What the bytes of a sample are, as a JSON array of one object per field: [{"name": "", "dtype": "<f4", "shape": [3, 32, 32]}]. dtype is as
   NumPy writes it, with its byte order; shape is null where the samples' shapes differ. "[]": not known (plain files, raw records). */
PENSTOCK_C_API penstock_code penstock_manifest_fields_json(const penstock_manifest *manifest, char **json, penstock_error **error);
/* Reads every column and compares its checksum. Errors: DATA_LOSS. */
PENSTOCK_C_API penstock_code penstock_manifest_verify(const penstock_manifest *manifest, penstock_error **error);

/* ---- The runtime ----------------------------------------------------------------------------------------------------------- */

/* What the loaders of a process share: budgets of memory and of reads in flight, open files, threads. Loaders that are given none share
   the process's own. A loader keeps its runtime: it may be closed before. Options are optional. Threads: any. */
PENSTOCK_C_API penstock_code penstock_runtime_create(const penstock_options *runtime_options, penstock_runtime **runtime,
                                                     penstock_error **error);
PENSTOCK_C_API penstock_code penstock_runtime_close(penstock_runtime *runtime, penstock_error **error);

/* ---- The loader ------------------------------------------------------------------------------------------------------------ */

/* Opens one rank's stream of batches and begins to read. The options may be closed afterwards. `runtime` is optional.
   Errors:   as penstock::Loader::Open in loader.h: each names what to change.   Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_open(const penstock_options *options, penstock_runtime *runtime, penstock_loader **loader,
                                                  penstock_error **error);
/* Ends all reading, within 5 s also while reads hang. A call of another thread in next() is cancelled, and the loader ends with that
   call. Batches stay valid. Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_close(penstock_loader *loader, penstock_error **error);

/* The next batch of the current epoch, as soon as its bytes are in place. The caller releases it. Behind the epoch's last batch the code
   is PENSTOCK_END_OF_EPOCH, and *batch and *error are NULL: penstock_loader_start_epoch() begins the next epoch. No error has that code.
   Errors:   DATA_LOSS, NOT_FOUND, PERMISSION_DENIED...  a sample cannot be read (policy=fail); its object, byte range and id are named.
                                  The loader stays usable, the position does not advance.
             DEADLINE_EXCEEDED    nothing came within the option deadline_s; what is waited for is named.
             RESOURCE_EXHAUSTED   all memory is in batches that were not released; they are named.
             CANCELLED            penstock_loader_stop() or _close() was called.
             FAILED_PRECONDITION  another thread is in next() at this moment; or a forked child.
   Threads:  one consumer at a time, whichever. */
PENSTOCK_C_API penstock_code penstock_loader_next(penstock_loader *loader, penstock_batch **batch, penstock_error **error);
/* The same, but waits for at most `wait_ms` milliseconds (0: not at all). Where nothing came in that time the code is PENSTOCK_OK with
   NULL in *batch, and nothing is lost. For a caller that has to look after something else meanwhile, as Python after Ctrl-C.
   Errors:   INVALID_ARGUMENT  wait_ms below 0. */
PENSTOCK_C_API penstock_code penstock_loader_next_within(penstock_loader *loader, int64_t wait_ms, penstock_batch **batch,
                                                         penstock_error **error);

/* Begins epoch `epoch` from its start; -1: the next one. Batches that were handed out stay valid.
   Errors:   INVALID_ARGUMENT an epoch below -1, or 2^40 and more; CANCELLED; FAILED_PRECONDITION, also while another thread is in next().
   Threads:  the consumer's. */
PENSTOCK_C_API penstock_code penstock_loader_start_epoch(penstock_loader *loader, int64_t epoch, penstock_error **error);
/* Stands where `steps` calls of next() would: passes over so many batches of the current epoch, without waiting for their bytes.
   Errors:   INVALID_ARGUMENT steps below 0; OUT_OF_RANGE fewer are left, and nothing is passed over; CANCELLED; FAILED_PRECONDITION.
   Threads:  the consumer's. */
PENSTOCK_C_API penstock_code penstock_loader_skip(penstock_loader *loader, int64_t steps, penstock_error **error);
/* New weights for the data sets of the option "mixture", from the next batch on: `count` of them, one for each. All ranks of a job do it
   at the same step. The state keeps them; epochs that begin before it cannot be gone back to.
   Errors:   INVALID_ARGUMENT not one for each data set, below 0, all 0, or too small for a place in a period; FAILED_PRECONDITION the loader
             reads no mixture; CANCELLED.   Threads: the consumer's. */
PENSTOCK_C_API penstock_code penstock_loader_set_weights(penstock_loader *loader, const double *weights, int64_t count,
                                                         penstock_error **error);
/* Ends waiting and reading: next() is PENSTOCK_CANCELLED from then on. Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_stop(penstock_loader *loader, penstock_error **error);

/* Where it stands: the epoch, how many steps this loader took in it, how many the whole epoch has, and how many are left to take. After a
   state from the middle of an epoch step begins at 0 again, and steps is still that of the whole epoch. Each output is optional. Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_position(const penstock_loader *loader, int64_t *epoch, int64_t *step, int64_t *steps,
                                                      int64_t *steps_left, penstock_error **error);
/* What to give to the option "state" to go on after the last batch that next() handed out: below 1 KiB of JSON, the same on every rank,
   valid for any world size, batch size, number of streams or engine. Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_state(const penstock_loader *loader, char **state, penstock_error **error);
/* The current epoch up to now, and how the loader was set up: the fields of EpochReport and SetupReport (stats.h) under their names.
   Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_report_json(const penstock_loader *loader, char **json, penstock_error **error);
PENSTOCK_C_API penstock_code penstock_loader_setup_json(const penstock_loader *loader, char **json, penstock_error **error);
/* The data set. The caller closes it; it may outlive the loader. Threads: any. */
PENSTOCK_C_API penstock_code penstock_loader_manifest(const penstock_loader *loader, penstock_manifest **manifest,
                                                      penstock_error **error);

/* ---- Batches --------------------------------------------------------------------------------------------------------------- */

/* One buffer, and where each sample lies in it: sample i has the bytes [offsets[i], offsets[i] + lengths[i]) of data. Places are in any
   order, with holes. The columns have `size` values each; all pointers are valid until the batch is released. */
typedef struct penstock_batch_view {
  uint64_t struct_bytes;    /* in: sizeof(penstock_batch_view) */
  int64_t size;             /* samples; 0 only with tail=partial */
  int64_t epoch;
  int64_t step;             /* within the epoch */
  void *data;               /* host or device memory; NULL where bytes is 0 */
  int64_t bytes;            /* of data, holes included */
  int64_t stride;           /* layout=dense: bytes from one sample to the next; else 0 */
  const int64_t *ids;       /* this and the next four in host memory */
  const int64_t *offsets;
  const int64_t *lengths;   /* 0 where valid is 0 */
  const int32_t *labels;    /* -1: none */
  const uint8_t *valid;     /* 0: skipped by the error policy */
  int32_t on_device;        /* 1: data is device memory */
  int32_t device;           /* the CUDA ordinal; -1 on the host path */
  const int64_t *device_ids;  /* the same columns in device memory; NULL on the host path */
  const int64_t *device_offsets;
  const int64_t *device_lengths;
  const int32_t *device_labels;
  const uint8_t *device_valid;
  const int32_t *members;   /* of the option "mixture", in host memory: which data set each sample is of; NULL without one */
  int64_t sample_bytes;     /* layout=dense: of each sample, also of an empty batch; 0 with a codec's function */
} penstock_batch_view;

/* Errors:   FAILED_PRECONDITION  in a forked child: the memory stays with the parent.   Threads: any. */
PENSTOCK_C_API penstock_code penstock_batch_get(const penstock_batch *batch, penstock_batch_view *view, penstock_error **error);

/* Gives the batch back; the handle is closed then. Its memory is used again once the tensors that were exported of it are gone too.
   Threads: any. */
PENSTOCK_C_API penstock_code penstock_batch_release(penstock_batch *batch, penstock_error **error);
/* The same on the device path, after the work that is enqueued on `cuda_stream` (a cudaStream_t) by now. On the host path the stream is
   not looked at.
   Errors:   the device's; the batch is given back all the same, but its memory is never used again. */
PENSTOCK_C_API penstock_code penstock_batch_release_after(penstock_batch *batch, void *cuda_stream, penstock_error **error);
/* Device path: `cuda_stream` waits for the batch's copies; reuse of the memory waits for what is enqueued on `cuda_stream` by now. On the
   host path both do nothing. Threads: any. */
PENSTOCK_C_API penstock_code penstock_batch_wait_on(penstock_batch *batch, void *cuda_stream, penstock_error **error);
PENSTOCK_C_API penstock_code penstock_batch_record_use(penstock_batch *batch, void *cuda_stream, penstock_error **error);

/* ---- DLPack ---------------------------------------------------------------------------------------------------------------- */

/* Of dlpack.h (https://github.com/dmlc/dlpack): major version 1, and the older one without a version. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* What of a batch becomes a tensor. */
enum {
  PENSTOCK_TENSOR_DATA = 0,    /* all bytes: [bytes]; layout=dense: [size, stride] */
  PENSTOCK_TENSOR_SAMPLE = 1,  /* sample `index`: [lengths[index]] */
  PENSTOCK_TENSOR_IDS = 2,     /* the columns: [size] */
  PENSTOCK_TENSOR_OFFSETS = 3,
  PENSTOCK_TENSOR_LENGTHS = 4,
  PENSTOCK_TENSOR_LABELS = 5,
  PENSTOCK_TENSOR_VALID = 6
};
/* The number in an array's type, as in dlpack.h. */
enum {
  PENSTOCK_TYPE_INT = 0,
  PENSTOCK_TYPE_UINT = 1,
  PENSTOCK_TYPE_FLOAT = 2,
  PENSTOCK_TYPE_BFLOAT = 4,
  PENSTOCK_TYPE_COMPLEX = 5,
  PENSTOCK_TYPE_BOOL = 6
};

/* A tensor over the batch's memory, without a copy; the caller calls its deleter once, from any thread, at any time, also after the batch
   was released and the loader closed: the memory stays until then. The deleter never waits and calls neither CUDA nor a lock of the
   loader. On the device path reuse waits for what was enqueued on `stream` by the time the memory is handed back after the deleter.
   Columns in host memory are copies, and do not keep the batch.

   index      of the sample; 0 otherwise.
   type_code, type_bits, ndim, shape   how a sample is to be read: PENSTOCK_TYPE_FLOAT, 32, 3, {3, 224, 224}. Its bytes must be exactly
              those of the sample (of every one that was delivered, for PENSTOCK_TENSOR_DATA with layout=dense, which becomes
              [size, shape...]). type_bits 0: bytes as listed above; ndim and shape are not looked at. Columns have a type of their own.
   stream     device path, as in __dlpack__(): 1 the legacy default stream, 2 the calling thread's, above 2 a cudaStream_t: it waits for
              the batch's copies; -1: nothing waits. Host path: not looked at.
   Shape:     strides are always filled (in elements), byte_offset is 0, data is 64-byte aligned unless the sample shares its read with a
              neighbour.
   Errors:    INVALID_ARGUMENT     a part, index, type, shape or stream that is none, or does not fit the sample's bytes.
              FAILED_PRECONDITION  a forked child.
              RESOURCE_EXHAUSTED   memory for the tensor's description, or a thread.
              the device's.
   Threads:   any. */
PENSTOCK_C_API penstock_code penstock_batch_to_dlpack(penstock_batch *batch, int32_t part, int64_t index, int32_t type_code,
                                                      int32_t type_bits, int32_t ndim, const int64_t *shape, int64_t stream,
                                                      struct DLManagedTensor **tensor, penstock_error **error);
/* The same with a version (1.1) and flags. */
PENSTOCK_C_API penstock_code penstock_batch_to_dlpack_versioned(penstock_batch *batch, int32_t part, int64_t index, int32_t type_code,
                                                                int32_t type_bits, int32_t ndim, const int64_t *shape, int64_t stream,
                                                                struct DLManagedTensorVersioned **tensor, penstock_error **error);

#ifdef __cplusplus
}  /* extern "C" */
#endif

#endif /* PENSTOCK_C_H_ */
