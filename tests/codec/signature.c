/* The signature as C sees it: this file is compiled as C11. */
#include "penstock/codec.h"

#include <string.h>

int penstock_test_reverse(void *user, int64_t sample_id, const void *stored, size_t stored_bytes, void *delivered,
                          size_t delivered_capacity, size_t *delivered_bytes, char *message, size_t message_capacity) {
  size_t i;
  if (sample_id < 0 && message_capacity > 3) strcpy(message, "id");
  if (sample_id < 0 || stored_bytes > delivered_capacity) return -1;
  for (i = 0; i < stored_bytes; ++i) ((char *)delivered)[i] = ((const char *)stored)[stored_bytes - 1 - i];
  *delivered_bytes = stored_bytes;
  ++*(int *)user;
  return 0;
}

penstock_codec_function penstock_test_function(void) { return penstock_test_reverse; }
