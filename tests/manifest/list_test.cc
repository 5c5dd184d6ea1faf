// List files: `path[TAB label]`, one sample a line.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "base/crc32c.h"
#include "manifest/fixture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

using Names = std::vector<std::string>;
using Labels = std::vector<int32_t>;

// The code and message of indexing a list of this text beside the files a, b and sub/c.
absl::Status ListStatus(const std::string& text) {
  LogCapture log;
  TempFolder tree;
  for (const char* name : {"a", "b", "sub/c"}) tree.Write(name, name);
  return Manifest::Build(tree.Write("list", text)).status();
}

}  // namespace

TEST_CASE("a list gives its lines in their order", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  TempFolder elsewhere;
  tree.Write("b", "bb");
  tree.Write("a", "a");
  tree.Write("sub/c", "ccc");
  const std::string absolute = elsewhere.Write("d", "dddd");
  const bool end_of_line = GENERATE(true, false);
  const std::string list = tree.Write("train.tsv", "sub/c\t7\nb\na\t0\n" + absolute + "\t2147483647" + (end_of_line ? "\n" : ""));
  const auto result = Manifest::Build(list);
  REQUIRE_OK(result);
  const Manifest& manifest = *result->manifest;
  CHECK(NamesOf(manifest) == Names{"sub/c", "b", "a", absolute});
  CHECK(LabelsOf(manifest) == Labels{7, -1, 0, 2147483647});
  CHECK(manifest.StoredBytes(0) == 3);
  CHECK(manifest.StoredBytes(3) == 4);
  CHECK(manifest.rule() == TreeRule::kList);
  CHECK(manifest.root() == tree.path());
  CHECK(manifest.class_count() == 0);
  CHECK(manifest.path() == tree.At(".train.tsv.penstock"));
}

TEST_CASE("names in a list are kept byte for byte", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (const char* name : {" a", "\xFF", ".hidden", "tab\tin"}) tree.Write(name);
  const auto result = Manifest::Build(tree.Write("list", " a\n\xFF\n.hidden\ntab\tin\t5\n"));
  REQUIRE_OK(result);
  CHECK(NamesOf(*result->manifest) == Names{" a", "\xFF", ".hidden", "tab\tin"});
}

TEST_CASE("two lists in one folder have manifests of their own", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a");
  tree.Write("b");
  const std::string train = tree.Write("train", "a\n");
  const std::string test = tree.Write("test", "b\n");
  const auto first = Manifest::Open(train);
  const auto second = Manifest::Open(test);
  REQUIRE_OK(first);
  REQUIRE_OK(second);
  CHECK((*first)->path() != (*second)->path());
  CHECK(NamesOf(**Manifest::Open(train)) == Names{"a"});
  CHECK(log.CountOf("indexed") == 2);
}

TEST_CASE("a file missing from a list is named with its line", "[manifest]") {
  const absl::Status status = ListStatus("a\nnope\t1\nb\n");
  CHECK(status.code() == absl::StatusCode::kNotFound);
  CHECK(Contains(std::string(status.message()), "line 2"));
  CHECK(Contains(std::string(status.message()), "nope"));
  CHECK(Contains(std::string(status.message()), "remove the line"));
}

TEST_CASE("of several bad lines the first is named", "[manifest]") {
  std::string text;
  LogCapture log;
  TempFolder tree;
  for (int i = 0; i < 5000; ++i) {
    const std::string name = "f" + std::to_string(i);
    if (i % 1000 != 999) tree.Write(name);
    text += name + "\n";
  }
  IndexOptions options;
  options.threads = 8;
  const auto result = Manifest::Build(tree.Write("list", text), options);
  CHECK(Contains(MessageOf(result), "line 1000:"));
}

TEST_CASE("a malformed label is refused with its line", "[manifest]") {
  for (const char* label : {"", "cat", "-1", "1.5", "2147483648", "99999999999999999999", "1 2", "+1", "0x1"}) {
    const absl::Status status = ListStatus(std::string("a\t1\nb\t") + label + "\n");
    INFO(status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(Contains(std::string(status.message()), "line 2"));
  }
}

TEST_CASE("folders and NUL bytes in a list are refused", "[manifest]") {
  for (const std::string& line :
       {std::string("sub"), std::string("sub/"), std::string("\t1"), std::string("a\0b", 3), std::string("/dev/null")}) {
    const absl::Status status = ListStatus("a\n" + line + "\nb\n");
    INFO(status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(Contains(std::string(status.message()), "line 2"));
  }
}

TEST_CASE("a file listed twice is refused with both lines", "[manifest]") {
  const absl::Status status = ListStatus("a\t1\nb\na\t2\n");
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(std::string(status.message()), "line 3"));
  CHECK(Contains(std::string(status.message()), "line 1"));
}

TEST_CASE("an empty list is an error", "[manifest]") { CHECK(ListStatus("").code() == absl::StatusCode::kNotFound); }

TEST_CASE("a list that was written again is indexed again", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  for (const char* name : {"a", "b"}) tree.Write(name);
  const std::string list = tree.Write("list", "a\n");
  REQUIRE_OK(Manifest::Open(list));
  tree.Write("list", "b\n");
  const auto again = Manifest::Open(list);
  REQUIRE_OK(again);
  CHECK(NamesOf(**again) == Names{"b"});
  CHECK(log.CountOf("older than its data set") == 1);
}

TEST_CASE("other files beside a list do not make it stale", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a");
  const std::string list = tree.Write("list", "a\n");
  REQUIRE_OK(Manifest::Open(list));
  tree.Write("new");
  REQUIRE_OK(Manifest::Open(list));
  CHECK(log.CountOf("indexed") == 1);
}

TEST_CASE("a list can be checksummed", "[manifest]") {
  LogCapture log;
  TempFolder tree;
  tree.Write("a", "123456789");
  IndexOptions options;
  options.crc = true;
  const auto result = Manifest::Build(tree.Write("list", "a\n"), options);
  REQUIRE_OK(result);
  REQUIRE(result->manifest->has_crc());
  CHECK(result->manifest->Crc(0, 0) == 0xE3069283u);
}

TEST_CASE("a list may begin with a mark, and have empty lines, comments and lines as Windows writes them", "[manifest]") {
  TempFolder folder;
  folder.Write("a");
  folder.Write("b");
  folder.Write("c");
  folder.Write("list", "\xEF\xBB\xBF# made by hand\r\na\t1\r\n\r\n \n#\nb\t 2 \nc\t3");
  auto built = Manifest::Build(folder.At("list"));
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == std::vector<std::string>{"a", "b", "c"});
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{1, 2, 3});
  CHECK(built->counts.empty_lines == 2);
  CHECK(built->counts.comment_lines == 2);
  CHECK(Contains(built->counts.examples, "line 3 (an empty line)"));
}

TEST_CASE("a line of a list that is nearly right is named with its cure", "[manifest]") {
  TempFolder folder;
  for (const char* name : {"a", "b c", "#x", "d/e"}) folder.Write(name);
  const auto message = [&](const std::string& text) {
    folder.Write("list", text);
    return MessageOf(Manifest::Build(folder.At("list")));
  };
  CHECK(Contains(message("# c\n\nb c\na 3\n"), "line 4: a 3: "));  // lines are counted as an editor does
  CHECK(Contains(message("a 3\n"), "a is there: put a TAB before the label"));
  CHECK(Contains(message("b c,17\n"), "b c is there: put a TAB before the label"));
  CHECK(Contains(message("a \n"), "a is there: remove the blanks"));
  CHECK(Contains(message("nothing 3\n"), "restore the file or remove the line"));
  CHECK(Contains(message("#x\n"), "Write ./#x for the file"));
  CHECK(message("./#x\nb c\t1\n").empty());
  CHECK(Contains(message(std::string("\xFF\xFE" "a\0\n\0", 6)), "UTF-16"));
}

TEST_CASE("a file that a list names twice by other spellings is refused", "[manifest]") {
  TempFolder folder;
  folder.Write("a");
  folder.Write("d/e");
  std::filesystem::create_symlink("a", folder.At("link"));
  std::filesystem::create_hard_link(folder.At("a"), folder.At("hard"));
  folder.Write("f");
  const auto message = [&](const std::string& text) {
    folder.Write("list", text);
    return MessageOf(Manifest::Build(folder.At("list")));
  };
  CHECK(Contains(message("a\n./a\n"), "line 2: ./a is also in line 1, as a"));
  CHECK(Contains(message("d//e\n\nd/e\n"), "line 3: d/e is also in line 1, as d//e"));
  CHECK(Contains(message("d/e\nd/./e\n"), "is also in line 1"));
  CHECK(Contains(message("f\n" + folder.At("f") + "\n"), "is also in line 1, as f"));
  CHECK(Contains(message("f\nd/../f\n"), "line 2: d/../f is also in line 1, as f"));
  // Links are names of their own: that is how samples are repeated on purpose.
  CHECK(message("f\na\nlink\nhard\n").empty());
}
