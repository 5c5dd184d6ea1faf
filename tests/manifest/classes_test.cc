// Which names are data, and which number a class has.
#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "manifest/fixture.h"

using namespace penstock;
using namespace penstock::testing;

namespace {

std::vector<std::string> ClassesOf(const Manifest& manifest) {
  std::vector<std::string> names;
  for (int32_t label = 0; label < manifest.class_count(); ++label) names.push_back(manifest.class_name(label));
  return names;
}

IndexOptions With(std::string IndexOptions::*option, const std::string& value) {
  IndexOptions options;
  options.*option = value;
  return options;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("what systems and tools leave beside data is no sample and no class", "[manifest]") {
  TempFolder folder;
  for (const char* name :
       {"cat/1.jpg", "cat/Thumbs.db", "cat/DESKTOP.INI", "cat/2.jpg~", "cat/3.jpg.part", "cat/4.tmp", "cat/@eaDir/1.jpg", "dog/1.jpg",
        "dog/__pycache__/x.pyc", "lost+found/1", "__MACOSX/cat/1.jpg", "$RECYCLE.BIN/1.jpg", "System Volume Information/1"}) {
    folder.Write(name);
  }
  // A link's name counts as well.
  std::filesystem::create_symlink("1.jpg", folder.At("cat/5.tmp"));
  auto built = Manifest::Build(folder.path());
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == Names{"cat/1.jpg", "dog/1.jpg"});
  CHECK(ClassesOf(*built->manifest) == Names{"cat", "dog"});
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{0, 1});
  CHECK(built->counts.no_data == 12);
  CHECK(Contains(built->counts.examples, "no data by its name"));
  // Named in so many letters it is meant.
  auto wanted = Manifest::Build(folder.path(), With(&IndexOptions::include, "*.tmp,lost+found/*"));
  REQUIRE_OK(wanted);
  CHECK(NamesOf(*wanted->manifest) == Names{"cat/4.tmp", "cat/5.tmp", "lost+found/1"});
}

TEST_CASE("include, exclude and extensions choose files, and an update keeps them", "[manifest]") {
  TempFolder folder;
  for (const char* name : {"a/1.jpg", "a/2.PNG", "a/notes.txt", "b/raw/3.jpg", "b/4.jpg", "drafts/5.jpg"}) folder.Write(name);
  IndexOptions options;
  options.rule = TreeRule::kFlat;
  options.extensions = "jpg, .png";
  options.exclude = "drafts,b/raw";
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == Names{"a/1.jpg", "a/2.PNG", "b/4.jpg"});
  CHECK(built->counts.excluded == 3);
  folder.Write("drafts/6.jpg");
  folder.Write("b/7.jpg");
  auto updated = Manifest::Update(folder.path(), {.rule = TreeRule::kFlat});
  REQUIRE_OK(updated);
  CHECK(NamesOf(*updated->manifest) == Names{"a/1.jpg", "a/2.PNG", "b/4.jpg", "b/7.jpg"});
  // Another choice is another manifest; the same one serves.
  CHECK((*Manifest::Open(folder.path(), options))->sample_count() == 4);
  options.exclude = "";
  options.include = "a/*";
  auto opened = Manifest::Open(folder.path(), options);
  REQUIRE_OK(opened);
  CHECK(NamesOf(**opened) == Names{"a/1.jpg", "a/2.PNG"});
  folder.Write("list", "a/1.jpg\n");
  CHECK(Contains(MessageOf(Manifest::Build(folder.At("list"), With(&IndexOptions::include, "*.jpg"))), "belong to folders"));
}

TEST_CASE("class c has the number that another data set gives it", "[manifest]") {
  LogCapture log;
  TempFolder folder;
  for (const char* name : {"train/a/1", "train/b/1", "train/c/1", "val/a/1", "val/c/1"}) folder.Write(name);
  auto train = Manifest::Build(folder.At("train"));
  REQUIRE_OK(train);
  // By itself it has another one, and says so.
  auto alone = Manifest::Build(folder.At("val"));
  REQUIRE_OK(alone);
  CHECK(LabelsOf(*alone->manifest) == std::vector<int32_t>{0, 1});
  CHECK(log.CountOf("its class c has the label 1, and in " + folder.At("train") + " the label 2") == 1);
  folder.Write("names.txt", "a\r\nb\n\nc\n");
  for (const std::string& classes :
       {std::string("a,b,c"), std::string("a\nb\nc\n"), "@" + folder.At("train"), "@" + train->manifest->path(), "@" + folder.At("names.txt")}) {
    INFO(classes);
    auto val = Manifest::Build(folder.At("val"), With(&IndexOptions::classes, classes));
    REQUIRE_OK(val);
    CHECK(LabelsOf(*val->manifest) == std::vector<int32_t>{0, 2});
    CHECK(ClassesOf(*val->manifest) == Names{"a", "b", "c"});
    CHECK(val->counts.empty_classes == 1);
  }
  CHECK(log.CountOf("its class c has the label") == 1);
  // Kept by an update, and a manifest of other numbers does not serve.
  folder.Write("val/c/2");
  CHECK(LabelsOf(*Manifest::Update(folder.At("val"))->manifest) == std::vector<int32_t>{0, 2, 2});
  CHECK(LabelsOf(**Manifest::Open(folder.At("val"), With(&IndexOptions::classes, "c,a"))) == std::vector<int32_t>{0, 0, 1});
}

TEST_CASE("class folders that were not asked for are refused, or left out and named", "[manifest]") {
  TempFolder folder;
  for (const char* name : {"a/1", "b/1", "c/1"}) folder.Write(name);
  IndexOptions options = With(&IndexOptions::classes, "c,a");
  const auto refused = Manifest::Build(folder.path(), options);
  CHECK(refused.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Contains(MessageOf(refused), "the class folder b is none of the classes asked for"));
  CHECK(Contains(MessageOf(refused), "unknown_classes=leave-out"));
  options.unknown_classes = UnknownClasses::kLeaveOut;
  auto built = Manifest::Build(folder.path(), options);
  REQUIRE_OK(built);
  CHECK(NamesOf(*built->manifest) == Names{"c/1", "a/1"});
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{0, 1});
  CHECK(built->counts.unknown_classes == 1);
  CHECK(Manifest::Update(folder.path())->manifest->sample_count() == 2);
  for (const char* bad : {"a,a", "a,,b", "a/x", "@/nonexistent/x"}) {
    INFO(bad);
    CHECK_FALSE(Manifest::Build(folder.path(), With(&IndexOptions::classes, bad)).ok());
  }
  IndexOptions flat = With(&IndexOptions::classes, "a,b,c");
  flat.rule = TreeRule::kFlat;
  CHECK(Contains(MessageOf(Manifest::Build(folder.path(), flat)), "flat folder"));
}

TEST_CASE("numeric classes follow their numbers", "[manifest]") {
  TempFolder folder;
  for (int i = 1; i <= 12; ++i) folder.Write(std::to_string(i) + "/x");
  auto built = Manifest::Build(folder.path(), With(&IndexOptions::classes, "numeric"));
  REQUIRE_OK(built);
  CHECK(ClassesOf(*built->manifest) == Names{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"});
  CHECK(LabelsOf(*built->manifest) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(ClassesOf(*Manifest::Update(folder.path())->manifest)[9] == "10");
  folder.Write("cat/x");
  CHECK(Contains(MessageOf(Manifest::Update(folder.path())), "the class folder cat is no number"));
  std::filesystem::remove_all(folder.At("cat"));
  folder.Write("007/x");
  CHECK(Contains(MessageOf(Manifest::Update(folder.path())), "are one number"));
}
