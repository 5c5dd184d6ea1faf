/* What does one next() cost in C, where the batch is ready? The measure for bench/python_next.py, which does the same from Python.
   Bound: no I/O: the batches were read ahead, and the consumer gives the loader time before each, asleep
   (cold caches) or busy (hot).

   bench_capi_next DIR STEPS [hot]    prints one line per step: nanoseconds of penstock_loader_next_within() with
                                      penstock_batch_get(), and of penstock_batch_release() */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "penstock/c.h"

static int64_t Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void Check(penstock_code code, penstock_error *error) {
  if (code == PENSTOCK_OK) return;
  fprintf(stderr, "bench_capi_next: %s\n", penstock_error_message(error));
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "bench_capi_next DIR STEPS [hot]\n");
    return 2;
  }
  const bool hot = argc > 3;
  const long steps = atol(argv[2]);
  penstock_error *error = NULL;
  penstock_options *options = NULL;
  penstock_loader *loader = NULL;
  Check(penstock_options_create(PENSTOCK_LOADER_OPTIONS, &options, &error), error);
  const char *const settings[][2] = {
      {"root", argv[1]}, {"batch_size", "32"}, {"memory_bytes", "256 MiB"}, {"rank", "0"}, {"world_size", "1"}};
  for (size_t i = 0; i < sizeof settings / sizeof settings[0]; ++i) {
    Check(penstock_options_set(options, settings[i][0], settings[i][1], &error), error);
  }
  Check(penstock_loader_open(options, NULL, &loader, &error), error);
  for (long step = 0; step < steps; ++step) {
    const struct timespec pause = {0, 2000000};
    if (hot) {
      for (const int64_t until = Now() + 2000000; Now() < until;) continue;
    } else {
      nanosleep(&pause, NULL);
    }
    penstock_batch *batch = NULL;
    penstock_batch_view view = {.struct_bytes = sizeof view};
    const int64_t start = Now();
    penstock_code code = penstock_loader_next_within(loader, 0, &batch, &error);
    if (code == PENSTOCK_END_OF_EPOCH) {
      Check(penstock_loader_start_epoch(loader, -1, &error), error);
      --step;
      continue;
    }
    Check(code, error);
    if (batch == NULL) {
      --step; /* not ready: not what is asked here */
      continue;
    }
    Check(penstock_batch_get(batch, &view, &error), error);
    const int64_t taken = Now();
    Check(penstock_batch_release(batch, &error), error);
    printf("%" PRId64 " %" PRId64 "\n", taken - start, Now() - taken);
  }
  Check(penstock_loader_close(loader, &error), error);
  Check(penstock_options_close(options, &error), error);
  return 0;
}
