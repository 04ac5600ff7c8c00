"""Documentation pages of the installation, served over HTTP, captured into WARC files and read back as `warc` reads any crawl.

One page per module that has documentation (made from its source by `ast`, never imported), one per project from its long
description, one index per package; each inside a site's usual furniture of menus, search box and footer, so that main-text
extraction has work to do. One module in twenty is also served under a second address (`/3.11/` beside `/3/`), as
documentation sites do.

The cost is Python's parser, about 3 MB of source a second: modules with little documentation are passed over
before it, by the share of their text that stands in triple quotes. Measured with tokenmill's requirements on Python 3.11, one
core, capture and reading back included:

| `max_package_megabytes` | `min_documentation` | pages | MB of HTML | MB of main text | CPU seconds |
|---|---|---|---|---|---|
| 40 (default) | 0.2 (default) | 3,005 | 35.4 | 17.8 | 27 |
| 40 | 0.1 | 4,024 | 44.7 | 21.1 | 34 |
| 40 | 0.3 | 2,187 | 27.2 | 14.3 | 18 |
| 8 | 0.2 | 2,187 | 26.2 | 13.0 | 19 |
| 4 | 0.2 | 1,880 | 21.4 | 10.2 | 15 |
"""

from __future__ import annotations

import ast
import email.parser
import email.policy
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import Any, BinaryIO, cast

import docutils
import docutils.core
import pyarrow as pa
from markdown_it import MarkdownIt
from pydantic import Field

from pipeline.ingest.paths import Defect, read_whole, utf8
from pipeline.ingest.quickstart.capture import Page, capture, served
from pipeline.ingest.quickstart.docstrings import rendered, summary
from pipeline.ingest.quickstart.installation import STANDARD_LIBRARY, Entry, InstallationSource, installed
from pipeline.ingest.source_trees import changed_at
from pipeline.ingest.warc import WARC_SCHEMA, pages
from pipeline.schema import document_id
from pipeline.stage import InputFile, SourcePart, Unreadable, in_batches

HOST = "docs.localhost"
MAX_PAGE_BYTES = 16 << 20
MAX_MODULE_BYTES = 1 << 20
MAX_SIDEBAR_LINKS = 60
MAX_RST_CHARS = 24_000  # docutils renders about 0.1 MB/s: longer histories are cut at a paragraph
SECOND_ADDRESS_SHARE = 0.05
_NO_DOCUMENTATION = re.compile(
    r"(?:^|/)(?:tests?|testing|_vendor|vendored|_vendored|thirdparty_files|third_party|lib2to3|idlelib|turtledemo|site-packages)/"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest|setup|__main__|topics)\.py$|_pb2(?:_grpc)?\.py$"
)
_HTML_IN_MARKDOWN = re.compile(r"<!--.*?-->|^[ \t]*</?[a-z][^\n]*$", re.DOTALL | re.MULTILINE)
_TRIPLE = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"""', re.DOTALL)


class QuickstartWeb(InstallationSource):
    """HTML pages about the running Python installation, out of real WARC files (`kind: quickstart_web`).

    Memory: one batch plus one page plus one module's syntax tree; on disk one part's WARC file, deleted when read. The id is
    that of (URL, capture time), and the capture time is the source file's time of change. `max_megabytes` counts source.
    """

    kind = "quickstart_web"

    max_megabytes: float = Field(default=128.0, gt=0)
    """Most megabytes of source that pages are made from, in all."""
    max_package_megabytes: float = Field(default=40.0, gt=0)
    """Most megabytes of source of one top-level package."""

    min_documentation: float = Field(default=0.2, ge=0.0, le=1.0)
    """A module whose docstrings make up less of its source than this has no page."""
    min_documentation_bytes: int = Field(default=400, ge=0)
    """Nor has a module with fewer bytes of docstrings than this."""
    keep_warc: str | None = None
    """A folder in which the captured WARC files are kept, one per part; null deletes them."""

    def packages(self) -> tuple[str, ...]:
        """What renders long descriptions."""
        return ("docutils", "markdown-it-py")

    def schema(self) -> pa.Schema:  # type: ignore[override]
        """Those of `warc`."""
        return WARC_SCHEMA

    def parts(self) -> list[SourcePart]:
        """Folders of modules, dealt to parts of about equal size; what a folder's pages link to is always in its part."""
        versions = {package.name: package.version for package in installed(self.distributions)}
        units: dict[tuple[str, str], list[Entry]] = {}
        for entry in _one_per_address(self.chosen(_has_page)):
            units.setdefault((entry.package, _folder(entry)), []).append(entry)
        parts: list[list[Entry]] = [[] for _ in range(self.parts_number)]
        sizes = [0] * self.parts_number
        for _, unit in sorted(units.items(), key=lambda item: (-_size(item[1]), item[0])):
            lightest = sizes.index(min(sizes))
            parts[lightest] += unit
            sizes[lightest] += _size(unit)
        return [_part(number, entries, versions) for number, entries in enumerate(filter(None, parts))]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        """Serve, capture, and read the capture."""
        site = Site(part, self.min_documentation, self.min_documentation_bytes)
        name = f"{self.kind}-{part.name}.warc.gz"
        with _warc_file(self.keep_warc, name) as file:
            with served(site.page) as port:
                capture(port, HOST, site.paths(), file)
            file.seek(0)
            yield from site.broken
            yield from in_batches(pages(file, name, MAX_PAGE_BYTES), WARC_SCHEMA)


def _warc_file(folder: str | None, name: str) -> BinaryIO:
    if folder is None:
        return cast("BinaryIO", tempfile.TemporaryFile(prefix="tokenmill-", suffix=".warc.gz"))
    os.makedirs(folder, exist_ok=True)
    return open(os.path.join(folder, name), "w+b")


def _has_page(entry: Entry) -> bool:
    if entry.path.endswith(".dist-info/METADATA"):
        return entry.path.count("/") == 1  # deeper ones belong to vendored copies
    small = 0 < entry.file.size <= MAX_MODULE_BYTES
    return small and entry.path.endswith(".py") and not _NO_DOCUMENTATION.search(entry.path)


def _one_per_address(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Of a module `x.py` and a package `x/__init__.py`, which share their name, the package."""
    pages = {Module(entry.package, "", entry.path, entry.file).url_path: entry for entry in entries}
    yield from pages.values()


def _folder(entry: Entry) -> str:
    """The unit that stays together: the first two folders of a path."""
    return "/".join(entry.path.split("/")[:-1][:2])


def _size(entries: Iterable[Entry]) -> int:
    return sum(entry.file.size for entry in entries)


def _part(number: int, entries: list[Entry], versions: dict[str, str]) -> SourcePart:
    entries = sorted(entries, key=lambda entry: (entry.package, entry.path))
    names = [[entry.package, entry.path] for entry in entries]
    used = {entry.package: versions[entry.package] for entry in entries}
    return SourcePart(f"{number:05d}", tuple(entry.file for entry in entries), {"names": names, "versions": used})


# ---------------------------------------------------------------------------------------------------- the site


@dataclass
class Module:
    """A page that the site has: its address, where it comes from, and what an index says of it."""

    package: str
    version: str
    path: str
    file: InputFile
    summary: str = ""

    @property
    def name(self) -> str:
        """Dotted name of the module; the project's name for a long description."""
        if self.path.endswith("METADATA"):
            return self.package
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def url_path(self) -> str:
        """Address within the host."""
        root = "3" if self.package == STANDARD_LIBRARY else "stable"
        last = "project" if self.path.endswith("METADATA") else self.name
        return f"/{self.package}/{root}/{last}.html"

    @property
    def second_path(self) -> str:
        """The address under its version."""
        first, last = self.url_path.rsplit("/", 1)
        return f"{first.rsplit('/', 1)[0]}/{'.'.join(self.version.split('.')[:2])}/{last}"

    @property
    def modified(self) -> datetime:
        """Time of change of the source file."""
        return changed_at(self.file) or datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Site:
    """The pages of one part: made when they are asked for, one at a time."""

    part: SourcePart
    min_share: float
    min_bytes: int
    broken: list[Unreadable] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)
    indexes: dict[str, list[Module]] = field(default_factory=dict)
    folders: dict[str, list[Module]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file, (package, path) in zip(self.part.files, self.part.settings["names"], strict=True):
            module = Module(package, self.part.settings["versions"][package], path, file)
            if not path.endswith("METADATA"):
                source = self._source(file, f"{package}:{path}")
                if source is None or not self._documented(source):
                    continue
            self.modules[module.url_path] = module
            folder = f"{package}/{path.rpartition('/')[0]}"
            self.folders.setdefault(folder, []).append(module)
            if not path.endswith("METADATA"):
                last = path.rpartition("/")[0].replace("/", ".") or "modules"
                self.indexes.setdefault(f"{module.url_path.rpartition('/')[0]}/{last}-index.html", []).append(module)

    def paths(self) -> Iterator[str]:
        """Every address, pages before the indexes that quote them."""
        for path, module in self.modules.items():
            yield path
            if document_id("second address", path)[0] < 256 * SECOND_ADDRESS_SHARE:
                yield module.second_path
        yield from self.indexes

    def page(self, path: str) -> Page | None:
        """What the server answers."""
        if path in self.indexes:
            return self._index(path)
        module = self.modules.get(path) or next((one for one in self._seconds(path) if one.second_path == path), None)
        if module is None:
            return None
        if module.path.endswith("METADATA"):
            title, content, links = _project(module)
        else:
            title, content, links = _module(module, self._source(module.file, module.path) or "")
        siblings = self.folders[f"{module.package}/{module.path.rpartition('/')[0]}"]
        return Page(_furnished(title, content, links, module, siblings), module.modified)

    def _seconds(self, path: str) -> Iterator[Module]:
        for root in ("3", "stable"):
            names = path.split("/")
            if len(names) == 4 and (module := self.modules.get(f"/{names[1]}/{root}/{names[3]}")):
                yield module

    def _index(self, path: str) -> Page:
        modules = self.indexes[path]
        name = path.rsplit("/", 1)[1].removesuffix("-index.html")
        rows = "".join(
            f'<tr><td><a href="{escape(one.url_path)}"><code>{escape(one.name)}</code></a></td><td>{one.summary}</td></tr>\n'
            for one in modules
        )
        content = f"<h1>{escape(name)}: index of modules</h1>\n<table>{rows}</table>"
        modified = max(one.modified for one in modules)
        return Page(_furnished(f"{name} index", content, [], modules[0], modules), modified)

    def _source(self, file: InputFile, origin: str) -> str | None:
        try:
            return utf8(read_whole(file, MAX_MODULE_BYTES))
        except Defect as defect:
            self.broken.append(Unreadable(origin, f"unreadable: {defect}", file.size))
            return None

    def _documented(self, source: str) -> bool:
        size = sum(match.end() - match.start() for match in _TRIPLE.finditer(source))
        return size >= self.min_bytes and size >= self.min_share * len(source)


# ---------------------------------------------------------------------------------------------------- pages


def _module(module: Module, source: str) -> tuple[str, str, list[str]]:
    """(title, content, names for the table of contents) of a module's page."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # strangers' odd escapes are not our user's business
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Templates and sources of other Python versions stand among the modules: their page shows the source.
        return module.name, f"<h1>{escape(module.name)}</h1>\n<pre>{escape(source, quote=False)}</pre>", []
    lines = source.splitlines()
    docstring = ast.get_docstring(tree, clean=False) or ""
    module.summary = summary(docstring)
    out = [f"<h1><code>{escape(module.name)}</code></h1>\n", rendered(docstring)]
    names: list[str] = []
    for node in tree.body:
        out += _member(node, lines, names, "h2")
    return module.name, "".join(out), names


def _member(node: ast.stmt, lines: list[str], names: list[str], heading: str, within: str = "") -> Iterator[str]:
    """Documented classes and functions with their signatures; the methods of a class below it."""
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    docstring = ast.get_docstring(node, clean=False)
    methods = (
        [part for one in node.body for part in _member(one, lines, names, "h3", node.name)] if heading == "h2" else []
    )
    if not docstring and not (isinstance(node, ast.ClassDef) and methods):
        return
    name = f"{within}.{node.name}" if within else node.name
    names.append(name)
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    yield f'<section id="{escape(name)}"><{heading}>{escape(name)}</{heading}>\n'
    yield f'<p class="signature {kind}"><code>{escape(_signature(node, lines), quote=False)}</code></p>\n'
    yield rendered(docstring or "")
    if isinstance(node, ast.ClassDef):
        yield from methods
    yield "</section>\n"


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """As the source spells it, on one line."""
    first, last = node.lineno - 1, max(node.lineno, node.body[0].lineno - 1)
    return " ".join(" ".join(lines[first:last]).split()).removesuffix(":")[:1000]


def _project(module: Module) -> tuple[str, str, list[str]]:
    """(title, content, no names) of a project's page, from its metadata's long description."""
    text = utf8(read_whole(module.file, MAX_PAGE_BYTES))
    message = email.parser.Parser(policy=email.policy.compat32).parsestr(text)
    description = str(message.get("Description") or message.get_payload() or "")
    kind = str(message.get("Description-Content-Type") or "text/x-rst").split(";")[0].strip().lower()
    facts = [(name, str(message.get(name) or "")) for name in ("Summary", "Version", "Requires-Python", "Author")]
    table = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in facts if value)
    content = f"<h1>{escape(module.package)} {escape(module.version)}</h1>\n<table>{table}</table>\n{_described(description, kind)}"
    return f"{module.package} · project page", content, []


def _described(text: str, kind: str) -> str:
    if kind == "text/markdown":
        return str(_markdown().render(_HTML_IN_MARKDOWN.sub("", text)))
    if kind == "text/x-rst":
        return _restructured(text)
    return f"<pre>{escape(text, quote=False)}</pre>"


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _restructured(text: str) -> str:
    """Without inclusion of files, raw HTML or messages: the text comes from strangers."""
    if len(text) > MAX_RST_CHARS:
        text = text[: text.rfind("\n\n", 0, MAX_RST_CHARS)]
    settings: dict[str, Any] = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "report_level": 5,
        "halt_level": 5,
        "syntax_highlight": "none",
        "_disable_config": True,
    }
    try:
        return str(docutils.core.publish_parts(text, writer="html5", settings_overrides=settings)["body"])
    except (
        docutils.ApplicationError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        return f"<pre>{escape(text, quote=False)}</pre>"  # what package indexes show when a description does not render


_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} — {site}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/_static/site.css">
<style>.sidebar {{ float: left; width: 18em }} main {{ margin-left: 20em }}</style>
<script>document.addEventListener("keydown", function (e) {{ if (e.key === "/") document.getElementById("q").focus(); }});</script>
</head>
<body>
<header class="site-header" role="banner">
<a class="brand" href="/">{site}</a>
<nav class="top-menu" role="navigation"><ul><li><a href="/">Home</a></li><li><a href="/download">Download</a></li>
<li><a href="/community">Community</a></li><li><a href="/search.html">Search</a></li><li><a href="/genindex.html">Index</a></li></ul></nav>
<form class="search" action="/search.html"><input id="q" name="q" placeholder="Search the documentation"><button>Go</button></form>
</header>
<nav class="breadcrumbs" aria-label="breadcrumbs"><a href="/">Documentation</a> » <a href="{root}">{package}</a> » {title}</nav>
<aside class="sidebar" role="complementary">
"""

_FOOT = """
</article>
</main>
<footer class="site-footer" role="contentinfo">
<nav><a href="/about">About these documents</a> | <a href="/bugs">Report a bug</a> | <a href="/copyright">Copyright</a>
| <a href="/privacy">Privacy</a></nav>
<p>© the authors of {package}. Last updated on {date}. Found a bug? Created with a documentation generator.</p>
</footer>
</body>
</html>
"""


def _furnished(title: str, content: str, names: list[str], module: Module, siblings: list[Module]) -> bytes:
    """The whole page: header, menus, table of contents, links to neighbours, the content, footer."""
    words = {
        "title": escape(title),
        "site": f"{escape(module.package)} {escape(module.version)} documentation",
        "package": escape(module.package),
        "root": escape(module.url_path.rsplit("/", 1)[0] + "/index.html"),
        "date": module.modified.strftime("%d %B %Y"),
    }
    contents = "".join(f'<li><a href="#{escape(name)}">{escape(name)}</a></li>\n' for name in names[:MAX_SIDEBAR_LINKS])
    links = "".join(
        f'<li><a href="{escape(one.url_path)}">{escape(one.name)}</a></li>\n' for one in siblings[:MAX_SIDEBAR_LINKS]
    )
    side = f"<h3>Table of contents</h3>\n<ul>{contents}</ul>\n" if contents else ""
    side += f"<h3>Other pages</h3>\n<ul>{links}</ul>\n</aside>\n<main role='main'>\n<article>\n"
    return (_HEAD.format(**words) + side + content + _FOOT.format(**words)).encode("utf-8", "replace")
