"""What stands in the running Python installation: the standard library and installed distributions, as folders of files.

Found through `sysconfig` and `importlib.metadata`, and never imported. `distributions: core` takes what tokenmill itself requires,
and so gives the same whether or not development tools are installed beside it. Listing some 12,000 files takes about half
a second.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field, field_validator

from pipeline.ingest.licences import spdx_of_metadata
from pipeline.ingest.paths import list_folder, local_file, printable
from pipeline.schema import document_id
from pipeline.stage import InputFile, Source

if TYPE_CHECKING:
    from email.message import Message

PROJECT = "tokenmill"
STANDARD_LIBRARY = "python"
STANDARD_LICENCE = "PSF-2.0"
_NOT_SOURCE = ("__pycache__", "site-packages", "dist-packages")


@dataclass(frozen=True)
class Entry:
    """One file of the installation. `path` is relative to the folder that imports start from, `/` between names."""

    package: str
    """Distribution it belongs to, `python` for the standard library."""
    path: str
    file: InputFile

    @property
    def repository(self) -> str:
        """Its top-level package; modules of the standard library that are single files form one, `python/lib`."""
        top, slash, _ = self.path.partition("/")
        if self.package != STANDARD_LIBRARY:
            return top if slash else top.rsplit(".", 1)[0]
        return f"{STANDARD_LIBRARY}/{top if slash else 'lib'}"


@dataclass(frozen=True)
class Package:
    """A distribution, or the standard library."""

    name: str
    version: str
    licence: str | None
    entries: tuple[Entry, ...]


class InstallationSource(Source):
    """Settings that all quickstart sources share.

    Files beyond the caps are not listed and so not met: which ones is decided by hash of their names, the same on every
    machine that has the same versions installed.
    """

    distributions: Literal["core", "all"] | tuple[str, ...] = "core"
    """`core`: the standard library and what tokenmill requires; `all`: whatever is installed; or names, `python` among them."""
    max_megabytes: float = Field(default=64.0, gt=0)
    """Most megabytes of files in all."""
    max_package_megabytes: float = Field(default=8.0, gt=0)
    """Most megabytes of files of one top-level package, so that no single one sets the tone."""
    parts_number: int = Field(default=12, ge=1, le=1000)
    """Number of parts, of about equal size; fewer when there is little."""

    @field_validator("distributions")
    @classmethod
    def _some_distribution(cls, distributions: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not distributions:
            msg = "distributions must be 'core', 'all' or a list of names"
            raise ValueError(msg)
        return distributions

    def chosen(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """The wanted files within both caps, in order of package and path."""
        groups: dict[str, list[Entry]] = {}
        for package in installed(self.distributions):
            for entry in filter(wanted, package.entries):
                groups.setdefault(entry.repository, []).append(entry)
        kept = [entry for group in groups.values() for entry in capped(group, self.max_package_megabytes)]
        return sorted(capped(kept, self.max_megabytes), key=lambda entry: (entry.package, entry.path))


def capped(entries: Iterable[Entry], megabytes: float) -> list[Entry]:
    """Entries in order of a hash of their names, up to the cap; one that would exceed it is passed over."""
    room = int(megabytes * 1e6)
    kept = []
    for entry in sorted(entries, key=lambda one: document_id("cap", one.package, one.path)):
        if entry.file.size <= room:
            room -= entry.file.size
            kept.append(entry)
    return kept


def cut_evenly(sizes: list[int], number: int) -> list[range]:
    """Neighbours in up to `number` groups of about equal total size."""
    total, done, start = sum(sizes), 0, 0
    groups: list[range] = []
    for index, size in enumerate(sizes):
        done += size
        if done * number >= total * (len(groups) + 1) or index == len(sizes) - 1:
            groups.append(range(start, index + 1))
            start = index + 1
    return groups


@lru_cache(maxsize=4)
def installed(distributions: str | tuple[str, ...]) -> tuple[Package, ...]:
    """The packages that a setting names, in order of their names, with all their files."""
    found = {_normal(one.name): one for one in metadata.distributions() if one.name}
    if distributions == "all":
        names = {STANDARD_LIBRARY, *found}
    elif distributions == "core":
        names = {STANDARD_LIBRARY, *_required(found)}
    else:
        names = {_normal(name) for name in distributions}
        missing = sorted(names - set(found) - {STANDARD_LIBRARY})
        if missing:
            msg = f"distributions: not installed: {', '.join(missing)}"
            raise ValueError(msg)
    names -= {PROJECT}  # not our own code: it would change with every edit, and teach a model its own pipeline
    return tuple(
        _standard_library() if one == STANDARD_LIBRARY else _distribution(one, found[one]) for one in sorted(names)
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(found: dict[str, metadata.Distribution]) -> set[str]:
    """tokenmill's requirements and theirs, without extras, as far as they are installed."""
    if PROJECT not in found:
        msg = (
            f"distributions: core means what the distribution '{PROJECT}' requires, and it is not installed; "
            "install it (pip install -e .), or name distributions in a list"
        )
        raise ValueError(msg)
    required: set[str] = set()
    waiting = [PROJECT]
    while waiting:
        name = waiting.pop()
        if name in required or name not in found:
            continue
        required.add(name)
        for line in found[name].requires or []:
            requirement, _, marker = line.partition(";")
            word = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
            if word and "extra" not in marker:
                waiting.append(_normal(word[0]))
    return required


def _standard_library() -> Package:
    root = sysconfig.get_path("stdlib")
    entries = tuple(sorted(_below(root, ""), key=lambda entry: entry.path))
    return Package(STANDARD_LIBRARY, ".".join(map(str, sys.version_info[:3])), STANDARD_LICENCE, entries)


def _below(folder: str, prefix: str) -> Iterator[Entry]:
    for item in list_folder(folder):
        if item.is_symlink() or item.name in _NOT_SOURCE or not item.name.isascii():
            continue
        if item.is_dir():
            yield from _below(item.path, f"{prefix}{item.name}/")
        elif item.is_file():
            yield Entry(STANDARD_LIBRARY, prefix + item.name, local_file(item.path))


def _distribution(name: str, distribution: metadata.Distribution) -> Package:
    """A distribution by its own list of files; one that has no list (not installed by pip) has no files here."""
    entries = []
    for listed in distribution.files or []:
        path = printable(listed.as_posix())
        parts = path.split("/")
        if path.startswith(("/", "../")) or ".." in parts or "__pycache__" in parts:
            continue
        entries.append(Entry(name, path, local_file(os.path.abspath(str(listed.locate())))))
    entries.sort(key=lambda entry: entry.path)
    return Package(name, distribution.version, _licence(distribution, entries), tuple(entries))


def _licence(distribution: metadata.Distribution, entries: list[Entry]) -> str | None:
    fields = cast("Message[str, str]", distribution.metadata)
    text = ""
    for entry in entries:
        if re.search(r"\.dist-info/(?:licenses/)?(?:LICEN[CS]E|COPYING)[^/]*$", entry.path):
            with open(entry.file.path, encoding="utf-8", errors="replace") as stream:
                text = stream.read(20_000)
            break
    classifiers = fields.get_all("Classifier") or []
    return spdx_of_metadata(fields.get("License-Expression"), fields.get("License"), classifiers, text)
