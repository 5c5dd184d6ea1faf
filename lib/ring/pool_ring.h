// The pread backend: blocking calls on the threads of a PreadPool. The common path, since most containers forbid io_uring.
#ifndef PENSTOCK_RING_POOL_RING_H_
#define PENSTOCK_RING_POOL_RING_H_

#include <memory>

#include "ring/pread_pool.h"
#include "ring/ring.h"

namespace penstock {

// `store` must outlive every request, hung ones included.
std::unique_ptr<Ring> MakePoolRing(const ObjectStore& store, const RingOptions& options, std::shared_ptr<PreadPool> pool);

}  // namespace penstock

#endif  // PENSTOCK_RING_POOL_RING_H_
