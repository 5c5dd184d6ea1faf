// What a Batch holds while it is lent.
#ifndef PENSTOCK_LOADER_LEASE_H_
#define PENSTOCK_LOADER_LEASE_H_

#include <cstdint>
#include <memory>

#include "loader/loader_core.h"
#include "penstock/batch.h"
#include "stream/attempt.h"

namespace penstock {

struct Batch::Lease {
  std::shared_ptr<LoaderCore> core;
  std::shared_ptr<Attempt> attempt;
  int64_t number = 0;  // never used twice, as the attempt's address may be
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_LEASE_H_
