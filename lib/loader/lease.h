// What a Batch holds while it is lent.
#ifndef PENSTOCK_LOADER_LEASE_H_
#define PENSTOCK_LOADER_LEASE_H_

#include <memory>

#include "loader/loader_core.h"
#include "penstock/batch.h"
#include "stream/attempt.h"

namespace penstock {

struct Batch::Lease {
  std::shared_ptr<LoaderCore> core;
  std::shared_ptr<Attempt> attempt;
};

}  // namespace penstock

#endif  // PENSTOCK_LOADER_LEASE_H_
