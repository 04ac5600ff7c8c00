"""The installation's source code as repositories: one per top-level package of a distribution or of the standard library.

The standard library's modules that are single files form one repository, `python/lib`, since they import each other.
Measured with Python 3.11 and tokenmill's requirements: 152 MB in 10,760 files without caps, 64 MB with the default ones, read at
100 MB/s.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field

from pipeline.ingest.quickstart.installation import Entry, InstallationSource, cut_evenly, installed
from pipeline.ingest.source_trees import CODE_SCHEMA, TreeFile, tree_part, tree_rows
from pipeline.stage import SourcePart, Unreadable, in_batches

SUFFIXES = frozenset(
    {
        ".py",
        ".pyi",
        ".pyx",
        ".pxd",
        ".pxi",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cu",
        ".cuh",
        ".f",
        ".f90",
        ".s",
        ".js",
        ".ts",
    }
    | {".css", ".sh", ".sql", ".proto", ".cmake", ".toml", ".cfg", ".ini", ".yaml", ".yml"}
)


class QuickstartCode(InstallationSource):
    """Source files of the running Python installation (`kind: quickstart_code`).

    Memory: one batch plus `max_file_bytes`. The id is that of (repository, path). Licences are those that the packages declare.
    """

    kind = "quickstart_code"

    max_file_bytes: int = Field(default=1 << 20, gt=0)
    """A larger file is dropped."""

    def schema(self) -> pa.Schema:  # type: ignore[override]
        """Those of `source_trees`."""
        return CODE_SCHEMA

    def parts(self) -> list[SourcePart]:
        """Source files in order of repository and path, in parts of about equal size."""
        packages = {package.name: package for package in installed(self.distributions)}
        entries = self.chosen(_is_source)
        files = [TreeFile(entry.repository, entry.path, entry.file) for entry in entries]
        owners = {entry.repository: packages[entry.package] for entry in entries}
        licences = {name: owner.licence for name, owner in owners.items() if owner.licence}
        versions = {name: owner.version for name, owner in owners.items()}
        files.sort(key=lambda one: (one.repository, one.path))
        groups = cut_evenly([one.file.size for one in files], self.parts_number)
        return [
            tree_part(number, [files[at] for at in group], licences, versions) for number, group in enumerate(groups)
        ]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        """Rows of the part's files."""
        return in_batches(tree_rows(part, self.max_file_bytes), CODE_SCHEMA)


def _is_source(entry: Entry) -> bool:
    name = entry.path.rsplit("/", 1)[-1]
    return "." in name and "." + name.rsplit(".", 1)[-1].lower() in SUFFIXES and ".dist-info/" not in entry.path
