"""Real tools for simulated agents: search, open a file, run Python, over a folder of source files.

The library is read once into memory (the standard library without its tests: about 9 MB) and the tools answer from
there, so a path that an agent names never reaches the file system. Patterns go to RE2 through Arrow, which has no
catastrophic ones. Every answer is bounded. Measured: 5-20 ms per search over the whole library.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.synth.sandbox import Sandbox

_LEFT_OUT = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "encodings",
        "pydoc_data",
        "site-packages",
        "dist-packages",
    ]
)
_MOST_FILE_BYTES = 1 << 20
_MOST_HITS = 20
_MOST_LINES = 80
_MOST_LINE_CHARS = 200
_MOST_PATTERN_CHARS = 200
_MOST_OUTPUT_CHARS = 4000

SPECIFICATIONS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the lines of the library's Python files for a regular expression (RE2). "
            f"Shows at most {_MOST_HITS} matching lines as path:line: text, and how many there are in all.",
            "parameters": {
                "type": "object",
                "properties": {
                    "pattern": {"type": "string", "description": "regular expression, matched within a line"},
                    "path": {"type": "string", "description": "a file or folder to search in; everywhere by default"},
                },
                "required": ["pattern"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "open_file",
            "description": f"Show lines of a file with their numbers, at most {_MOST_LINES} at a time.",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "path within the library, such as json/decoder.py"},
                    "first_line": {"type": "integer", "description": "first line to show, from 1"},
                    "last_line": {"type": "integer", "description": "last line to show"},
                },
                "required": ["path", "first_line", "last_line"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "run_python",
            "description": "Run a Python program without network or files; returns what it prints, or its error.",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "the program"}},
                "required": ["code"],
            },
        },
    },
)
"""The tools as a model is told of them."""


@dataclass(frozen=True, eq=False)
class Library:
    """Python files of a folder: paths relative to it, ascending, and their texts."""

    paths: tuple[str, ...]
    texts: pa.Array  # large_string[len(paths)]

    @cached_property
    def digest(self) -> str:
        """Of all paths and texts: what a simulation over this library depends on."""
        state = hashlib.blake2b(digest_size=16)
        for path, text in zip(self.paths, self.texts, strict=True):
            state.update(f"{path}\0{text}\0".encode())
        return state.hexdigest()

    @cached_property
    def _place(self) -> dict[str, int]:
        return {path: k for k, path in enumerate(self.paths)}

    def __contains__(self, path: str) -> bool:
        return path in self._place

    def text(self, path: str) -> str:
        """The text of one file; KeyError when there is none."""
        found: str = self.texts[self._place[path]].as_py()
        return found

    @lru_cache(maxsize=512)  # noqa: B019  (a library lives as long as its process)
    def lines(self, path: str) -> pa.Array:
        """The lines of one file, without their ends."""
        return pa.array(self.text(path).split("\n"), pa.large_string())

    @lru_cache(maxsize=4096)  # noqa: B019
    def matches(self, pattern: str, under: str = "") -> list[tuple[str, int, str]]:
        """All (path, line number, line) where a pattern matches, within a file or folder. ArrowInvalid: a bad pattern."""
        hits = []
        # First whole files: (?m) lets ^ and $ mean lines there, too; what it finds too much, the lines then sort out.
        for at in pc.indices_nonzero(pc.match_substring_regex(self.texts, f"(?m){pattern}")).to_pylist():
            path = self.paths[at]
            if under in ("", path) or path.startswith(f"{under}/"):
                lines = self.lines(path)
                found = pc.indices_nonzero(pc.match_substring_regex(lines, pattern)).to_pylist()
                hits += [(path, k + 1, lines[k].as_py()) for k in found]
        return hits

    @cached_property
    def folders(self) -> frozenset[str]:
        """All folders that hold a file."""
        return frozenset(posixpath.dirname(path) for path in self.paths)


@lru_cache(maxsize=4)
def read_library(root: str) -> Library:
    """The Python files below `root`: UTF-8, up to 1 MiB, no symbolic links, tests and vendored packages left out."""
    paths, texts = [], []
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders[:] = sorted(n for n in subfolders if n not in _LEFT_OUT and not n.startswith((".", "_", "config-")))
        for name in names:
            file = Path(folder, name)
            if name.endswith(".py") and not file.is_symlink() and file.stat().st_size <= _MOST_FILE_BYTES:
                try:
                    text = file.read_bytes().decode()
                except UnicodeDecodeError:  # a file of the library in another encoding is of no use to an agent
                    continue
                paths.append(file.relative_to(root).as_posix())
                texts.append(text.replace("\r\n", "\n"))
    order = sorted(range(len(paths)), key=paths.__getitem__)
    return Library(tuple(paths[k] for k in order), pa.array([texts[k] for k in order], pa.large_string()))


class Tools:
    """The tools over one library. Results are text; what goes wrong is a result that begins with `error:`."""

    def __init__(self, library: Library, sandbox: Sandbox):
        self.library = library
        self._sandbox = sandbox

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Carry out one call."""
        known = {spec["function"]["name"]: spec["function"]["parameters"] for spec in SPECIFICATIONS}
        if name not in known:
            return f"error: no tool '{name}'; there are {', '.join(sorted(known))}"
        types = {"string": str, "integer": int}
        properties = known[name]["properties"]
        missing = [key for key in known[name]["required"] if key not in arguments]
        wrong = [k for k, x in arguments.items() if k not in properties or type(x) is not types[properties[k]["type"]]]
        if missing or wrong:
            return (
                f"error: {name} takes {', '.join(properties)}; missing: {missing}, unknown or of a wrong type: {wrong}"
            )
        result: str = getattr(self, name)(**arguments)
        return result

    def search(self, pattern: str, path: str = "") -> str:
        """Lines that match."""
        under = self._inside(path)
        if under is None:
            return f"error: path '{path}' leaves the library"
        if under and under not in self.library and under not in self.library.folders:
            return f"error: no such file or folder: {under}"
        if len(pattern) > _MOST_PATTERN_CHARS:
            return f"error: pattern longer than {_MOST_PATTERN_CHARS} characters"
        try:
            hits = self.library.matches(pattern, under)
        except pa.ArrowInvalid as problem:
            return f"error: invalid pattern: {str(problem).splitlines()[0][:200]}"
        if not hits:
            return "no matches"
        files = len({file for file, _, _ in hits})
        head = f"{len(hits)} match{'es' * (len(hits) > 1)} in {files} file{'s' * (files > 1)}"
        shown = [f"{file}:{number}: {line.strip()[:_MOST_LINE_CHARS]}" for file, number, line in hits[:_MOST_HITS]]
        rest = [f"... and {len(hits) - _MOST_HITS} more"] if len(hits) > _MOST_HITS else []
        return "\n".join([head, *shown, *rest])

    def open_file(self, path: str, first_line: int, last_line: int) -> str:
        """Numbered lines of a file."""
        file = self._inside(path)
        if file is None:
            return f"error: path '{path}' leaves the library"
        if file not in self.library:
            return f"error: no such file: {file}"
        lines = self.library.lines(file)
        first = max(1, first_line)
        last = min(last_line, len(lines), first + _MOST_LINES - 1)
        if first > last:
            return f"error: {file} has {len(lines)} lines; lines {first_line} to {last_line} were asked for"
        shown = [f"{n}\t{lines[n - 1].as_py()[:_MOST_LINE_CHARS]}" for n in range(first, last + 1)]
        return "\n".join([f"{file}, lines {first}-{last} of {len(lines)}", *shown])

    def run_python(self, code: str) -> str:
        """What a program prints."""
        outcome = self._sandbox.run(code)
        shown = outcome.stdout
        if outcome.status != "ok":
            what = outcome.status if outcome.status != "error" else f"exit code {outcome.exit_code}"
            shown += f"[{what}]\n{outcome.stderr}"
        shown = shown.rstrip("\n") or "(no output)"
        return shown if len(shown) <= _MOST_OUTPUT_CHARS else f"{shown[:_MOST_OUTPUT_CHARS]}\n... cut"

    @staticmethod
    def _inside(path: str) -> str | None:
        """A path within the library in plain form, null when it points outside."""
        plain = posixpath.normpath(path) if path else ""
        if path.startswith("/") or "\\" in path or "\0" in path or plain == ".." or plain.startswith("../"):
            return None
        return "" if plain == "." else plain
