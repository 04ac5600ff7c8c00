"""`tokenmill verify`: reads back everything that a run wrote and compares it with the ledger.

1. Every shard has the size and the checksum that the run recorded.
2. Every .idx agrees with its .bin, and every Arrow shard holds the same tokens as its Megatron twin.
3. Every phase's blend.json and args.txt are read as a trainer would read them. Where megatron-core is installed, each
   prefix goes through its IndexedDataset and each phase through its blended GPT dataset, which is walked from the first
   sample to the last; elsewhere the same arithmetic is done here, and the ledger says by whom.
4. Samples per dataset and bucket, times the sequence length, are the ledger's `tokens_delivered`.

Of a run on an object store every `.idx` is copied to a temporary folder, and the `.bin` with it as long as all of
megatron/ is at most COPY_BYTES: then megatron-core reads the copies. Above, it is left out, in so many words.

Memory: shards are mapped and compared in pieces of CHUNK_BYTES; megatron-core holds 20 bytes per sample of a phase.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from pipeline.curriculum.ledger import with_delivered
from pipeline.engine.parts import read_batches, read_table
from pipeline.engine.publish import republish
from pipeline.engine.storage import Storage
from pipeline.tokens.reading import idx_lengths

CHUNK_BYTES = 32 << 20
COPY_BYTES = 4 << 30
LEDGER = "curriculum/ledger.parquet"
SHARDS = "curriculum/shards_written.parquet"
Delivered = dict[tuple[str, str, str], int]


@dataclass
class Report:
    """What was checked, what failed, and the digest of all shards."""

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    digest: str = ""

    def check(self, holds: bool, failure: str) -> None:
        """Record `failure` unless `holds`."""
        if not holds:
            self.failures.append(failure)


@dataclass(frozen=True)
class Blend:
    """One phase as its trainer is told of it."""

    phase: str
    prefixes: tuple[str, ...]
    weights: tuple[float, ...]
    sequence_length: int
    samples: int
    seed: int
    packed: bool


def verify_run(storage: Storage, *, use_megatron: bool = True) -> Report:
    """Check a finished run; rewrites the ledger with `tokens_delivered`. Never raises for what it finds: see `failures`."""
    report = Report()
    if not storage.exists(LEDGER):
        report.failures.append(
            f"{storage.address}: no {LEDGER}: the run is not finished, or its recipe has no curriculum"
        )
        return report
    shards = read_table(storage, SHARDS).to_pylist()
    _check_files(storage, shards, report)
    _check_token_shards(storage, report)
    with _on_disk(storage, shards, use_megatron) as copies:
        _check_pairs(storage, shards, copies, report)
        blends = list(_blends(storage, shards, report))
        delivered, by = _delivered(storage, blends, shards, copies, report, use_megatron)
    _check_ledger(storage, delivered, by, blends, shards, report)
    return report


@dataclass(frozen=True)
class _Copies:
    """Megatron files where local readers find them: the run's own folder, or copies."""

    root: str
    complete: bool
    """False when the `.bin` are holes of the right size."""

    def path(self, path: str) -> str:
        """Local path of a file of the run."""
        return os.path.join(self.root, path)


@contextmanager
def _on_disk(storage: Storage, shards: list[dict[str, Any]], use_megatron: bool) -> Iterator[_Copies]:
    if storage.local:
        yield _Copies(storage.root, complete=True)
        return
    paths = [shard["path"] for shard in shards if shard["format"] == "megatron"]
    paths = [path for path in paths if storage.exists(path)]  # what is missing was told already
    sizes = {path: storage.size(path) for path in paths}
    with tempfile.TemporaryDirectory(prefix="tokenmill-verify-") as folder:
        room = shutil.disk_usage(folder).free
        copies = _Copies(folder, use_megatron and sum(sizes.values()) <= min(COPY_BYTES, room // 2))
        for path, size in sizes.items():
            os.makedirs(os.path.dirname(copies.path(path)), exist_ok=True)
            index = path.removesuffix(".bin") + ".idx"
            if storage.exists(index):
                _copy(storage, index, copies.path(index))
            if copies.complete:
                _copy(storage, path, copies.path(path))
            else:
                with open(copies.path(path), "wb") as file:
                    file.truncate(size)
        yield copies


def _copy(storage: Storage, path: str, target: str) -> None:
    with storage.open(path) as file, open(target, "wb") as copy:
        while chunk := file.read_buffer(CHUNK_BYTES):
            copy.write(chunk)


# ---------------------------------------------------------------------------------------------------- files


def _check_files(storage: Storage, shards: list[dict[str, Any]], report: Report) -> None:
    """Sizes and checksums of every file under tokens/, arrow/ and megatron/, as the accounts of their parts list them."""
    listed: dict[str, tuple[int, str]] = {}
    for step in storage.read_json("plan.json")["steps"]:
        if step["kind"] == "sink":
            for file in (storage.read_json(f"{step['folder']}/manifest.json") or {"files": []})["files"]:
                if file["path"].split("/")[0] in ("tokens", "arrow", "megatron"):
                    listed[file["path"]] = (file["bytes"], file["checksum"])
    total = 0
    for path, (size, checksum) in sorted(listed.items()):
        if not storage.exists(path):
            report.failures.append(f"{path}: the run wrote it, but it is gone")
            continue
        found = storage.size(path)
        if found != size:
            report.failures.append(f"{path}: {size} bytes were written, {found} are there")
            continue
        total += size
        report.check(_checksum(storage, path) == checksum, f"{path}: its bytes changed since they were written")
    for shard in shards:
        report.check(shard["path"] in listed, f"{shard['path']}: in the list of shards, but no step wrote it")
    stable = {path: entry for path, entry in listed.items() if path.endswith((".arrow", ".bin", ".idx"))}
    report.digest = xxhash.xxh3_128_hexdigest(json.dumps(sorted(stable.items())).encode())
    report.lines.append(f"{len(listed)} files, {total / 1e6:,.1f} MB: sizes and checksums hold")


def _checksum(storage: Storage, path: str) -> str:
    digest = xxhash.xxh3_64()
    with storage.open(path) as file:
        while chunk := file.read_buffer(CHUNK_BYTES):
            digest.update(chunk)
    return str(digest.hexdigest())


def _check_token_shards(storage: Storage, report: Report) -> None:
    """The index rows of the token shards against the shards: documents and tokens per file."""
    listed: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for step in storage.read_json("plan.json")["steps"]:
        if step["label"] != "token_shards":
            continue
        manifest = storage.read_json(f"{step['folder']}/manifest.json")
        for part in range(manifest["parts"]):
            for batch in read_batches(storage, f"{step['folder']}/part-{part:05d}.parquet"):
                paths = batch["path"].dictionary_encode()
                counts = np.asarray(batch["num_tokens"])
                codes = np.asarray(paths.indices)
                for code, path in enumerate(paths.dictionary.to_pylist()):
                    listed[path][0] += int((codes == code).sum())
                    listed[path][1] += int(counts[codes == code].sum())
    for path, (documents, tokens) in listed.items():
        found_documents = found_tokens = 0
        with storage.open(path) as file:
            reader = pa.ipc.open_file(file)
            for n in range(reader.num_record_batches):
                batch = reader.get_batch(n)
                found_documents += batch.num_rows
                found_tokens += len(batch["tokens"].flatten())
        report.check(
            (found_documents, found_tokens) == (documents, tokens),
            f"{path}: {documents} documents and {tokens} tokens were indexed, {found_documents} and {found_tokens} are there",
        )
    tokens = sum(t for _, t in listed.values())
    report.lines.append(
        f"{len(listed)} token shards: {sum(d for d, _ in listed.values()):,} documents, {tokens:,} tokens"
    )


def _check_pairs(storage: Storage, shards: list[dict[str, Any]], copies: _Copies, report: Report) -> None:
    """Each .idx against its .bin; each Arrow shard against its Megatron twin, token by token."""
    twins: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for shard in shards:
        twins[shard["phase"], shard["dataset"], shard["bucket"], shard["slice"]][shard["format"]] = shard
    compared = 0
    for formats in twins.values():
        if (megatron := formats.get("megatron")) is None:
            continue
        path = megatron["path"]
        try:
            index = idx_lengths(copies.path(path.removesuffix(".bin") + ".idx"))
        except (OSError, ValueError) as error:
            report.failures.append(f"{path}: {error}")
            continue
        dtype, lengths = index.dtype, index.lengths
        tokens = int(lengths.sum(dtype=np.int64))
        report.check(
            tokens == megatron["tokens"], f"{path}: {megatron['tokens']} tokens in the list of shards, {tokens} in .idx"
        )
        report.check(
            storage.size(path) == tokens * dtype.itemsize,
            f"{path}: .idx says {tokens * dtype.itemsize} bytes, .bin has {storage.size(path)}",
        )
        if megatron["packing"] == "best_fit":
            report.check(
                bool((lengths == megatron["sequence_length"]).all()),
                f"{path}: a packed sequence is not of the phase's length",
            )
        if (arrow := formats.get("arrow")) is not None:
            compared += 1
            report.check(
                _same_tokens(storage, path, arrow["path"], dtype), f"{arrow['path']}: its tokens differ from {path}"
            )
    report.lines.append(
        f"{sum('megatron' in f for f in twins.values())} .bin/.idx pairs agree; {compared} hold the same tokens as their Arrow twins"
    )


def _same_tokens(storage: Storage, bin_path: str, arrow_path: str, dtype: np.dtype[Any]) -> bool:
    with storage.open(bin_path) as raw, storage.open(arrow_path) as file:
        reader = pa.ipc.open_file(file)
        for n in range(reader.num_record_batches):
            tokens = np.asarray(reader.get_batch(n)["tokens"].flatten())
            other = np.frombuffer(raw.read_buffer(len(tokens) * dtype.itemsize), dtype)
            if len(other) != len(tokens) or not np.array_equal(other.astype(np.int32), tokens):
                return False
        return not raw.read(1)


# ---------------------------------------------------------------------------------------------------- blends


def _blends(storage: Storage, shards: list[dict[str, Any]], report: Report) -> Iterator[Blend]:
    for phase in dict.fromkeys(shard["phase"] for shard in shards if shard["format"] == "megatron"):
        folder = f"megatron/{phase}"
        blend, args = storage.read_json(f"{folder}/blend.json"), _arguments(storage, f"{folder}/args.txt")
        if blend is None or not {"train", "valid", "test"} <= set(blend):
            report.failures.append(f"{folder}/blend.json: missing, or without train, valid and test")
            continue
        train = blend["train"]
        yield Blend(
            phase=phase,
            prefixes=tuple(str(p) for p in train[1::2]),
            weights=tuple(float(w) for w in train[0::2]),
            sequence_length=int(args["--seq-length"]),
            samples=int(args["--train-samples"]),
            seed=int(args["--seed"]),
            packed="--reset-position-ids" in args,
        )


def _arguments(storage: Storage, path: str) -> dict[str, str]:
    """Flags of an args.txt: `--flag value` per line, or a bare `--flag`."""
    words = storage.read(path).decode().split()
    result: dict[str, str] = {}
    for n, word in enumerate(words):
        if word.startswith("--"):
            follows = words[n + 1] if n + 1 < len(words) else "--"
            result[word] = "" if follows.startswith("--") else follows
    return result


def _owners(storage: Storage, shards: list[dict[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """Absolute prefix -> (phase, dataset, bucket)."""
    return {
        storage.url(s["path"].removesuffix(".bin")): (s["phase"], s["dataset"], s["bucket"])
        for s in shards
        if s["format"] == "megatron"
    }


def _delivered(
    storage: Storage,
    blends: list[Blend],
    shards: list[dict[str, Any]],
    copies: _Copies,
    report: Report,
    use_megatron: bool,
) -> tuple[Delivered, str]:
    owners = _owners(storage, shards)
    for blend in blends:
        for prefix in blend.prefixes:
            report.check(
                prefix in owners,
                f"{blend.phase}/blend.json: {prefix} is no shard of this run (was the run's folder moved?)",
            )
    if any(prefix not in owners for blend in blends for prefix in blend.prefixes):
        return {}, "nobody"
    if use_megatron:
        try:
            walk = _megatron_walk(report)
        except ImportError as error:
            report.lines.append(
                f"left out: megatron-core is not installed ({error.name}); install the extra [megatron] to read back through it"
            )
        else:
            if copies.complete:
                local = {prefix: copies.path(prefix.removeprefix(storage.url(""))) for prefix in owners}
                return _sum_samples(blends, owners, walk, report, local), "megatron-core"
            report.lines.append(
                f"left out: megatron-core, since megatron/ is over {COPY_BYTES / 1e9:.1f} GB or the temporary folder has no "
                "room for twice that; copy the run to a disk to read it back"
            )
    return _sum_samples(blends, owners, _own_walk, report, {prefix: prefix for prefix in owners}), "tokenmill"


def _sum_samples(
    blends: list[Blend],
    owners: dict[str, tuple[str, str, str]],
    walk: Callable[[Blend, Sequence[str]], list[int]],
    report: Report,
    local: dict[str, str],
) -> Delivered:
    """Walk every phase; `local` says where the files of a prefix lie on this disk."""
    delivered: Delivered = defaultdict(int)
    for blend in blends:
        counts = walk(blend, [local[prefix] for prefix in blend.prefixes])
        for prefix, samples in zip(blend.prefixes, counts, strict=True):
            delivered[owners[prefix]] += int(samples) * blend.sequence_length
        report.lines.append(
            f"{blend.phase}: {sum(counts):,} samples of {blend.sequence_length} tokens from {len(blend.prefixes)} prefixes"
        )
    return dict(delivered)


def _own_walk(blend: Blend, prefixes: Sequence[str]) -> list[int]:
    """Samples per prefix by Megatron's arithmetic: ceil(N w), as _get_size_per_split_per_dataset computes it."""
    weights = np.array(blend.weights, np.float64)
    normal = (weights / weights.sum()).tolist()
    return [blend.samples] if len(normal) == 1 else [math.ceil(blend.samples * w) for w in normal]


def _megatron_walk(report: Report) -> Any:
    """A function that builds a phase's blended GPT dataset with megatron-core and reads every sample of it."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # megatron-core warns of optional GPU packages that reading data never uses
        import torch
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.indexed_dataset import IndexedDataset

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    def walk(blend: Blend, prefixes: Sequence[str]) -> list[int]:
        for prefix in prefixes:
            indexed = IndexedDataset(prefix)
            own = idx_lengths(f"{prefix}.idx")
            same = np.array_equal(indexed.sequence_lengths, own.lengths) and indexed.index.dtype == own.dtype.type
            report.check(same, f"{prefix}: megatron-core's IndexedDataset reads other lengths than we do")
        with tempfile.TemporaryDirectory() as cache:
            config = GPTDatasetConfig(
                random_seed=blend.seed, sequence_length=blend.sequence_length,
                blend_per_split=[(list(prefixes), list(blend.weights)), None, None],
                reset_position_ids=blend.packed, reset_attention_mask=blend.packed, eod_mask_loss=blend.packed,
                create_attention_mask=False, mid_level_dataset_surplus=0.0, path_to_cache=cache, tokenizer=_TrainersTokenizer(),
            )  # fmt: skip
            sizes = [blend.samples, None, None]
            train = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]
            counts = [0] * len(prefixes)
            single = len(prefixes) == 1
            for sample in range(blend.samples if single else len(train)):
                tokens = train[sample]["tokens"]
                if len(tokens) != blend.sequence_length:
                    report.failures.append(
                        f"{blend.phase}: sample {sample} has {len(tokens)} tokens, not {blend.sequence_length}"
                    )
                counts[0 if single else int(train.dataset_index[sample])] += 1
        return counts

    return walk


class _TrainersTokenizer:
    """What GPTDataset asks of a tokenizer: the vocabulary's size and the end-of-document id, for loss masks only."""

    vocab_size = 1 << 17
    eod = eos = 0
    pad = -1
    unique_identifiers: dict[str, str] = {"class": "tokenmill verify"}  # noqa: RUF012 - as megatron-core declares it
    special_tokens_dict: dict[str, int] = {}  # noqa: RUF012


# ---------------------------------------------------------------------------------------------------- the ledger


def _check_ledger(
    storage: Storage, delivered: Delivered, by: str, blends: list[Blend], shards: list[dict[str, Any]], report: Report
) -> None:
    """Delivered against written and planned; then the ledger is rewritten with what was delivered."""
    before = read_table(storage, LEDGER)
    ledger = with_delivered(before, delivered, by)
    republish(storage, LEDGER, ledger.replace_schema_metadata(before.schema.metadata))
    rows = ledger.to_pylist()
    prefixes: dict[tuple[str, str, str], int] = defaultdict(int)
    for owner in _owners(storage, shards).values():
        prefixes[owner] += 1
    for blend in blends:
        length = blend.sequence_length
        mine = [row for row in rows if row["phase"] == blend.phase]
        for row in mine:
            spare = prefixes[blend.phase, row["dataset"], row["bucket"]] * (length + 1)
            gap = (row["tokens_delivered"] or 0) - (row["tokens_written"] or 0)
            report.check(
                abs(gap) <= spare,
                f"{blend.phase}, {row['dataset']}, {row['bucket']}: {row['tokens_written']} tokens written, but {row['tokens_delivered']} delivered",
            )
        planned, given = sum(r["tokens_planned"] for r in mine), sum(r["tokens_delivered"] or 0 for r in mine)
        report.check(
            abs(given - planned) <= max(0.005 * planned, length),
            f"{blend.phase}: {planned} tokens planned, {given} delivered: off by more than 0.5 % and one sequence",
        )
        report.lines.append(
            f"{blend.phase}: {given:,} of {planned:,} planned tokens delivered ({given / max(1, planned):.2%}), counted by {by}"
        )
