"""What a trainer needs beside the shards: each phase's `blend.json` and `args.txt`, and the tokenizer's folder.

Megatron gives a prefix ceil(N * w) samples, w being its weight over the sum of weights in float64 (peers.md, section
e). The weights written here are sample counts, and N their sum; every count is checked with that same arithmetic, and a
weight is moved by some units in the last place where rounding would give one sample more or less. Its greedy blending
then takes exactly that many from each: at no step can a prefix that has all its samples have the largest error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.schema import BUCKET, field
from pipeline.stage import RunFiles, Sink
from pipeline.tokens.phase_shards import PHASE, PHASE_INDEX, SLICE
from pipeline.tokens.shards import DATASET, file_name
from pipeline.tokens.tokenize import END_OF_DOCUMENT
from pipeline.tokens.tokenizer import encoder_of, tokenizer_bytes

TOKENIZER_FOLDER = "megatron/tokenizer"

BLENDS = pa.schema(
    [
        *(PHASE, PHASE_INDEX, DATASET, BUCKET, SLICE),
        field("prefix", pa.string(), "absolute path or URL without ending, as the blend names it"),
        field("samples", pa.int64(), "training sequences that the trainer takes; 0: too small, left out of the blend"),
        field("weight", pa.string(), "the weight in blend.json; null where it is left out"),
    ]
)
"""Columns of the rows that describe the blends: one row per prefix."""

MAX_PREFIXES = 32_766  # Megatron's blend index is int16 (assert len(datasets) < 32767)


class Blends(Sink):
    """Writes `megatron/<phase>/blend.json` and `args.txt` for every phase, from table "prefixes" (of `phase_shards`).

    Memory: the table, one row per prefix.
    """

    kind = "blends"

    path: str | None = None
    """The tokenizer's tokenizer.json; null takes table "tokenizer"."""
    end_of_document: str = END_OF_DOCUMENT
    trainer_seed: int = Field(default=1234, ge=0)  # Megatron's own default
    global_batch_size: int | None = Field(default=None, gt=0)

    def files(self) -> tuple[str, ...]:
        return () if self.path is None else (self.path,)

    def output(self) -> pa.Schema:
        return BLENDS

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        prefixes = self.table("prefixes")
        prefixes = prefixes.filter(pc.equal(prefixes.column("format"), "megatron"))
        rows = prefixes.sort_by([("phase_index", "ascending"), ("path", "ascending")]).to_pylist()
        if rows:
            self._write_tokenizer(files)
        for phase in dict.fromkeys(row["phase"] for row in rows):
            described = self._write_phase(
                file_name(phase, "phase"), [row for row in rows if row["phase"] == phase], files
            )
            yield pa.RecordBatch.from_pylist(described, schema=BLENDS)

    def _write_phase(self, phase: str, rows: list[dict[str, Any]], files: RunFiles) -> list[dict[str, Any]]:
        counts = phase_samples(rows)
        weights = iter(weights_for([count for count in counts if count]))
        described = [
            {
                **{name: row[name] for name in BLENDS.names if name in row},
                "prefix": files.url(row["path"].removesuffix(".bin")),
                "samples": count,
                "weight": next(weights) if count else None,
            }
            for row, count in zip(rows, counts, strict=True)
        ]
        train = [item for one in described if one["weight"] for item in (one["weight"], one["prefix"])]
        if len(train) // 2 > MAX_PREFIXES:
            msg = f"phase {phase} has {len(train) // 2} prefixes, Megatron takes {MAX_PREFIXES} at most"
            raise ValueError(msg)
        blend = f"megatron/{phase}/blend.json"
        content = {"train": train or None, "valid": None, "test": None}
        _write(files, blend, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        _write(files, f"megatron/{phase}/args.txt", "\n".join(self._arguments(rows, sum(counts), blend, files)) + "\n")
        return described

    def _arguments(self, rows: list[dict[str, Any]], total: int, blend: str, files: RunFiles) -> Iterator[str]:
        lengths = sorted({row["sequence_length"] for row in rows})
        if len(lengths) != 1:
            msg = f"phase {rows[0]['phase']} mixes sequence lengths {lengths}; Megatron takes one"
            raise ValueError(msg)
        yield f"--per-split-data-args-path {files.url(blend)}"
        yield f"--seq-length {lengths[0]}"
        yield f"--train-samples {total}"
        yield "--mid-level-dataset-surplus 0"
        yield f"--seed {self.trainer_seed}"
        if self.global_batch_size is not None:
            yield f"--global-batch-size {self.global_batch_size}"
        yield "--tokenizer-type HuggingFaceTokenizer"
        yield f"--tokenizer-model {files.url(TOKENIZER_FOLDER)}"
        if any(row["packing"] == "best_fit" for row in rows):
            yield from ("--reset-position-ids", "--reset-attention-mask", "--eod-mask-loss")

    def _write_tokenizer(self, files: RunFiles) -> None:
        """The tokenizer as a folder that `transformers` loads, its end-of-document token named."""
        content = tokenizer_bytes(self.path, self)
        encoder_of(content).special_id(self.end_of_document)
        with files.create(f"{TOKENIZER_FOLDER}/tokenizer.json") as file:
            file.write(content)
        token = self.end_of_document
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": token, "pad_token": token}
        _write(files, f"{TOKENIZER_FOLDER}/tokenizer_config.json", json.dumps(config, indent=1) + "\n")


def _write(files: RunFiles, path: str, content: str) -> None:
    with files.create(path) as file:
        file.write(content.encode())


def samples(row: dict[str, Any]) -> int:
    """Training sequences to take of one prefix, so that it is read exactly `reads` times.

    Concatenated: Megatron cuts windows of S + 1 tokens that overlap by one, so `reads` copies of T tokens give
    (reads * T - 1) // S. Packed: every bin once per read; for the very last one Megatron opens another epoch (it wants
    one token beyond), which may show one bin once more and another once less.
    """
    if row["packing"] == "best_fit":
        return int(row["reads"] * row["sequences"])
    return int(max(row["reads"] * row["tokens"] - 1, 0) // row["sequence_length"])


def phase_samples(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Training sequences to take of each prefix of a phase, so that the phase is delivered to within one sequence.

    Whole sequences of each prefix leave up to one sequence of each over, which in a small phase of many prefixes adds
    up. As many as these remainders make together are handed to the prefixes with the largest ones (the first where
    equal): such a prefix is read its whole number of times and up to one sequence more.
    """
    counts = [samples(row) for row in rows]
    loose = [i for i, row in enumerate(rows) if row["packing"] != "best_fit"]
    if loose:
        length = rows[0]["sequence_length"]
        left = [rows[i]["reads"] * rows[i]["tokens"] - counts[i] * length for i in loose]
        for _, i in sorted(zip([-one for one in left], loose, strict=True))[: sum(left) // length]:
            counts[i] += 1
    return counts


def megatron_counts(weights: Sequence[float], total: int) -> list[int]:
    """The samples that Megatron plans per prefix: its own arithmetic, operation by operation."""
    array = np.array(weights, dtype=np.float64)
    normalised: list[float] = (array / np.sum(array)).tolist()
    return [math.ceil(math.ceil(total * weight) * (1 + 0.0)) for weight in normalised]


def weights_for(counts: Sequence[int]) -> list[str]:
    """Weights, as written into a blend, under which Megatron plans exactly `counts` samples."""
    weights = [float(count) for count in counts]
    total = sum(counts)
    for _ in range(64):
        planned = megatron_counts(weights, total) if weights else []
        if planned == list(counts):
            return [repr(weight) for weight in weights]
        for i, (found, wanted) in enumerate(zip(planned, counts, strict=True)):
            if found != wanted:
                weights[i] = math.nextafter(weights[i], 0.0 if found > wanted else math.inf)
    msg = f"no weights found under which Megatron would plan {list(counts)[:8]}... samples; this is a defect, please report it"
    raise ArithmeticError(msg)
