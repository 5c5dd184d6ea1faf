#!/usr/bin/env python3
"""Follows every relative link in the Markdown of the tree, as it is read in the repository: to a file, a folder, or a heading.

    check_links.py SOURCE_DIR       one line per link that leads nowhere; exit status 1 if there is any
    check_links.py --self-test      plants each kind of such a link, and demands that it is found
"""
import pathlib
import re
import sys
import tempfile
import urllib.parse

FENCE = re.compile(r"^([ ]*)(```+|~~~+).*?^\1\2\s*$", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|<(?:img|source)[^>]* src(?:set)?=\"([^\"]+)\"")
NOT_OURS = {"build", ".git", ".cache", "shared", "node_modules"}


def slug(heading):
    """The anchor that GitHub and the site give to a heading."""
    text = re.sub(r"\{\s*#.*?\}", "", heading)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {slug(match) for match in re.findall(r"^#{1,6} (.+)$", text, re.M)}


def dead_links(root):
    found, followed = [], 0
    for path in sorted(root.rglob("*.md")):
        if NOT_OURS & set(path.relative_to(root).parts) or path.relative_to(root).parts[0].startswith("build"):
            continue
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        text = re.sub(r"`[^`\n]*\]\([^`\n]*`", "", text)  # a link that is shown as code
        for match in LINK.finditer(text):
            target = match.group(1) or match.group(2)
            if re.match(r"^(\w+:|//)", target):
                continue
            followed += 1
            name, _, anchor = urllib.parse.unquote(target).partition("#")
            file = (path.parent / name).resolve() if name else path.resolve()
            where = f"{path.relative_to(root)}: {target}"
            if not file.exists():
                found.append(f"{where}: no such file")
            elif not file.is_relative_to(root.resolve()):
                found.append(f"{where}: outside of the tree")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                found.append(f"{where}: no such heading")
    return found, followed


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "a.md").write_text("# Two words, `code`\n[good](b.md#here) [self](#two-words-code)\n[x](none.md) [y](b.md#gone) "
                                   "![z](p/none.svg)\n```\n[not looked at](nothing.md)\n```\n")
        (root / "b.md").write_text("# Here\n[up](../elsewhere.md)\n")
        found, followed = dead_links(root)
        expected = ["a.md: none.md", "a.md: b.md#gone", "a.md: p/none.svg", "b.md: ../elsewhere.md"]
        good = sorted(line.rsplit(": ", 1)[0] for line in found) == sorted(expected) and followed == 6
        print("\n".join(found), followed)
        return 0 if good else 1


def main():
    if sys.argv[1] == "--self-test":
        return self_test()
    found, followed = dead_links(pathlib.Path(sys.argv[1]))
    print("\n".join(found))
    print(f"{followed} links, {len(found)} lead nowhere")
    return 1 if found or followed < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
