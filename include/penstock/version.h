// The version of penstock. CMakeLists.txt reads it from here.
#ifndef PENSTOCK_VERSION_H_
#define PENSTOCK_VERSION_H_

#define PENSTOCK_VERSION_MAJOR 0
#define PENSTOCK_VERSION_MINOR 1
#define PENSTOCK_VERSION_PATCH 0
#define PENSTOCK_VERSION_STRING "0.1.0"

#endif  // PENSTOCK_VERSION_H_
