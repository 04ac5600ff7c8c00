"""Docstrings to HTML, for the three styles that Python's projects write: reStructuredText, numpydoc and Google.

Not docutils (0.1 MB/s) nor markdown-it (1.3 MB/s, and it takes `>>>` for nested quotations): both are slow for tens of
megabytes and neither knows sections like `Parameters`. What is not recognised stays a paragraph; everything is escaped.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import escape

_UNDERLINE = re.compile(r"[-=~^\"'*#]{3,}\s*$")
_SECTION = re.compile(
    r"(?:Args|Arguments|Attributes|Example|Examples|Keyword Args|Note|Notes|Parameters|Raises|References|Returns|See Also|Warning|Yields):\s*$"
)
_FIELD = re.compile(r":(?:param|type|returns?|rtype|raises?|arg|keyword|var|ivar|cvar)\b([^:]*):\s*(.*)")
_BULLET = re.compile(r"(?:[-*+•]|\d{1,2}[.)])\s+")
_INLINE = re.compile(r"``(.+?)``|(?::[\w:+-]+:)?`([^`<]+?)(?: *&lt;[^`]*?&gt;)?`_{0,2}|\*\*(\S[^*]*?)\*\*")
_DIRECTIVE = re.compile(r"\.\. ([\w:-]+)::\s*(.*)")


def rendered(docstring: str) -> str:
    """HTML of a docstring as `ast` gives it."""
    lines = inspect.cleandoc(docstring).expandtabs().splitlines()
    return "".join(_blocks(lines))


def summary(docstring: str) -> str:
    """The first sentence or line, as HTML."""
    first = docstring.strip().split("\n\n")[0]
    return _inline(" ".join(first.split()).split(". ")[0][:200])


def _inline(text: str) -> str:
    def mark(match: re.Match[str]) -> str:
        if match[3]:
            return f"<strong>{match[3]}</strong>"
        return f"<code>{match[1] or match[2]}</code>"

    return _INLINE.sub(mark, escape(text, quote=False))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _blocks(lines: list[str]) -> Iterator[str]:
    """Block by block: headings, doctests, literal blocks, lists, definitions, paragraphs."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
        elif at + 1 < len(lines) and _is_heading(line, lines[at + 1]):
            yield f"<h4>{_inline(line.strip())}</h4>\n"
            at += 2
        elif line.lstrip().startswith(">>>"):
            end = _until_blank(lines, at)
            yield _preformatted(lines[at:end])
            at = end
        elif directive := _DIRECTIVE.match(line.strip()):
            end = _while_deeper(lines, at + 1, _indent(line))
            yield _directive(directive, lines[at + 1 : end])
            at = end
        elif _SECTION.match(line.strip()):
            end = _while_deeper(lines, at + 1, _indent(line))
            yield f"<h4>{escape(line.strip()[:-1])}</h4>\n<dl>{''.join(_definitions(lines[at + 1 : end]))}</dl>\n"
            at = end
        elif _BULLET.match(line.strip()) or _FIELD.match(line.strip()):
            end = _until_blank(lines, at)
            yield _list(lines[at:end])
            at = end
        elif at + 1 < len(lines) and lines[at + 1].strip() and _indent(lines[at + 1]) > _indent(line):
            end = _definition_end(lines, at)
            yield f"<dl>{''.join(_definitions(lines[at:end]))}</dl>\n"
            at = end
        else:
            end = _until_blank(lines, at)
            yield _paragraph(lines[at:end])
            at = end
            if lines[end - 1].rstrip().endswith("::"):
                at = _while_deeper(lines, end, _indent(line))
                yield _preformatted(lines[end:at])


def _is_heading(line: str, below: str) -> bool:
    return bool(_UNDERLINE.match(below.strip())) and abs(len(below.strip()) - len(line.strip())) <= 2


def _until_blank(lines: list[str], at: int) -> int:
    while at < len(lines) and lines[at].strip():
        at += 1
    return at


def _while_deeper(lines: list[str], at: int, indent: int) -> int:
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        at += 1
    return at


def _definition_end(lines: list[str], at: int) -> int:
    """Behind terms and their indented bodies, up to a heading or another kind of block at the terms' depth."""
    indent = _indent(lines[at])
    while at < len(lines):
        body = _while_deeper(lines, at + 1, indent)
        if body == at + 1:
            return at
        at = body
        if at + 1 < len(lines) and _is_heading(lines[at], lines[at + 1]):
            return at
    return at


def _definitions(lines: list[str]) -> Iterator[str]:
    indent = min((_indent(line) for line in lines if line.strip()), default=0)
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        end = _while_deeper(lines, at + 1, indent)
        name, colon, rest = line.strip().partition(": ")
        if colon and " " not in name.split(" (")[0]:
            yield f"<dt>{_inline(name)}</dt><dd>{_inline(rest)}{' ' if end > at + 1 else ''}"
        else:
            yield f"<dt>{_inline(line.strip())}</dt><dd>"
        body = lines[at + 1 : end]
        while body and not body[-1].strip():
            body.pop()
        simple = all(one.strip() and not one.strip().startswith(">>>") for one in body)
        yield _joined(body) if simple else "".join(_blocks(body))
        yield "</dd>\n"
        at = end


def _list(lines: list[str]) -> str:
    items: list[list[str]] = []
    for line in lines:
        text = line.strip()
        if field := _FIELD.match(text):
            items.append([f"{field[1].strip()} – {field[2]}" if field[1].strip() else field[2]])
        elif bullet := _BULLET.match(text):
            items.append([text[bullet.end() :]])
        elif items:
            items[-1].append(text)
        else:
            items.append([text])
    return "<ul>\n" + "".join(f"<li>{_inline(' '.join(item))}</li>\n" for item in items) + "</ul>\n"


def _directive(match: re.Match[str], body: list[str]) -> str:
    name, argument = match[1], match[2]
    if name in (
        "code",
        "code-block",
        "doctest",
        "testcode",
        "math",
        "sourcecode",
        "plot",
        "parsed-literal",
        "productionlist",
    ):
        return _preformatted(body)
    content = _blocks([argument, "", *inspect.cleandoc("\n".join(body)).splitlines()])
    return f'<div class="admonition {escape(name)}">{"".join(content)}</div>\n'


def _joined(lines: list[str]) -> str:
    return _inline(" ".join(line.strip() for line in lines))


def _paragraph(lines: list[str]) -> str:
    return f"<p>{_joined(lines)}</p>\n"


def _preformatted(lines: list[str]) -> str:
    indent = min((_indent(line) for line in lines if line.strip()), default=0)
    text = "\n".join(line[indent:] for line in lines).strip("\n")
    return f"<pre>{escape(text, quote=False)}</pre>\n" if text else ""
