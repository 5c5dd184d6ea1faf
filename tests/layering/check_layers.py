#!/usr/bin/env python3
"""Reads the #include lines of lib/ and include/ and fails on one that points the wrong way.

    check_layers.py SOURCE_DIR      one line per violation; exit status 1 if there is any
    check_layers.py --self-test     plants every kind of violation in a scratch tree and demands that each is found

Rules: a room of lib/ includes only itself and rooms above it (ROOMS); a public header includes only the standard library, Abseil and
other public headers; the command-line tool includes only public headers and base; nothing above the loader includes its public face.
"""
import pathlib
import re
import sys
import tempfile

# In the order in which one sample passes them; each may include those to its left.
ROOMS = "base topology store manifest order plan memory ring codec transform transfer stream loader capi cli".split()
CLI_MAY_INCLUDE = {"cli", "base"}
# Public headers that only these rooms may include: they are the loader's face, so to include one from above is a back edge in disguise.
LOADER_FACES = {"penstock/loader.h", "penstock/c.h"}
ROOMS_BELOW_THE_FACE = {"loader", "capi", "cli"}
C_STANDARD_HEADERS = {f"{name}.h" for name in (
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic stdbool stddef "
    "stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype").split()}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SUFFIXES = {".h", ".cc", ".cu", ".cuh", ".c"}


def includes(path):
    """The includes of a file as (line number, '<' or '"', target)."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1), match.group(2)


def room_violation(room, bracket, target):
    """Why a file of `room` must not include `target`, or None."""
    if target in LOADER_FACES and room not in ROOMS_BELOW_THE_FACE:
        return f"{room} lies above loader and must not include its public face"
    first, slash, _ = target.partition("/")
    if not slash:
        if bracket == '"':
            return f'name it from lib/: "{room}/{target}"'
        return None
    if first not in ROOMS:
        return None  # penstock/, absl/ and other libraries
    if room == "cli":
        return None if first in CLI_MAY_INCLUDE else "the command-line tool includes only public headers and base"
    if ROOMS.index(first) > ROOMS.index(room):
        return f"back edge: {room} lies above {first}"
    return None


def public_violation(bracket, target):
    """Why a public header must not include `target`, or None."""
    if target.startswith(("penstock/", "absl/")):
        return None
    if bracket == "<" and "/" not in target and ("." not in target or target in C_STANDARD_HEADERS):
        return None
    return "public headers include only the standard library, Abseil and penstock/"


def violations(source_dir):
    """All violations below source_dir, as lines to print, and the number of files that were read."""
    found, file_count = [], 0
    lib = source_dir / "lib"
    for path in sorted(lib.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        room = path.relative_to(lib).parts[0]
        file_count += 1
        if room not in ROOMS:
            found.append(f"{path}:1: {room} is no room of lib/; add it to ROOMS where it belongs")
            continue
        for number, bracket, target in includes(path):
            why = room_violation(room, bracket, target)
            if why:
                found.append(f"{path}:{number}: {target}: {why}")
    for path in sorted((source_dir / "include").rglob("*.h")):
        file_count += 1
        for number, bracket, target in includes(path):
            why = public_violation(bracket, target)
            if why:
                found.append(f"{path}:{number}: {target}: {why}")
    return found, file_count


# (file, its one include, whether that is a violation)
PLANTED = [
    ("lib/base/a.h", '#include "ring/ring.h"', True),
    ("lib/plan/a.cc", '#  include "stream/stream.h"', True),
    ("lib/loader/a.cc", '#include "cli/main.h"', True),
    ("lib/stream/a.cc", '#include "penstock/loader.h"', True),
    ("lib/cli/a.cc", '#include "ring/ring.h"', True),
    ("lib/ring/a.cc", '#include "neighbour.h"', True),
    ("lib/elsewhere/a.cc", "#include <vector>", True),
    ("include/penstock/a.h", '#include "base/check.h"', True),
    ("include/penstock/b.h", "#include <liburing.h>", True),
    ("include/penstock/c1.h", "#include <sys/uio.h>", True),
    ("include/penstock/d.h", "#include <nlohmann/json.hpp>", True),
    ("lib/stream/b.cc", '#include "ring/ring.h"', False),
    ("lib/ring/b.cc", "#include <liburing.h>", False),
    ("lib/ring/c.cc", '// #include "stream/stream.h"', False),
    ("lib/loader/b.cc", '#include "penstock/loader.h"', False),
    ("lib/cli/b.cc", '#include "base/bytes.h"', False),
    ("lib/cli/c.cc", '#include "penstock/loader.h"', False),
    ("include/penstock/e.h", "#include <vector>", False),
    ("include/penstock/f.h", "#include <stdint.h>", False),
    ("include/penstock/g.h", '#include "absl/status/status.h"', False),
]


def self_test():
    wrong = []
    for name, line, is_violation in PLANTED:
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / name
            path.parent.mkdir(parents=True)
            path.write_text(f"// A planted include.\n{line}\n", encoding="utf-8")
            found, _ = violations(pathlib.Path(scratch))
            if bool(found) != is_violation:
                wrong.append(f"{name}: {line}: expected {'a violation' if is_violation else 'none'}, found {found}")
    for line in wrong:
        print(line)
    print(f"{len(PLANTED)} planted includes, {len(wrong)} judged wrongly")
    return 1 if wrong else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found, file_count = violations(pathlib.Path(arguments[0]))
    for line in found:
        print(line)
    if file_count == 0:
        print(f"{arguments[0]}: no sources found; this is not penstock's folder")
        return 2
    print(f"{file_count} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
