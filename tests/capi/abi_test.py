#!/usr/bin/env python3
"""The binary interface of libpenstock.so, as recorded in symbols.txt.

    abi_test.py LIBRARY HEADER SYMBOLS            compares; exit status 1 and a line per difference
    abi_test.py LIBRARY HEADER SYMBOLS --record   writes SYMBOLS anew, after a function was added

Three lists must be one: what the header declares, what the library shows to a linker, and what is recorded. A function that is gone from
the record breaks programs that were built before: then PENSTOCK_C_ABI_VERSION is to be raised too.
"""
import pathlib
import re
import subprocess
import sys


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {match.group(1) for match in re.finditer(r"^PENSTOCK_C_API\b[^;(]*?\b(\w+)\s*\(", text, flags=re.MULTILINE)}


def shown(library):
    output = subprocess.run(["nm", "-D", "--defined-only", str(library)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[2].partition("@")[0] for line in output.splitlines()}


def main(arguments):
    record = "--record" in arguments
    paths = [pathlib.Path(argument) for argument in arguments if not argument.startswith("--")]
    if len(paths) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    library, header, symbols = paths
    in_header, in_library = declared(header), shown(library)
    if record:
        symbols.write_text("".join(f"{name}\n" for name in sorted(in_header)), encoding="utf-8")
    recorded = set(symbols.read_text(encoding="utf-8").split())
    differences = []
    for what, names in (
            ("is declared in c.h, but the library does not show it", in_header - in_library),
            ("is shown by the library, but c.h does not declare it", in_library - in_header),
            ("is new and not recorded: abi_test.py --record", in_header - recorded),
            ("was recorded and is gone: programs that call it break", recorded - in_header)):
        differences += [f"{name} {what}" for name in sorted(names)]
    for line in differences:
        print(line)
    return 1 if differences or len(in_header) < 40 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
