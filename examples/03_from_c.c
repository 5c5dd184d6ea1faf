/* One epoch of a folder of files, from C: each batch is one buffer, and where every sample lies in it.
 *
 *   cmake -S . -B build && cmake --build build --target 03_from_c && build/examples/03_from_c FOLDER
 * or, with penstock installed: cc 03_from_c.c -lpenstock */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "penstock/c.h"

static void check(penstock_code code, penstock_error *error) {
  if (code == PENSTOCK_OK) return;
  fprintf(stderr, "%s: %s\n", penstock_code_name(code), penstock_error_message(error));
  penstock_error_free(error);
  exit(1);
}

int main(int argc, char **argv) {
  penstock_error *error = NULL;
  penstock_options *options = NULL;
  penstock_loader *loader = NULL;
  penstock_batch *batch = NULL;
  penstock_code code;
  int64_t samples = 0, bytes = 0;
  if (argc != 2) return 2;

  check(penstock_options_create(PENSTOCK_LOADER_OPTIONS, &options, &error), error);
  check(penstock_options_set(options, "root", argv[1], &error), error);
  check(penstock_options_set(options, "batch_size", "4", &error), error);
  check(penstock_options_set(options, "tail", "partial", &error), error);
  check(penstock_loader_open(options, NULL, &loader, &error), error);
  penstock_options_close(options, NULL);

  while ((code = penstock_loader_next(loader, &batch, &error)) == PENSTOCK_OK) {
    penstock_batch_view view = {.struct_bytes = sizeof view};
    check(penstock_batch_get(batch, &view, &error), error);
    for (int64_t i = 0; i < view.size; ++i) {
      const unsigned char *sample = (const unsigned char *)view.data + view.offsets[i]; /* lengths[i] bytes, in place until the release */
      printf("sample %" PRId64 ": %" PRId64 " bytes, label %" PRId32 ", first byte %d\n", view.ids[i], view.lengths[i], view.labels[i],
             view.lengths[i] > 0 ? sample[0] : -1);
      bytes += view.lengths[i];
    }
    samples += view.size;
    check(penstock_batch_release(batch, &error), error);
  }
  if (code != PENSTOCK_OUT_OF_RANGE) check(code, error); /* OUT_OF_RANGE: the epoch has ended */
  penstock_error_free(error);
  printf("%" PRId64 " samples, %" PRId64 " bytes\n", samples, bytes);
  check(penstock_loader_close(loader, &error), error);
  return 0;
}
