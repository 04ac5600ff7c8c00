"""Folders of source code, each folder one repository: checkouts, unpacked archives, monorepo parts.

Everything in a folder is met: what is not text of a sensible size is a counted drop with its reason. The language stays null,
for a later step to tell from the path. Walking costs one `stat` per file whenever a plan is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.ingest.licences import licence_of_folder
from pipeline.ingest.paths import Defect, FileSource, find_folders, list_folder, local_file, open_file, printable, utf8
from pipeline.schema import CREATED, ID, LANGUAGE, LICENCE, ORIGIN, PATH, REPOSITORY, TEXT, document_id, schema_of
from pipeline.stage import InputFile, SourcePart, Unreadable, in_batches

CODE_SCHEMA = schema_of((ID, ORIGIN, TEXT, REPOSITORY, PATH, LANGUAGE, LICENCE, CREATED))
_LEFT_OUT = {
    "__pycache__": "compiled_files",
    ".git": "version_control",
    ".hg": "version_control",
    ".svn": "version_control",
}


@dataclass(frozen=True)
class TreeFile:
    """A file of a repository; `skip` is set when it is known from outside that it will be dropped."""

    repository: str
    path: str
    file: InputFile
    skip: str = ""


class SourceTrees(FileSource):
    """Text files of source code, with repository and path (`kind: source_trees`).

    Memory: one batch plus `max_file_bytes`. The id is that of (repository, path). `created` is the file's time of change. Format:
    any UTF-8 text.
    """

    kind = "source_trees"

    max_file_bytes: int = Field(default=1 << 20, gt=0)
    """A larger file is dropped: 1 MiB is the limit of The Stack v2."""
    licence: str | None = None
    """SPDX id of repositories whose pyproject.toml, Cargo.toml or package.json names none."""
    version: str | None = None
    """Commit or release of all repositories; part of origins, not of ids."""

    def schema(self) -> pa.Schema:  # type: ignore[override]
        """The source columns plus repository and path."""
        return CODE_SCHEMA

    def parts(self) -> list[SourcePart]:
        """The files below all folders that `paths` names, in order of repository and path."""
        files: list[TreeFile] = []
        licences: dict[str, str] = {}
        for folder, repository in find_folders(self.paths):
            files += walk(folder, repository)
            licence = licence_of_folder(folder) or self.licence
            if licence:
                licences[repository] = licence
        versions = {one.repository: self.version for one in files} if self.version else {}
        return tree_parts(files, self.max_part_bytes, licences, versions)

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        """Rows of the part's files."""
        return in_batches(tree_rows(part, self.max_file_bytes), CODE_SCHEMA)


def walk(folder: str, repository: str) -> list[TreeFile]:
    """All files below a folder in order of their paths; links and folders that are left out appear with their reason."""
    found: list[TreeFile] = []
    waiting = [(folder, "")]
    while waiting:
        here, prefix = waiting.pop()
        for entry in list_folder(here):
            path = printable(prefix + entry.name)
            if entry.is_symlink():
                found.append(TreeFile(repository, path, InputFile(entry.path, 0, "symlink"), "symlink"))
            elif not entry.is_dir():
                found.append(TreeFile(repository, path, local_file(entry.path)))
            elif entry.name in _LEFT_OUT:
                found.append(TreeFile(repository, path, InputFile(entry.path, 0, ""), _LEFT_OUT[entry.name]))
            else:
                waiting.append((entry.path, f"{prefix}{entry.name}/"))
    return sorted(found, key=lambda one: one.path)


def tree_parts(
    files: Iterable[TreeFile], max_part_bytes: int, licences: Mapping[str, str], versions: Mapping[str, str | None]
) -> list[SourcePart]:
    """Files in order, cut into parts by size; a part's settings say what each file is."""
    groups: list[list[TreeFile]] = [[]]
    size = 0
    for one in files:
        if groups[-1] and size + one.file.size > max_part_bytes:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.file.size
    return [tree_part(number, group, licences, versions) for number, group in enumerate(groups) if group]


def tree_part(
    number: int, files: Iterable[TreeFile], licences: Mapping[str, str], versions: Mapping[str, str | None]
) -> SourcePart:
    """One part of files of repositories."""
    files = list(files)
    repositories = sorted({one.repository for one in files})
    settings = {
        "names": [[one.repository, one.path, one.skip] for one in files],
        "licences": {name: licences[name] for name in repositories if name in licences},
        "versions": {name: versions[name] for name in repositories if versions.get(name)},
    }
    return SourcePart(f"{number:05d}", tuple(one.file for one in files), settings)


def tree_rows(part: SourcePart, max_file_bytes: int) -> Iterator[Mapping[str, Any] | Unreadable]:
    """One row or drop per file of a part."""
    for file, (repository, path, skip) in zip(part.files, part.settings["names"], strict=True):
        version = part.settings["versions"].get(repository)
        origin = f"{repository}@{version}:{path}" if version else f"{repository}:{path}"
        if skip:
            yield Unreadable(origin, skip)
            continue
        try:
            text = source_text(file, max_file_bytes)
        except Skipped as reason:
            yield Unreadable(origin, str(reason), file.size)
        except Defect as defect:
            yield Unreadable(origin, f"unreadable: {defect}", file.size)
        else:
            yield {
                "id": document_id(repository, path),
                "origin": origin,
                "text": text,
                "repository": repository,
                "path": path,
                "licence": part.settings["licences"].get(repository),
                "created": changed_at(file),
            }


class Skipped(Exception):
    """A readable file that is no source code: `too_large`, `binary_file`."""


def source_text(file: InputFile, max_file_bytes: int) -> str:
    """The text of a source file. Raises Skipped or Defect for what is none."""
    with open_file(file) as stream:
        data = stream.read(max_file_bytes + 1)
    if len(data) > max_file_bytes:
        msg = "too_large"
        raise Skipped(msg)
    if b"\0" in data:
        msg = "binary_file"
        raise Skipped(msg)
    return utf8(data)


def changed_at(file: InputFile) -> datetime | None:
    """When a local file was last changed, from its version."""
    if not file.version.isdigit():
        return None
    return datetime.fromtimestamp(int(file.version) // 1_000_000_000, UTC)
