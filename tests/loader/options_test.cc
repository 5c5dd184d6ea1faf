#include "penstock/options.h"

#include <cstdlib>

#include <catch2/catch.hpp>

#include "penstock/loader.h"
#include "support/status.h"

using namespace penstock;

namespace {

template <typename Options>
void CheckTable(absl::Span<const OptionInfo> table) {
  Options options;
  for (const OptionInfo& info : table) {
    INFO(info.name);
    CHECK_FALSE(std::string(info.help).empty());
    CHECK((std::string(info.kind) == "behaviour" || std::string(info.kind) == "speed"));
    REQUIRE_OK(SetOption(options, info.name, GetOption(options, info.name)));
  }
  CHECK(SetOption(options, "nonsense", "1").code() == absl::StatusCode::kInvalidArgument);
  CHECK(GetOption(options, "nonsense").empty());
}

}  // namespace

TEST_CASE("every option of the tables can be read and set back by name", "[options]") {
  CheckTable<LoaderOptions>(OptionTable());
  CheckTable<IndexOptions>(IndexOptionTable());
  CheckTable<RuntimeOptions>(RuntimeOptionTable());
  CHECK(OptionTable().size() >= 30);
  CHECK(IndexOptionTable().size() == 17);
}

TEST_CASE("what a codec function may deliver, and the checksums, are options like others", "[options]") {
  LoaderOptions options;
  REQUIRE_OK(SetOption(options, "codec_delivered_bytes_max", "3 KiB"));
  REQUIRE_OK(SetOption(options, "codec_expansion_max", "2.5"));
  REQUIRE_OK(SetOption(options, "verify_crc", "true"));
  CHECK(options.codec.delivered_bytes_max_per_sample == 3072);
  CHECK(options.codec.expansion_max == 2.5);
  CHECK(options.codec.verify_crc);
}

TEST_CASE("options take their own forms", "[options]") {
  LoaderOptions options;
  REQUIRE_OK(SetOption(options, "memory_bytes", "512MiB"));
  CHECK(options.memory_bytes == 512 << 20);
  REQUIRE_OK(SetOption(options, "tail", "partial"));
  CHECK(options.tail == Tail::kPartial);
  REQUIRE_OK(SetOption(options, "engine", "threads"));
  CHECK(options.engine == EngineOption::kThreads);
  REQUIRE_OK(SetOption(options, "shuffle", "false"));
  CHECK(options.shuffle == false);
}

TEST_CASE("an unknown name is refused with the nearest one", "[options]") {
  LoaderOptions options;
  const absl::Status status = SetOption(options, "batchsize", "1");
  REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(status.message().find("batch_size") != std::string::npos);
}

TEST_CASE("a bad value is refused with what the option takes", "[options]") {
  LoaderOptions options;
  const char* const bad[][2] = {
      {"batch_size", "0"},   {"batch_size", "-1"},   {"batch_size", "many"}, {"batch_size", "99999999999999999999"},
      {"cpu_share", "0"},    {"cpu_share", "1.5"},   {"cpu_share", "nan"},   {"tail", "none"},
      {"memory_bytes", "1"}, {"shuffle", "perhaps"}, {"rank", "-2"}};
  for (const auto& [name, value] : bad) {
    INFO(name << " = " << value);
    CHECK(SetOption(options, name, value).code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("the environment overrides speed and refuses behaviour", "[options]") {
  LoaderOptions options;
  ::setenv("PENSTOCK_QUEUE_DEPTH", "99", 1);
  REQUIRE_OK(ApplyEnvironment(options));
  CHECK(options.queue_depth == 99);
  ::setenv("PENSTOCK_QUEUE_DEPTH", "x", 1);
  CHECK(ApplyEnvironment(options).message().find("PENSTOCK_QUEUE_DEPTH") != std::string::npos);
  ::unsetenv("PENSTOCK_QUEUE_DEPTH");
  ::setenv("PENSTOCK_SEED", "1", 1);
  CHECK(ApplyEnvironment(options).code() == absl::StatusCode::kInvalidArgument);
  ::unsetenv("PENSTOCK_SEED");
}
