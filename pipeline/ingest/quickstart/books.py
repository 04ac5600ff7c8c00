"""Long prose that stands in the installation: the language reference, licences, histories, manuals.

`pydoc_data.topics` holds the chapters of Python's language reference that `help()` shows; each is a document. Beside them come
text files that are mostly sentences (1.5 MB, much of it licences that repeat each other: deduplication has work to do) and, for
length, web service manuals (`manuals.py`, about 90 kB each).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.ingest.paths import Defect, read_whole
from pipeline.ingest.quickstart.installation import STANDARD_LIBRARY, Entry, InstallationSource, cut_evenly, installed
from pipeline.ingest.quickstart.manuals import MANUAL, manual
from pipeline.ingest.source_trees import changed_at
from pipeline.ingest.text_files import clean_text
from pipeline.schema import document_id
from pipeline.stage import InputFile, SourcePart, Unreadable, in_batches

MAX_MANUAL_BYTES = 32 << 20
TOPICS = "pydoc_data/topics.py"
_PROSE = re.compile(
    r"\.(?:rst|md|txt|markdown)$|(?:^|/)(?:LICEN[CS]E|COPYING|NOTICE|AUTHORS|NEWS|CHANGES|CHANGELOG|HISTORY|README)[^/]*$",
    re.IGNORECASE,
)
_NO_PROSE = re.compile(
    r"(?:^|/)(?:tests?|testing|testdata|data|fixtures|datasets)/|(?:^|/)(?:requirements[^/]*|top_level|entry_points|CMakeLists)\.txt$"
    r"|\.(?:py|pyi|c|h|so|json)$",
    re.IGNORECASE,
)
_SENTENCE_WORDS = 6
_MIN_PROSE_SHARE = 0.5


class QuickstartBooks(InstallationSource):
    """The language reference and other long prose of the running Python installation (`kind: quickstart_books`).

    Memory: one batch plus twice `max_file_bytes`. The id is that of (package, path), with the topic's name for a topic.
    """

    kind = "quickstart_books"

    max_file_bytes: int = Field(default=4 << 20, gt=0)
    """A larger file is dropped."""
    min_chars: int = Field(default=2000, ge=0)
    """A shorter document is dropped as `too_short`: no long prose."""

    manuals: int = Field(default=40, ge=0)
    """Number of web service manuals, chosen by hash of their names; 0 leaves them out."""

    def packages(self) -> tuple[str, ...]:
        """What turns manuals into text."""
        return ("Resiliparse",)

    def parts(self) -> list[SourcePart]:
        """Files of prose, shuffled by hash of their names so that long ones spread, in parts of about equal size."""
        licences = {package.name: package.licence for package in installed(self.distributions)}
        entries = self.chosen(_may_be_prose)
        manuals = self.chosen(lambda entry: bool(MANUAL.fullmatch(entry.path)))
        entries += sorted(manuals, key=lambda entry: document_id("manual", entry.path))[: self.manuals]
        entries.sort(key=lambda entry: document_id("part", entry.package, entry.path))
        parts = []
        for number, group in enumerate(cut_evenly([entry.file.size for entry in entries], self.parts_number)):
            taken = [entries[at] for at in group]
            names = [[entry.package, entry.path, licences[entry.package]] for entry in taken]
            parts.append(SourcePart(f"{number:05d}", tuple(entry.file for entry in taken), {"names": names}))
        return parts

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        """Rows of the part's files; the topics are many rows of one file."""
        return in_batches(self._rows(part), self.schema())

    def _rows(self, part: SourcePart) -> Iterator[Mapping[str, Any] | Unreadable]:
        for file, (package, path, licence) in zip(part.files, part.settings["names"], strict=True):
            origin = f"{package}:{path}"
            try:
                documents = self._documents(file, package, path)
            except Defect as defect:
                yield Unreadable(origin, f"unreadable: {defect}", file.size)
                continue
            for topic, body in documents.items():
                yield self._row((package, path, topic), body, licence, file)

    def _documents(self, file: InputFile, package: str, path: str) -> dict[str, str]:
        """The documents in a file by their names within it."""
        if MANUAL.fullmatch(path):
            return {"": manual(read_whole(file, MAX_MANUAL_BYTES))}
        text = clean_text(read_whole(file, self.max_file_bytes))
        return topics(text) if (package, path) == (STANDARD_LIBRARY, TOPICS) else {"": text}

    def _row(
        self, place: tuple[str, str, str], text: str, licence: str | None, file: InputFile
    ) -> Mapping[str, Any] | Unreadable:
        package, path, topic = place
        origin = f"{package}:{path}#{topic}" if topic else f"{package}:{path}"
        if len(text) < self.min_chars:
            return Unreadable(origin, "too_short", len(text))
        if not topic and not MANUAL.fullmatch(path) and prose_share(text) < _MIN_PROSE_SHARE:
            return Unreadable(origin, "not_prose", len(text))
        place_words = (package, path, topic) if topic else (package, path)
        return {
            "id": document_id(*place_words),
            "origin": origin,
            "text": text,
            "licence": licence,
            "created": changed_at(file),
        }


def topics(source: str) -> dict[str, str]:
    """The chapters in `pydoc_data/topics.py`, read as a literal and not executed."""
    try:
        tree = ast.parse(source)
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
                value = ast.literal_eval(statement.value)
                return {str(name): str(text) for name, text in value.items()}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = "not a literal table of topics"
        raise Defect(msg) from error
    msg = "no table of topics"
    raise Defect(msg)


def prose_share(text: str) -> float:
    """Share of characters on lines with at least six words of letters only: about 0.9 for a licence, 0.2 for a table."""
    total = good = 0
    for line in text.splitlines():
        total += len(line)
        words = (word.strip(".,;:()\"'*`") for word in line.split())
        if sum(word.isalpha() for word in words) >= _SENTENCE_WORDS:
            good += len(line)
    return good / total if total else 0.0


def _may_be_prose(entry: Entry) -> bool:
    if entry.package == STANDARD_LIBRARY and entry.path == TOPICS:
        return True
    return bool(_PROSE.search(entry.path)) and not _NO_PROSE.search(entry.path)
