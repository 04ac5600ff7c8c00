"""Which files of a repository a file depends on: import lines found by regular expressions, resolved to paths.

As DeepSeek-Coder does it (arXiv:2401.14196 section 2.2): no parser, so any file of any age is read, at the price of an
import inside a string counting as one. What is not resolved (the standard library, other packages) has no edge.
Resolution only looks into the set of the repository's own paths; nothing on any disk is touched.

| languages | found | resolved by |
|---|---|---|
| Python, Cython | `import a.b`, `from .a import b, c`, `cimport` | package roots above the file, `src`, `lib`, the repository's name |
| C, C++, Objective-C, Cuda, OpenCL | `#include`, `#import` | the file's folder, `include`, `src`, then the end of a path |
| JavaScript, TypeScript, TSX, Vue, Svelte | `import`, `export from`, `require` of relative paths | extensions and `index` files |
| Go | `import` | folders that the import path ends with |
| Java, Kotlin, Scala, Groovy | `import a.b.C` | the end of a path |
| Rust | `mod`, `use crate::`, `use super::` | module folders |
| Ruby, PHP | `require_relative`, `require`, `include` | the file's folder |
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# Repetitions are bounded, and no two neighbours can match the same text: hostile files must not make a match quadratic.
_PY_IMPORT = re.compile(
    r"^[ \t]*c?import[ \t]+([\w.]+(?:[ \t]+as[ \t]+\w+)?(?:[ \t]*,[ \t]*[\w.]+(?:[ \t]+as[ \t]+\w+)?)*)", re.M
)
_PY_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]{1,512})[ \t]+c?import[ \t]*(\([^)]{0,4096}|[^\n#;]{0,4096})", re.M)
_PY_COMMENT = re.compile(r"#[^\n]*|\\\n")
_C_INCLUDE = re.compile(r"^[ \t]*#[ \t]*(?:include|import)[ \t]*[\"<]([^\">\n]{1,512})[\">]", re.M)
_JS_IMPORT = re.compile(r"(?:\bfrom|\bimport|\brequire\(|\bimport\()[ \t]*['\"](\.[^'\"\n]{0,512})['\"]")
_GO_BLOCK = re.compile(r"^import[ \t]*(\([^)]{0,16384}|[^\n]{0,512})", re.M)
_GO_PATH = re.compile(r"\"([^\"\n]{1,512})\"")
_JVM_IMPORT = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]{3,512})", re.M)
_RUST_MOD = re.compile(r"^[ \t]*(?:pub(?:\([^)\n]{0,64}\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.M)
_RUST_USE = re.compile(r"^[ \t]*(?:pub(?:\([^)\n]{0,64}\))?[ \t]+)?use[ \t]+((?:crate|super|self)(?:::\w+)+)", re.M)
_RUBY = re.compile(r"^[ \t]*require_relative[ \t(]+['\"]([^'\"\n]{1,512})['\"]", re.M)
_PHP = re.compile(r"\b(?:require|include)(?:_once)?[ \t(]+(?:__DIR__[ \t]*\.[ \t]*)?['\"]([^'\"\n]{1,512})['\"]")

_JS_ENDINGS = ("", ".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".vue", ".svelte", ".json")
_JS_INDEX = tuple(f"/index{ending}" for ending in _JS_ENDINGS[1:])
_SOURCE_FOLDERS = ("src", "lib", "include", "python")

MAX_FOLDERS = 64
"""Folders above a file that are looked at; The Stack v2 leaves out deeper files."""
MAX_CANDIDATES = 1000
"""Files of one name, or of one Go package, that an import may stand for."""


class Paths:
    """The paths of one repository, with the look-ups that resolving needs."""

    def __init__(self, paths: Iterable[str], repository: str = "") -> None:
        self.all = frozenset(paths)
        self.repository = repository.rstrip("/").rpartition("/")[2].removesuffix(".git")
        self.by_file_name: dict[str, list[str]] = {}
        self.by_folder: dict[str, list[str]] = {}
        for path in sorted(self.all):
            folder, _, name = path.rpartition("/")
            self.by_file_name.setdefault(name, []).append(path)
            self.by_folder.setdefault(folder, []).append(path)
        self._modules: dict[tuple[str, str], str | None] = {}

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first candidate that is a file of the repository."""
        return next((path for path in candidates if path in self.all), None)

    def module(self, name: str, root: str) -> str | None:
        """The file of the Python module `name` (may be empty: the package itself) below `root`."""
        key = (name, root)
        if key not in self._modules:
            base = _under(root, name.replace(".", "/")) if name else root
            package = f"{base}/__init__.py" if base else "__init__.py"
            self._modules[key] = self.first((f"{base}.py", package, f"{base}.pyx", f"{base}.pyi"))
        return self._modules[key]

    def ending(self, tail: str, near: str) -> str | None:
        """The file whose path ends with `tail`: of several the one that shares most folders with `near`."""
        name = tail.rpartition("/")[2]
        found = [
            path
            for path in self.by_file_name.get(name, [])[:MAX_CANDIDATES]
            if path == tail or path.endswith("/" + tail)
        ]
        return min(found, key=lambda path: (-len(posixpath.commonprefix((path, near))), path), default=None)


def _joined(folder: str, relative: str) -> str:
    """`relative` as seen from `folder`; a path that leaves the repository matches nothing."""
    return posixpath.normpath(posixpath.join(folder, relative))


def _above(path: str) -> Iterator[str]:
    """The folders around a path, nearest first, the repository itself ("") last."""
    folder = path.rpartition("/")[0]
    for _ in range(MAX_FOLDERS):
        if not folder:
            break
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


def _under(root: str, relative: str) -> str:
    return f"{root}/{relative}" if root else relative


def _python_roots(path: str, paths: Paths) -> list[str]:
    """Folders from which absolute imports start: those around the file that are no packages, and the usual ones."""
    around = [folder for folder in _above(path) if _under(folder, "__init__.py") not in paths.all]
    return list(dict.fromkeys([*around, "", *_SOURCE_FOLDERS]))


def _python_modules(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for match in _PY_IMPORT.finditer(text):
        for one in match[1].split(","):
            yield one.split()[0], ()
    for match in _PY_FROM.finditer(text):
        listed = _PY_COMMENT.sub("", match[2]).strip("( \t").split(",")
        names = (one.split(maxsplit=1)[0] for one in listed if one.strip())
        yield match[1], tuple(name for name in names if name.isidentifier())


def _python(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    roots = _python_roots(path, paths)
    for module, names in _python_modules(text):
        bare = module.lstrip(".")
        level = len(module) - len(bare)
        if level:
            around = list(_above(path))
            starts = [around[level - 1]] if level <= len(around) else []
        else:
            starts = roots
            if bare.partition(".")[0] == paths.repository:  # a repository that is the package itself
                bare, starts = bare.partition(".")[2], ["", *roots]
        for root in starts:
            inside = [paths.module(f"{bare}.{name}".lstrip("."), root) for name in names]
            itself = paths.module(bare, root) if bare or level or not root else None
            if itself or any(inside):
                yield from (inside if all(inside) and inside else [itself, *inside])
                break


def _c(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    folder = path.rpartition("/")[0]
    for match in _C_INCLUDE.finditer(text):
        roots = (folder, "", *_SOURCE_FOLDERS)
        yield paths.first(_joined(root, match[1]) for root in roots) or paths.ending(match[1], path)


def _javascript(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    folder = path.rpartition("/")[0]
    for match in _JS_IMPORT.finditer(text):
        base = _joined(folder, match[1])
        yield paths.first(base + ending for ending in (*_JS_ENDINGS, *_JS_INDEX)) or _typescript_of(base, paths)


def _typescript_of(base: str, paths: Paths) -> str | None:
    stem, ending = posixpath.splitext(base)  # TypeScript writes the `.js` that it will become
    return paths.first((stem + ".ts", stem + ".tsx")) if ending in (".js", ".jsx", ".mjs") else None


def _go(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    for block in _GO_BLOCK.finditer(text):
        for match in _GO_PATH.finditer(block[1]):
            parts = match[1].split("/")
            tails = ["/".join(parts[i:]) for i in range(1, len(parts))]
            folder = next((tail for tail in tails if tail in paths.by_folder), None)
            files = paths.by_folder.get(folder, [])[:MAX_CANDIDATES] if folder else []
            yield from (file for file in files if file.endswith(".go") and not file.endswith("_test.go"))


def _jvm(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    for match in _JVM_IMPORT.finditer(text):
        parts = match[1].rstrip(".").split(".")
        whole = "/".join(parts)
        inner = "/".join(parts[:-1])  # a nested class, or the class of a static member
        tails = [
            tail + ending for tail in (whole, inner) if "/" in tail for ending in (".java", ".kt", ".scala", ".groovy")
        ]
        yield next((found for tail in tails if (found := paths.ending(tail, path))), None)


def _rust(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    folder, _, name = path.rpartition("/")
    inside = folder if name in ("mod.rs", "lib.rs", "main.rs") else _under(folder, name.removesuffix(".rs"))
    for match in _RUST_MOD.finditer(text):
        yield paths.first((_under(inside, f"{match[1]}.rs"), _under(inside, f"{match[1]}/mod.rs")))
    crate = next(
        (one for one in _above(path) if _under(one, "lib.rs") in paths.all or _under(one, "main.rs") in paths.all),
        "src",
    )
    for match in _RUST_USE.finditer(text):
        start, *parts = match[1].split("::", MAX_FOLDERS)[:MAX_FOLDERS]
        root = {"crate": crate, "self": inside, "super": inside.rpartition("/")[0]}[start]
        while parts and parts[0] == "super":
            root, parts = root.rpartition("/")[0], parts[1:]
        tails = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        yield paths.first(_under(root, tail + ending) for tail in tails for ending in (".rs", "/mod.rs"))


def _ruby(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    folder = path.rpartition("/")[0]
    for match in _RUBY.finditer(text):
        base = _joined(folder, match[1])
        yield paths.first((base, base + ".rb"))


def _php(path: str, text: str, paths: Paths) -> Iterator[str | None]:
    folder = path.rpartition("/")[0]
    for match in _PHP.finditer(text):
        relative = match[1].lstrip("/")
        yield paths.first((_joined(folder, relative), _joined("", relative)))


_Finder = Callable[[str, str, Paths], Iterator[str | None]]
_FINDERS: dict[str, _Finder] = {
    **dict.fromkeys(("Python", "Cython"), _python),
    **dict.fromkeys(("C", "C++", "Objective-C", "Objective-C++", "Cuda", "OpenCL", "GLSL"), _c),
    **dict.fromkeys(("JavaScript", "TypeScript", "TSX", "Vue", "Svelte"), _javascript),
    "Go": _go,
    **dict.fromkeys(("Java", "Kotlin", "Scala", "Groovy"), _jvm),
    "Rust": _rust,
    "Ruby": _ruby,
    "PHP": _php,
}


def dependencies(path: str, text: str, language: str | None, paths: Paths) -> list[str]:
    """Paths of the repository's other files that this one imports, each once, sorted."""
    finder = _FINDERS.get(language or "")
    if finder is None:
        return []
    return sorted({found for found in finder(path, text, paths) if found is not None and found != path})


def dependency_edges(
    paths: Sequence[str], texts: Sequence[str], languages: Sequence[str | None], repository: str = ""
) -> dict[int, list[int]]:
    """For each file (by position) the positions of the files it depends on; a path that appears twice is its first."""
    first: dict[str, int] = {}
    for position, path in enumerate(paths):
        first.setdefault(path, position)
    known = Paths(paths, repository)
    edges: dict[int, list[int]] = {}
    rows: Mapping[int, tuple[str, str, str | None]] = dict(enumerate(zip(paths, texts, languages, strict=True)))
    for position, (path, text, language) in rows.items():
        found = [first[one] for one in dependencies(path, text, language, known)]
        if found:
            edges[position] = found
    return edges
