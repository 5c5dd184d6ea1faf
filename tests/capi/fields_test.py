#!/usr/bin/env python3
"""Every field of the structs that C sees as JSON is in that JSON.

    fields_test.py SOURCE_DIR      a line per field that is missing; exit status 1 if there is any
"""
import pathlib
import re
import sys

STRUCTS = {
    "stats.h": ("EpochReport", "SetupReport", "LedgerEntry"),
    "manifest.h": ("IndexCounts",),
    "topology.h": ("Topology", "NumaNode", "GpuInfo", "RankInfo"),
    "doctor.h": ("Finding", "DoctorReport"),
}


def fields(header, struct):
    """The data members of a struct, by name."""
    text = re.sub(r"//.*", "", header.read_text(encoding="utf-8"))
    body = re.search(rf"^struct {struct} \{{(.*?)^\}};", text, flags=re.DOTALL | re.MULTILINE).group(1)
    return [match.group(1) for match in re.finditer(r"^  [\w:<> ]+? (\w+)(?: = [^;]*)?;", body, flags=re.MULTILINE)]


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    source = pathlib.Path(arguments[0])
    json = (source / "lib" / "capi" / "json.cc").read_text(encoding="utf-8")
    missing, count = [], 0
    for header, structs in STRUCTS.items():
        for struct in structs:
            for field in fields(source / "include" / "penstock" / header, struct):
                count += 1
                if f'"{field}"' not in json:
                    missing.append(f"{struct}::{field} is not in lib/capi/json.cc")
    for line in missing:
        print(line)
    return 1 if missing or count < 80 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
