#!/usr/bin/env python3
"""What README.md and the pages of docs/ say of options is true: `name=value` names an option that takes the value, and commands of
penstock have the flags that they are shown with.

    words_test.py SOURCE_DIR PENSTOCK
"""
import ast
import pathlib
import re
import shlex
import subprocess
import sys

root, tool = pathlib.Path(sys.argv[1]), sys.argv[2]
# What looks like an option and is a keyword of another program.
OTHERS = {"num_workers", "sampler", "pin_memory", "drop_last", "drop_caches"}


def parameters():
    """The names of all parameters of the Python package's functions, which are no options of the tables."""
    for path in (root / "python/src/penstock").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield from (argument.arg for argument in [*node.args.args, *node.args.kwonlyargs])


COMMAND = r"penstock (?:index|bench|plan|ledger|options|doctor)\b[^`\n]*"


def options():
    """name -> what it takes, of all tables."""
    table = {}
    for name, takes in re.findall(r"^\| `(\w+)` \| \w+ \| ([^ ]+) \|", (root / "docs/options.md").read_text().replace("\\|", "!"), re.M):
        table.setdefault(name, set()).update(takes.split("!"))
    return table


def faults_of(path, table, help_of):
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root)
    for option, value in re.findall(r"`(\w+)=([^`\s,]*)[^`\n]*`", text):
        if option.isupper() or option in OTHERS and option not in table:
            continue
        value = value.strip("\"'")
        value = value.lower() if value in ("True", "False") else value  # Python's words
        if option not in table:
            yield f"{name}: `{option}=`: no such option"
        elif value and value not in table[option] and not table[option] & {"text", "integer", "number", "bytes", "boolean"}:
            yield f"{name}: `{option}={value}`: it takes {sorted(table[option])}"
        elif value and table[option] == {"boolean"} and value.lower() not in ("true", "false"):
            yield f"{name}: `{option}={value}`: it is a boolean"
    for line in re.findall(rf"^(?:    )?({COMMAND})", text, re.M) + re.findall(rf"`({COMMAND})`", text):
        words = shlex.split(re.sub(r"[\[\]|]", " ", line), comments=True)
        known = help_of(words[1])
        for at, word in enumerate(words):
            if word.startswith("--") and not re.search(rf"(^|[\s,]){word}\b", known):
                yield f"{name}: {line}: {words[1]} has no {word}"
            if word == "--set" and at + 1 < len(words) and "=" in words[at + 1] and words[at + 1].split("=")[0] not in {*table, "NAME"}:
                yield f"{name}: {line}: no option {words[at + 1]}"


def main():
    table, helps = options(), {}
    OTHERS.update(parameters())

    def help_of(command):
        if command not in helps:
            helps[command] = subprocess.run([tool, command, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        return helps[command]

    pages = [root / "README.md", root / "python/README.md", *sorted((root / "docs").rglob("*.md"))]
    found = [fault for path in pages for fault in faults_of(path, table, help_of)]
    print("\n".join(found))
    print(f"{len(pages)} pages, {len(table)} options, {len(helps)} commands, {len(found)} faults")
    return 1 if found or len(table) < 40 or len(helps) < 4 else 0


if __name__ == "__main__":
    sys.exit(main())
