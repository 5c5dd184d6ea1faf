// Which symbols the shared library shows.
#ifndef PENSTOCK_EXPORT_H_
#define PENSTOCK_EXPORT_H_

#if defined(PENSTOCK_SHARED) && defined(__GNUC__)
#define PENSTOCK_EXPORT __attribute__((visibility("default")))
#else
#define PENSTOCK_EXPORT
#endif

#endif  // PENSTOCK_EXPORT_H_
