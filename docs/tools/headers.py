#!/usr/bin/env python3
"""Makes a page of the reference from a public header: each declaration with its docstring.

    headers.py HEADER        prints the Markdown of one header

A docstring is the comment right before a declaration: `///` in C++, `/* */` in C. Its fields (Shape, Units, Errors, Lifetime, Threads,
Source) become lists. Members of a struct or an enum stay in the code block with their own comments. Private members are left out.
"""
import pathlib
import re
import sys

FIELD = re.compile(r"^(\s*)(Shape|Units|Errors|Lifetime|Threads|Source|Returns|index|type_code|stream)(?::| {3})( *)(?=\S)")
CODE = re.compile(r"^((?:[A-Z]\w+)(?:, [A-Z]\w+)*(?:\.\.\.)?)(?: {2,}| (?![A-Z])| (?=[A-Z]+ ))(\S.*)$")
NAME_OF_TYPE = re.compile(r"^(?:template <[^>]*> )?(?:class|struct|enum class|enum)\s+(?:PENSTOCK_EXPORT\s+)?(\w+)[^;]*\{")
NAME_FORMS = (r"typedef .*\(\*(\w+)\)", r"using (\w+)", r"inline constexpr \S+ (\w+)", r"typedef [^(]*?(\w+);?$", r"(~\w+)\(",
              r"[^(]*?\b(operator\s*\S+?|\w+)\s*\(", r"#define (\w+)")
SKIPPED = re.compile(r"^\s*(friend\b|using namespace|extern \"C\"|}\s*/[/*]|}\s*$|#|(public|private|protected):\s*$)")


NOT_C_CODE = re.compile(r'^\s*#(if|endif|else|include|elif|define PENSTOCK_C_API)|^extern "C"|^}\s*(/[/*].*)?$')


def escape(text):
    """Text of a comment as Markdown: what is between backquotes stays code, and nothing else means anything."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") and len(part) > 1 else re.sub(r"([\\<>*_\[\]{}|#~])", r"\\\1", part) for part in parts)


def paragraphs(lines):
    """Prose, with blocks that are indented by four columns as code."""
    out, text, code = [], [], []

    def flush():
        if text:
            out.append(escape(" ".join(text)))
            text.clear()
        if code:
            out.append("```cpp\n" + "\n".join(code).rstrip() + "\n```")
            code.clear()

    for line in lines:
        if line.startswith("    "):
            if text:
                flush()
            code.append(line[4:])
        elif not line.strip():
            if code:
                code.append("")
            else:
                flush()
        else:
            if code:
                flush()
            text.append(line.strip())
    flush()
    return out


def entries(lines):
    """A field's lines as items: one that begins in the first column of the field is a new one, one further right goes on."""
    if not lines:
        return []
    first = min(len(line) - len(line.lstrip()) for line in lines)
    items = []
    for line in lines:
        if len(line) - len(line.lstrip()) == first:
            items.append(line.strip())
        else:
            items[-1] += " " + line.strip()
    return items


def docstring(lines):
    """The Markdown of a docstring."""
    lines = [part for line in lines for part in re.sub(r"(\S)\s{2,}(Threads: )", r"\1\n\2", line).split("\n")]
    at = next((index for index, line in enumerate(lines) if FIELD.match(line) and not line.startswith("    ")), len(lines))
    out = paragraphs(lines[:at])
    fields = []
    for line in lines[at:]:
        match = FIELD.match(line)
        if match and not line.startswith("    "):
            fields.append((match.group(2), [" " * match.end() + line[match.end():]]))
        elif line.strip():
            fields[-1][1].append(line)
        else:
            fields[-1][1].append("")
    for name, body in fields:
        tail = []  # a paragraph behind a blank line is prose again
        if "" in body:
            cut = body.index("")
            body, tail = body[:cut], body[cut + 1:]
        if name == "Errors":
            items = entries(body)
            named = [CODE.match(item) or re.match(r"^(\S.*?)\s{2,}(\S.*)$", item) for item in items]
            if any(named):
                out.append(f"**{name}**\n")
                out.append("\n".join(f"- **{escape(match.group(1))}**: {escape(re.sub(r' +', ' ', match.group(2)))}" if match
                                     else f"- {escape(item)}" for item, match in zip(items, named)))
            else:
                out.append(f"**{name}**: {escape(' '.join(items))}")
        else:
            out.append(f"**{name}**: {escape(' '.join(line.strip() for line in body))}")
        if any(line.strip() for line in tail):
            out += paragraphs(tail)
    return "\n\n".join(out)


def names_of(code):
    """What a group of declarations declares."""
    names = []
    match = NAME_OF_TYPE.match(code)
    if match:
        return [match.group(1)]
    if code.startswith("typedef struct") and "{" in code:
        match = re.search(r"^}\s*(\w+);$", code, re.M)
        return [match.group(1), *names_of(code[match.end():].strip())]
    if code.startswith("enum {") or code.startswith("enum\n"):
        return [re.search(r"\b([A-Z]\w+_[A-Z]+)", code).group(1).rsplit("_", 1)[0] + "_..."]
    for declaration in re.split(r";\s*(?://.*)?\n", code):
        text = re.sub(r"//.*|/\*.*?\*/|PENSTOCK_(EXPORT|C_API)|\[\[nodiscard\]\]", "", declaration, flags=re.S).strip()
        match = next(filter(None, (re.match(form, text, re.S) for form in NAME_FORMS)), None)
        if match:
            name = re.sub(r"\s+", " ", match.group(1))
            if name not in names:
                names.append(name)
    return names


def shown(lines):
    """Code as a reader needs it: without the macros of linking, and with the lines that go on moved along."""
    out, moved = [], 0
    for line in lines:
        match = re.search(r"PENSTOCK_(EXPORT|C_API) +", line)
        if match:
            moved = len(match.group(0))
            line = line.replace(match.group(0), "", 1)
        elif not line.startswith(" " * 20):
            moved = 0
        else:
            line = line[moved:]
        out.append(line)
    return "\n".join(out)


def without_bodies(lines):
    """Member functions that are defined in the class, as declarations."""
    out, depth = [], 0
    for line in lines:
        if depth == 0 and re.match(r"^\s*(struct|enum|class)\b", line) and not line.rstrip().endswith(";"):
            return lines
        bare = bare_code(line)
        if depth == 0:
            has_body = ")" in bare and "{" in bare and "= {}" not in bare
            out.append(re.sub(r"\s*\{.*$", ";", line) if has_body else line)
        depth += bare.count("{") - bare.count("}")
    return out


def bare_code(line):
    """A line without its comment."""
    return re.sub(r"//.*|/\*.*?(\*/|$)", "", line)


def groups(lines, in_c):
    """(docstring lines, code lines) of one level of a file. Declarations that follow each other without a blank line share the docstring."""
    doc, code, depth, in_comment = [], [], 0, False
    for line in [*lines, ""]:
        stripped = line.strip()
        if depth == 0 and not code and in_c and (stripped.startswith("/*") or in_comment):
            if stripped.startswith("/*") and doc:
                yield doc, []
                doc = []
            in_comment = "*/" not in stripped
            doc.append(re.sub(r"\s*\*/\s*$", "", re.sub(r"^(\s{0,3}/\* ?|   )", "", line)))
            continue
        if depth == 0 and in_c and code and stripped.startswith("/*"):
            yield doc, code
            code, in_comment = [], "*/" not in stripped
            doc = [re.sub(r"\s*\*/\s*$", "", re.sub(r"^\s{0,3}/\* ?", "", line))]
            continue
        if depth == 0 and not in_c and stripped.startswith("///"):
            if code:
                yield doc, code
                doc, code = [], []
            doc.append(re.sub(r"^\s*/// ?", "", line))
            continue
        if depth == 0 and not stripped:
            if code or doc:
                yield doc, code
            doc, code = [], []
            continue
        if depth == 0 and not code and SKIPPED.match(line):
            continue
        code.append(line)
        bare = bare_code(line)
        depth += bare.count("{") - bare.count("}") + bare.count("(") - bare.count(")")
    if doc or code:
        yield doc, code


def is_noise(code, doc):
    """Declarations that say nothing to a reader."""
    text = "\n".join(code)
    return not doc and (all(re.match(r"^\s*(class|struct) \w+;$|.*= delete;$|.*= default;$|^\s*~|^\s*$", line) for line in code) or
                        re.match(r"^\s*explicit \w+\(", text) is not None)


def public_part(lines):
    """The lines of a class between `public:` and `private:`, moved to the left."""
    inside, out = False, []
    for line in lines:
        if line.strip() in ("public:", "private:", "protected:"):
            inside = line.strip() == "public:"
        elif inside:
            out.append(line[2:] if line.startswith("  ") else line)
    return out


def anchor(name):
    return re.sub(r"[^\w.]+", "-", name.replace("::", ".").replace("~", "destructor ")).strip("-")


def section(level, title, doc, code):
    out = [f"{'#' * level} {escape(title)} {{ #{anchor(title)} }}"] if title else []
    if doc:
        out.append(docstring(doc))
    if code:
        width = min((len(line) - len(line.lstrip()) for line in code if line.strip()), default=0)
        out.append("```cpp\n" + shown([line[width:] for line in code]) + "\n```")
    return "\n\n".join(part for part in out if part)


def members(name, lines):
    for doc, code in groups(public_part(lines), in_c=False):
        code = [line for index, line in enumerate(code) if not re.match(r"^\s*(friend .*|.*= delete);\s*$", line) and
                not (line.strip().startswith("~") and (index > 0 or not doc))]
        while code and code[0].strip().startswith("//") and not doc:
            doc, code = [re.sub(r"^\s*// ?", "", code[0])], code[1:]
        if not code or is_noise(code, doc):
            continue
        code = without_bodies(code)
        title = ", ".join(f"{name}::{member}" if index == 0 else member for index, member in enumerate(names_of("\n".join(code))[:4]))
        more = len(names_of("\n".join(code))) > 4
        yield section(3, title + (" and others" if more else ""), doc, code)


def page(header):
    """The Markdown of a header."""
    header = pathlib.Path(header)
    text = header.read_text(encoding="utf-8")
    lines = text.splitlines()
    in_c = text.startswith("/*")
    out = [f"# penstock/{header.name}"]
    begin = next(index for index, line in enumerate(lines) if line.startswith("#ifndef"))
    if in_c:
        intro = [re.sub(r"\s*\*/\s*$", "", re.sub(r"^(/\* ?|   )", "", line)) for line in lines[:begin]]
    else:
        intro = [line[3:] for line in lines[:begin]]
    out.append(f"`#include \"penstock/{header.name}\"`")
    if in_c and any(re.match(r"^Handles ", line) for line in intro):
        # The conventions of c.h: a name, and what holds of it.
        at = next(index for index, line in enumerate(intro) if line.startswith("Handles "))
        out += paragraphs(intro[:at])
        items = []
        for line in intro[at:]:
            match = re.match(r"^(\w+)\s{2,}(.*)$", line)
            items.append([match.group(1), match.group(2)]) if match else items[-1].append(line.strip())
        out.append("\n".join(f"- **{name}**: {escape(' '.join(body))}" for name, *body in items))
    else:
        out += paragraphs(intro)
    body = lines[begin + 2:]
    if "namespace penstock {" in body:
        start = body.index("namespace penstock {")
        head, body = body[:start], body[start + 1:next(i for i, line in enumerate(body) if line.startswith("}  // namespace penstock"))]
        if in_c:
            out += list(pieces(head, True))
        out += list(pieces(body, False))
    else:
        out += list(pieces(body, in_c))
    return "\n\n".join(out) + "\n"


def pieces(lines, in_c):
    for doc, code in groups(lines, in_c):
        if in_c:
            code = [line for line in code if line == "}" or not NOT_C_CODE.match(line)]
        if len(doc) == 1 and doc[0].startswith("---- "):
            yield f"## {doc[0].strip('- ')}"
            if not code:
                continue
            doc = []
        if not code:
            text = docstring(doc)
            if text:
                yield text
            continue
        if is_noise(code, doc) or all(not line.strip() for line in code):
            continue
        joined = "\n".join(code)
        names = names_of(joined)
        if not in_c and re.match(r"^class\b", joined) and any(line.strip() == "public:" for line in code):
            yield section(2, names[0], doc, [])
            yield from members(names[0], code)
        else:
            yield section(3 if in_c else 2, ", ".join(names), doc, code)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(page(argument))
