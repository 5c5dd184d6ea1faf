// One row of an option table: what the command line, the environment, the other languages and the docs know of an option.
#ifndef PENSTOCK_OPTION_TABLE_H_
#define PENSTOCK_OPTION_TABLE_H_

namespace penstock {

struct OptionInfo {
  const char* name;
  const char* kind;      // "behaviour" or "speed"
  const char* type;      // "text", "integer", "number", "bytes", "boolean", or the words it takes: "auto|uring|threads"
  const char* help;
};

}  // namespace penstock

#endif  // PENSTOCK_OPTION_TABLE_H_
