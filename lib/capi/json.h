// Reports as JSON: the fields of the C++ structs under their names.
#ifndef PENSTOCK_CAPI_JSON_H_
#define PENSTOCK_CAPI_JSON_H_

#include <string>

#include "penstock/doctor.h"
#include "penstock/manifest.h"
#include "penstock/stats.h"
#include "penstock/topology.h"

namespace penstock::capi {

std::string ToJson(const EpochReport& report);
std::string ToJson(const SetupReport& setup);
std::string ToJson(const Topology& topology);
std::string ToJson(const DoctorReport& report);
std::string ToJson(const RankInfo& rank);
std::string ToJson(const IndexCounts& counts);
std::string ToJson(const std::vector<FieldType>& types);

}  // namespace penstock::capi

#endif  // PENSTOCK_CAPI_JSON_H_
