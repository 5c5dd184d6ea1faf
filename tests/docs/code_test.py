#!/usr/bin/env python3
"""Compiles (without linking) every ```cpp and ```c block of README.md and the pages of docs/. A block is the body of a function that has a
loader, its options, a batch, and Use() and Fail().

    code_test.py SOURCE_DIR WORK_DIR CXX CC INCLUDE_DIRS
"""
import pathlib
import re
import subprocess
import sys

root, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
cxx, cc, include_dirs = sys.argv[3], sys.argv[4], [part for part in sys.argv[5].split(":") if part and part != "/usr/include"]
CPP_HEAD = """#include <cstdint>
#include <memory>
#include <string>
#include <vector>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
"""
CPP_TOOLS = """
void Use(absl::Span<const std::byte>, int32_t) {}
absl::Status Fail(const absl::Status& status) { return status; }
"""
C_HEAD = """#include <stdint.h>
#include <stdio.h>
#include "penstock/c.h"
static int fail(penstock_error *error) { return error == NULL ? 0 : 1; }
static void use(const char *bytes, int64_t length, int32_t label) { (void)bytes; (void)length; (void)label; }
"""


def blocks(language):
    for path in (root / "README.md", root / "python/README.md", *sorted((root / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(rf"^([ ]*)```{language}(?![\w+])[^\n]*\n(.*?)^\1```", text, re.M | re.S):
            line = text[:match.start(2)].count("\n") + 1
            yield path, line, match.group(2)


def cpp():
    parts = [CPP_HEAD]
    parts += [f'#include "penstock/{header.name}"\n' for header in sorted((root / "include/penstock").glob("*.h"))]
    parts.append(CPP_TOOLS)
    count = 0
    for path, line, code in blocks("cpp"):
        # What a block does not make itself is there.
        given = [(r"\boptions\b", r"LoaderOptions options;", "penstock::LoaderOptions options"),
                 (r"\bloader\b", r"auto loader =", "absl::StatusOr<std::unique_ptr<penstock::Loader>> loader"),
                 (r"\bbatch\b", r"auto batch =", "penstock::Batch batch")]
        made = [f"{declaration};" for used, makes, declaration in given if re.search(used, code) and not re.search(makes, code)]
        parts.append(f"absl::Status Block{count}() {{\n{' '.join(made)}\n#line {line} \"{path}\"\n{code}\nreturn absl::OkStatus();\n}}\n")
        count += 1
    file = work / "pages.cc"
    file.write_text("\n".join(parts))
    command = [cxx, "-std=c++20", "-fsyntax-only", "-Wall", "-Wno-unused-variable", "-Wno-unused-but-set-variable", f"-I{root / 'include'}",
               *(f"-I{folder}" for folder in include_dirs), str(file)]
    return count, subprocess.run(command).returncode


def c():
    parts, count = [C_HEAD], 0
    for path, line, code in blocks("c"):
        parts.append(f"int block{count}(void);\nint block{count}(void) {{\n#line {line} \"{path}\"\n{code}\nreturn 0;\n}}\n")
        count += 1
    file = work / "pages.c"
    file.write_text("\n".join(parts))
    return count, subprocess.run([cc, "-std=c11", "-fsyntax-only", "-Wall", f"-I{root / 'include'}", str(file)]).returncode


def main():
    work.mkdir(parents=True, exist_ok=True)
    results = {"cpp": cpp(), "c": c()}
    print({language: f"{count} blocks, compiler {'accepts' if code == 0 else 'refuses'}" for language, (count, code) in results.items()})
    return 1 if any(code for _, code in results.values()) or results["cpp"][0] < 5 or results["c"][0] < 1 else 0


if __name__ == "__main__":
    sys.exit(main())
