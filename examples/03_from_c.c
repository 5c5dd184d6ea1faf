/* One epoch of a folder of files, from C: each batch is one buffer, and where every sample lies in it.
 *   cmake -S . -B build && cmake --build build --target 03_from_c && build/examples/03_from_c FOLDER
 * With penstock installed: cc 03_from_c.c $(pkg-config --cflags --libs penstock) */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "penstock/c.h"

static void check(penstock_code code, penstock_error *error) {
  if (code == PENSTOCK_OK) return;
  fprintf(stderr, "%s: %s\n", penstock_code_name(code), penstock_error_message(error));
  exit(1);
}

int main(int argc, char **argv) {
  penstock_error *error = NULL;
  penstock_options *options;
  penstock_loader *loader;
  penstock_batch *batch;
  penstock_code code;
  int64_t samples = 0, bytes = 0;
  uint64_t sum = 0;
  if (argc != 2) return 2;
  check(penstock_options_create(PENSTOCK_LOADER_OPTIONS, &options, &error), error);
  check(penstock_options_set(options, "root", argv[1], &error), error);
  check(penstock_options_set(options, "batch_size", "4", &error), error);
  check(penstock_options_set(options, "tail", "partial", &error), error);
  check(penstock_loader_open(options, NULL, &loader, &error), error);
  while ((code = penstock_loader_next(loader, &batch, &error)) == PENSTOCK_OK) {
    penstock_batch_view view = {.struct_bytes = sizeof view};
    check(penstock_batch_get(batch, &view, &error), error);
    for (int64_t i = 0; i < view.size; ++i, ++samples) {
      const unsigned char *sample = (const unsigned char *)view.data + view.offsets[i]; /* there until the release */
      for (int64_t k = 0; k < view.lengths[i]; ++k, ++bytes) sum = sum * 31 + sample[k];
      printf("sample %" PRId64 ": %" PRId64 " bytes, label %" PRId32 "\n", view.ids[i], view.lengths[i], view.labels[i]);
    }
    check(penstock_batch_release(batch, &error), error);
  }
  if (code != PENSTOCK_END_OF_EPOCH) check(code, error); /* an error: it names what failed, and the cure */
  printf("%" PRId64 " samples, %" PRId64 " bytes, their sum %016" PRIx64 "\n", samples, bytes, sum);
  penstock_options_close(options, NULL);
  return penstock_loader_close(loader, NULL);
}
