"""What a run folder holds that nobody needs any more: found, counted and, under the run's lock, removed.

Four things go: step folders that the plan in force does not name; the files of exchanges whose readers are all done;
files that a killed worker left half-written; shards of earlier plans that no step lists. Rows, drops, accounts and
manifests of the plan in force stay, so the account still balances and a rerun finds everything done. An exchange whose
files went has `cleaned` in its manifest: it counts as done until a step that is not done reads it, and then runs again
(`plan.status_of`, `reopen`). Symbolic links are neither followed nor removed. Memory: one folder's listing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.lock import locked
from pipeline.engine.storage import TEMPORARY, Storage

SHARD_FOLDERS = ("tokens", "arrow", "megatron")
_STEP_FOLDER = re.compile(r"\d{2,}-.+-[0-9a-f]{8}")
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + r"\d+-[0-9a-f]{8}-.+")
_SHARD_NAME = re.compile(r".+\.(arrow|bin|idx)|blend\.json|args\.txt")

SUPERSEDED, EXCHANGE, TEMPORARIES, UNLISTED, UPLOADS = (
    "superseded step", "exchange files", "half-written files", "unlisted shards", "unfinished uploads",
)  # fmt: skip


@dataclass(frozen=True)
class Unneeded:
    """A file that may go: why, the folder it is counted under, its path within the run, its size."""

    why: str
    place: str
    path: str
    bytes: int


@dataclass
class Findings:
    """Files and bytes by (why, place), and what was left alone on purpose."""

    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, one: Unneeded) -> None:
        group = self.groups.setdefault((one.why, one.place), [0, 0])
        group[0] += 1
        group[1] += one.bytes

    @property
    def files(self) -> int:
        return sum(files for files, _ in self.groups.values())

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.groups.values())


def find_unneeded(storage: Storage, *, deep: bool = True) -> Findings:
    """What `clean` would remove; writes nothing. Without `deep`, half-written files in folders in force are not looked for."""
    findings = Findings()
    for one in _unneeded(storage, findings.notes, deep=deep):
        findings.add(one)
    for place, size in _uploads(storage) if deep else ():
        findings.add(Unneeded(UPLOADS, place, place, size))
    return findings


def remove_unneeded(storage: Storage) -> Findings:
    """Remove it, and say what went. Raises lock.RunIsLocked while a run works in the folder."""
    findings = Findings()
    with locked(storage):
        for folder in _spent_exchanges(storage):
            manifest = storage.read_json(f"{folder}/manifest.json")
            if not manifest.get("cleaned"):  # before its files go: a manifest never promises what is not there
                storage.write_json(f"{folder}/manifest.json", {**manifest, "cleaned": True})
        for place, size in _uploads(storage):
            findings.add(Unneeded(UPLOADS, place, place, size))
        if findings.groups:
            storage.fs.abort_uploads(storage.url("").rstrip("/"))
        remover = _Remover(storage)
        for one in _unneeded(storage, findings.notes, deep=True):
            if remover.remove(one.path):
                findings.add(one)
            else:
                findings.notes.append(f"{one.path}: could not be removed")
        remover.finish()
    return findings


def reopen(storage: Storage, folder: str) -> None:
    """Make a cleaned step one that never ran: its accounts go first, so that a kill in between leaves it cleaned."""
    remover = _Remover(storage)
    for name in storage.names(f"{folder}/account"):
        remover.remove(f"{folder}/account/{name}")
    remover.remove(f"{folder}/manifest.json")
    remover.finish()


def forget_earlier(storage: Storage, folder: str) -> None:
    """Reopen the same step under other settings. A sink writes outside its folder (`tokens/web/high/part-00000.arrow`),
    over what those settings wrote: going back to them must write it again."""
    parent, _, name = folder.rpartition("/")
    for other in storage.names(parent):
        if other != name and _label_of(other) == _label_of(name):
            reopen(storage, f"{parent}/{other}")


def _label_of(name: str) -> str:
    """`web.tokens` of `03-web.tokens-0123abcd`."""
    return name.partition("-")[2][:-9] if _STEP_FOLDER.fullmatch(name) else ""


# ---------------------------------------------------------------------------------------------------- finding


def _unneeded(storage: Storage, notes: list[str], *, deep: bool) -> Iterator[Unneeded]:
    steps = storage.read_json("plan.json")["steps"]
    in_force = {step["folder"] for step in steps}
    spent = set(_spent_exchanges(storage))
    for dataset in _folders(storage, "datasets", notes):
        for name in _folders(storage, f"datasets/{dataset}", notes):
            folder = f"datasets/{dataset}/{name}"
            if folder in in_force:
                if folder in spent:
                    yield from _exchange_files(storage, folder)
                if deep:
                    yield from _half_written(storage, folder, notes)
            elif _STEP_FOLDER.fullmatch(name):
                for path, size in _walk(storage, folder, notes):
                    yield Unneeded(SUPERSEDED, folder, path, size)
            else:
                notes.append(f"{folder}: no step's folder, left alone")
    yield from _unlisted(storage, steps, notes)
    for folder in ("curriculum", ""):
        for name, size, kind in _entries(storage, folder):
            if kind == "file" and _TEMPORARY_NAME.fullmatch(name):
                yield Unneeded(TEMPORARIES, folder or ".", f"{folder}/{name}" if folder else name, size)


def _spent_exchanges(storage: Storage) -> list[str]:
    """Folders of exchanges that are done and whose readers are all done."""
    steps = storage.read_json("plan.json")["steps"]
    manifests = {step["key"]: storage.read_json(f"{step['folder']}/manifest.json") for step in steps}

    def done(step: dict[str, Any]) -> bool:
        manifest = manifests[step["key"]]
        return manifest is not None and bool(manifest["fingerprint"] == step["fingerprint"])

    readers: dict[str, list[dict[str, Any]]] = {}
    for step in steps:
        for key in step.get("reads", ()):  # a plan.json of an earlier version names none: nothing is spent then
            readers.setdefault(key, []).append(step)
    return [
        step["folder"]
        for step in steps
        if step["kind"] == "exchange" and done(step) and step["key"] in readers and all(map(done, readers[step["key"]]))
    ]


def _exchange_files(storage: Storage, folder: str) -> Iterator[Unneeded]:
    """The map tasks' files and indexes; drops, accounts and the manifest lie elsewhere and stay."""
    listed = {file["path"] for file in storage.read_json(f"{folder}/manifest.json")["files"]}
    for name, size, kind in _entries(storage, folder):
        if kind == "file" and f"{folder}/{name}" in listed:
            yield Unneeded(EXCHANGE, folder, f"{folder}/{name}", size)


def _half_written(storage: Storage, folder: str, notes: list[str]) -> Iterator[Unneeded]:
    if storage.local:  # an object store shows no half-written file; its unfinished uploads are found by themselves
        for path, size in _walk(storage, folder, notes):
            if _TEMPORARY_NAME.fullmatch(path.rsplit("/", 1)[-1]):
                yield Unneeded(TEMPORARIES, folder, path, size)


def _unlisted(storage: Storage, steps: list[dict[str, Any]], notes: list[str]) -> Iterator[Unneeded]:
    """Shards that no sink of the plan in force wrote. Until all of them are done, an earlier plan's stay: they are the result."""
    manifests = [storage.read_json(f"{step['folder']}/manifest.json") for step in steps if step["kind"] == "sink"]
    listed = {file["path"] for manifest in manifests if manifest for file in manifest["files"]}
    kept = 0
    for top in SHARD_FOLDERS:
        for path, size in _walk(storage, top, notes):
            name = path.rsplit("/", 1)[-1]
            if _TEMPORARY_NAME.fullmatch(name):
                yield Unneeded(TEMPORARIES, path.rsplit("/", 1)[0], path, size)
            elif path not in listed and _SHARD_NAME.fullmatch(name):
                if None in manifests:
                    kept += 1
                else:
                    yield Unneeded(UNLISTED, path.rsplit("/", 1)[0], path, size)
    if kept:
        notes.append(f"{kept} shards that this plan did not write stay until it is done: they may be an earlier result")


def _uploads(storage: Storage) -> Iterator[tuple[str, int]]:
    """Unfinished multipart uploads below the run, where the store lists them: path and bytes so far."""
    if storage.local or not hasattr(storage.fs, "abort_uploads"):
        return
    bucket, _, prefix = storage.root.partition("/")
    with suppress(OSError):
        found = storage.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for upload in found.get("Uploads", []):
            parts = storage.fs.call_s3("list_parts", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            yield upload["Key"].removeprefix(f"{prefix}/"), sum(part["Size"] for part in parts.get("Parts", []))


# ---------------------------------------------------------------------------------------------------- folders


def _entries(storage: Storage, folder: str) -> Iterator[tuple[str, int, str]]:
    """(name, bytes, `file`, `folder` or `link`) of what lies in a folder, by name; nothing where there is none."""
    place = storage.url(folder) if folder else storage.root
    if storage.local:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as found:
            for entry in sorted(found, key=lambda one: one.name):
                if entry.is_symlink():
                    yield entry.name, 0, "link"
                elif entry.is_dir(follow_symlinks=False):
                    yield entry.name, 0, "folder"
                else:
                    with suppress(FileNotFoundError):  # a run that works there renames its files
                        yield entry.name, entry.stat(follow_symlinks=False).st_size, "file"
        return
    with suppress(FileNotFoundError):
        for entry in sorted(storage.fs.ls(place, detail=True, refresh=True), key=lambda one: str(one["name"])):
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            yield name, int(entry.get("size") or 0), "folder" if entry["type"] == "directory" else "file"


def _folders(storage: Storage, folder: str, notes: list[str]) -> list[str]:
    if storage.local and os.path.islink(storage.url(folder)):
        notes.append(f"{folder}: a symbolic link, left alone")
        return []
    found = list(_entries(storage, folder))
    notes += [f"{folder}/{name}: a symbolic link, left alone" for name, _, kind in found if kind == "link"]
    return [name for name, _, kind in found if kind == "folder"]


def _walk(storage: Storage, folder: str, notes: list[str]) -> Iterator[tuple[str, int]]:
    """(path, bytes) of every file below `folder`, a folder at a time."""
    if storage.local and os.path.islink(storage.url(folder)):
        notes.append(f"{folder}: a symbolic link, left alone")
        return
    for name, size, kind in list(_entries(storage, folder)):
        path = f"{folder}/{name}"
        if kind == "folder":
            yield from _walk(storage, path, notes)
        elif kind == "file":
            yield path, size
        else:
            notes.append(f"{path}: a symbolic link, left alone")


class _Remover:
    """Removes files of the run, one by one on a disk, a thousand at a time on an object store."""

    BATCH = 1000  # keys that one S3 request deletes

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._real: dict[str, bool] = {}
        self._waiting: list[str] = []

    def remove(self, path: str) -> bool:
        """False when it stays: gone already, or not inside the run after all."""
        self._storage.check_path(path)
        if not self._storage.local:
            self._waiting.append(self._storage.url(path))
            if len(self._waiting) >= self.BATCH:
                self._send()
            return True
        folder = path.rpartition("/")[0]
        if folder not in self._real:
            root = os.path.realpath(self._storage.root)
            self._real[folder] = os.path.realpath(self._storage.url(folder)) == os.path.normpath(f"{root}/{folder}")
        if not self._real[folder]:
            return False
        try:
            os.unlink(self._storage.url(path))
        except OSError:
            return False
        return True

    def _send(self) -> None:
        if self._waiting:
            self._storage.fs.rm(self._waiting)
            self._waiting = []

    def finish(self) -> None:
        """Send what waits; remove folders that became empty (a disk)."""
        self._send()
        for folder in sorted(self._real, key=len, reverse=True):
            while folder and "/" in folder and self._real.get(folder, True):
                try:
                    os.rmdir(self._storage.url(folder))
                except OSError:
                    break
                folder = folder.rpartition("/")[0]
