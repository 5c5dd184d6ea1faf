"""What mkdocs.yml adds to the pages of docs/: pages that live elsewhere in the tree, and the reference made of the headers.

A page may link to any file of the tree by its path, as it does in the repository. A Markdown file becomes a page, a public header its page
of the reference, a picture is copied, a folder becomes a list of its files, and any other file is shown as it is. A link to nothing fails
the build.
"""
import pathlib
import posixpath
import re
import sys

from mkdocs.structure.files import File, InclusionLevel

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "tools"))
import headers  # noqa: E402

# Files of the tree that are pages of the site, beside docs/ itself and what is linked to.
PAGES = {
    "lib/README.md": "reference/tour.md",
    "lib/manifest/README.md": "reference/manifest-layout.md",
    "python/README.md": "guides/python.md",
    "bench/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "README.md": "tree/overview.md",
}
WITHOUT_PAGE = {"export.h", "version.h"}
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^()\s]+)(\))|(<(?:img|source)[^>]* src(?:set)?=\")([^\"]+)(\")")
LIST_AFTER_TEXT = re.compile(r"^((?![ ]*(?:[-*]|\d+\.) |[ ]{2}|\||#).+\n)(?=(?:-|\d+\.) )", re.M)
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.M | re.S)
LANGUAGES = {".cc": "cpp", ".h": "cpp", ".cu": "cpp", ".c": "c", ".py": "python", ".sh": "bash", ".json": "json", ".txt": "text"}

site_of = {}  # path in the tree -> path in the site
tree_of = {}  # path in the site -> path in the tree
texts = {}    # path in the site -> Markdown of a page that is made


def outside_fences(text, function):
    """`text` with `function` applied to all that is not a fenced block."""
    out, at = [], 0
    for match in FENCE.finditer(text):
        out += [function(text[at:match.start()]), match.group(0)]
        at = match.end()
    return "".join(out) + function(text[at:])


def targets(text):
    found = []

    def look(part):
        found.extend(match.group(2) or match.group(5) for match in LINK.finditer(part))
        return part

    outside_fences(text, look)
    return [target for target in found if not re.match(r"^(\w+:|#|//)", target)]


def listing(folder):
    """A folder as a page: the names of what lies in it, with links to what can be shown."""
    rows = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        shown = path.is_file() and (path.suffix in LANGUAGES or path.suffix == ".md")
        rows.append(f"- [{path.name}]({path.name})" if shown else f"- `{path.name}{'/' if path.is_dir() else ''}`")
    return f"# {folder.relative_to(ROOT)}\n\n" + "\n".join(rows) + "\n"


def add(path):
    """The site's page of a file of the tree, made if there is none yet. None: there is no such file."""
    if path in site_of:
        return site_of[path]
    file = ROOT / path
    if not file.exists():
        return None
    if file.is_dir():
        uri = f"tree/{path}/files.md" if path else "tree/files.md"
        texts[uri] = listing(file) if path else "# Files\n"
        tree_of[uri] = f"{path}/files.md"
    elif file.suffix == ".md":
        uri = PAGES.get(path) or ("results/" + file.name if path.startswith("bench/results/") else
                                  f"tree/{path[:-3].replace('README', 'about')}.md")
        texts[uri] = re.sub(r"^### ", "# ", file.read_text(encoding="utf-8"), count=1) if uri.startswith("results/") else \
            file.read_text(encoding="utf-8")
        tree_of[uri] = path
    elif path.startswith("include/penstock/") and file.name not in WITHOUT_PAGE:
        uri = f"reference/{'c' if file.name in ('c.h',) else 'cpp/' + file.stem}.md"
        texts[uri] = headers.page(file)
        tree_of[uri] = path
    elif file.suffix in (".svg", ".png"):
        uri = f"tree/{path}"
        tree_of[uri] = path
    else:
        uri = f"tree/{path}.md"
        text = file.read_text(encoding="utf-8", errors="replace")
        texts[uri] = f"# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{text}````\n"
        tree_of[uri] = None  # no links in it
    site_of[path] = uri
    return uri


def on_files(files, config):
    site_of.clear(), tree_of.clear(), texts.clear()
    waiting = []
    for file in files:
        if file.inclusion.is_excluded():
            continue
        path = f"docs/{file.src_uri}"
        site_of[path], tree_of[file.src_uri] = file.src_uri, path
        if file.src_uri.endswith(".md"):
            waiting.append((path, (ROOT / path).read_text(encoding="utf-8")))
    for path in PAGES:
        add(path)
    for header in sorted((ROOT / "include/penstock").glob("*.h")):
        if header.name not in WITHOUT_PAGE:
            add(f"include/penstock/{header.name}")
    for table in sorted((ROOT / "bench/results").glob("*.md")):
        add(f"bench/results/{table.name}")
    done = set()
    while True:
        waiting += [(tree_of[uri], text) for uri, text in texts.items() if tree_of[uri] and uri not in done]
        done |= set(texts)
        if not waiting:
            break
        for path, text in waiting:
            for target in targets(text):
                add(posixpath.normpath(posixpath.join(posixpath.dirname(path), target.partition("#")[0])) if target[0] != "#" else path)
        waiting = []
    in_nav = str(config.nav)
    for path, uri in site_of.items():
        if path.startswith("docs/") and uri in files.src_uris:
            continue
        level = InclusionLevel.INCLUDED if uri in in_nav else InclusionLevel.NOT_IN_NAV
        if uri in texts:
            files.append(File.generated(config, uri, content=texts[uri], inclusion=level))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=level))
    return files


def on_page_markdown(markdown, page, config, files):
    path = tree_of.get(page.file.src_uri)
    # "```python numpy" says to the tests what a block needs.
    markdown = re.sub(r"^```(python|cpp|c) [^\n{]+$", r"```\1", markdown, flags=re.M)
    if path is None:
        return markdown

    def replaced(match):
        before, target, after = (match.group(1), match.group(2), match.group(3)) if match.group(2) else match.group(4, 5, 6)
        if re.match(r"^(\w+:|#|//)", target):
            return match.group(0)
        name, mark, anchor = target.partition("#")
        found = site_of.get(posixpath.normpath(posixpath.join(posixpath.dirname(path), name)))
        if found is None:
            return match.group(0)  # mkdocs says that it leads nowhere
        return before + posixpath.relpath(found, posixpath.dirname(page.file.src_uri) or ".") + mark + anchor + after

    # A list that follows a line of text is one in the repository; here it needs a blank line before it.
    return outside_fences(markdown, lambda part: LIST_AFTER_TEXT.sub(r"\1\n", LINK.sub(replaced, part)))
