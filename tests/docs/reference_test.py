#!/usr/bin/env python3
"""The pages that docs/tools/headers.py makes have every word of the headers' docstrings, every public name and every exported C function.

    reference_test.py SOURCE_DIR
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(root / "docs" / "tools"))
import headers  # noqa: E402


def words(text):
    return re.findall(r"[A-Za-z0-9]+", text)


def missing_words(header, page):
    """Runs of words of the docstrings that the page does not have in their order."""
    text = header.read_text(encoding="utf-8")
    if header.name == "c.h":
        docs = re.findall(r"/\*(.*?)\*/", text, re.S)
        docs = [part for part in docs if "PENSTOCK_C_H_" not in part and 'extern "C"' not in part and "----" not in part]
    else:
        blocks = re.findall(r"(?:^[ \t]*///.*\n)+", text, re.M)
        docs = ["\n".join(re.sub(r"^\s*///<?", "", line) for line in block.splitlines()) for block in blocks]
    have = " ".join(words(page.replace("\\", "")))
    lost = []
    for doc in docs:
        doc = re.sub(r"^\s{0,3}\*", "", doc, flags=re.M)
        for line in doc.splitlines():
            wanted = " ".join(words(line))
            if wanted and wanted not in have:
                lost.append(f"{header.name}: {line.strip()}")
    return lost


def main():
    lost = []
    pages = {}
    for header in sorted((root / "include" / "penstock").glob("*.h")):
        pages[header.name] = headers.page(header)
        if header.name in ("export.h", "version.h"):
            continue
        lost += missing_words(header, pages[header.name])
        text = header.read_text(encoding="utf-8")
        for name in re.findall(r"PENSTOCK_EXPORT [^;{]*?(\w+)\(", text) + re.findall(r"(?:class|struct) PENSTOCK_EXPORT (\w+)", text):
            if not re.search(rf"\b{name}\b", pages[header.name]):
                lost.append(f"{header.name}: {name} is not on its page")
        for heading in re.findall(r"^## (.+?) \{ #", pages[header.name], re.M):
            if not heading.strip():
                lost.append(f"{header.name}: a heading without a name")
    for symbol in (root / "tests" / "capi" / "symbols.txt").read_text().split():
        if symbol.startswith("penstock_") and not re.search(rf"^###? .*\b{symbol}\b", pages["c.h"].replace("\\", ""), re.M):
            lost.append(f"c.h: {symbol} has no heading")
    print("\n".join(lost))
    print(f"{len(pages)} headers, {sum(len(page.splitlines()) for page in pages.values())} lines, {len(lost)} faults")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
