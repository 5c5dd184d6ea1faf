#!/usr/bin/env python3
"""Writes src/penstock/_option_types.pyi, the types of the options as keyword arguments, from the option table of the library.

    PENSTOCK_LIBRARY=.../libpenstock.so tools/write_option_types.py [--check]     --check: only compares; 1 where the file is old
"""
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "src"
TARGET = FOLDER / "penstock" / "_option_types.pyi"
TABLES = [("LoaderOptions", "LOADER_OPTIONS"), ("IndexOptions", "INDEX_OPTIONS"), ("RuntimeOptions", "RUNTIME_OPTIONS")]
TYPES = {"text": "Union[str, os.PathLike[str]]", "integer": "int", "number": "float", "bytes": "Union[int, str]", "boolean": "bool"}
# Parameters of their own in Loader.__init__.
OWN = {"LoaderOptions": {"root", "state", "mixture"}, "IndexOptions": set(), "RuntimeOptions": set()}


def type_of(words: str) -> str:
    if words in TYPES:
        return TYPES[words]
    choices = words.split("|")
    literals = [f'"{word}"' for word in choices if word not in ("true", "false")]
    parts = [f"Literal[{', '.join(literals)}]"] if literals else []
    if "true" in choices:
        parts.insert(0, "bool")
    return parts[0] if len(parts) == 1 else f"Union[{', '.join(parts)}]"


def text() -> str:
    sys.path.insert(0, str(FOLDER))
    from penstock import _capi, _options

    lines = ["# Written by tools/write_option_types.py from the option table; tests/test_options.py compares them.", "import os",
             "from typing import Literal, TypedDict, Union", ""]
    for name, which in TABLES:
        lines += ["", f"class {name}(TypedDict, total=False):"]
        for option in _options.table(getattr(_capi, which)):
            if option.name not in OWN[name]:
                lines += [f"    {option.name}: {type_of(option.type)}", f'    """{option.help}"""']
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def main(arguments: list) -> int:
    new = text()
    if arguments == ["--check"]:
        return int(not TARGET.exists() or TARGET.read_text() != new)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    TARGET.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
