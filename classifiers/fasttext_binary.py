"""Trains and evaluates the two-sided fastText classifiers that `score` applies, outside a run.

    python -m classifiers.fasttext_binary train    --positive books.parquet --negative web.jsonl --model edu.bin
    python -m classifiers.fasttext_binary evaluate --positive held.jsonl --negative other.jsonl --model edu.bin

Inputs are JSONL or Parquet files with a `text` column. The sample, the normalisation and the training are those of the
`score` stage, so a model made here scores as one made inside a run does (set `lower_case: true` on the step). Beside the
model stands a model card, MODEL.md: settings, counts, and what a held-out tenth of the sample gave.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from pipeline.quality import fasttext_model
from pipeline.quality.sample import POSITIVE_SIDE, LowestKeys, lowest
from pipeline.schema import ID, TEXT, document_id
from pipeline.stage import random_keys, uniforms

_BLOCK_BYTES = 16 << 20


def batches(path: str, column: str) -> Iterator[pa.RecordBatch]:
    """`id` and `text` of a JSONL or Parquet file, in bounded batches; ids are (file name, record number)."""
    number = 0
    for texts in _texts(path, column):
        ids = [document_id(Path(path).name, str(number + i)) for i in range(len(texts))]
        number += len(texts)
        yield pa.record_batch({ID.name: pa.array(ids, ID.type), TEXT.name: texts.cast(TEXT.type)})


def _texts(path: str, column: str) -> Iterator[pa.Array]:
    if path.endswith(".parquet"):
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=[column]):
            yield batch[column]
        return
    options = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES)
    schema = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([pa.field(column, pa.large_string())]), unexpected_field_behavior="ignore"
    )
    for batch in pyarrow.json.open_json(path, read_options=options, parse_options=schema):
        yield batch[column]


def sample(options: argparse.Namespace) -> pa.Table:
    """A random sample of both sides, in random order."""
    sides = []
    for paths, positive in ((options.positive, True), (options.negative, False)):
        side = LowestKeys(options.documents, options.max_chars, options.seed, "fasttext_binary/sample", positive)
        for path in paths:
            for docs in batches(path, options.column):
                side.add(docs)
        sides.append(side.sample())
        if sides[-1].num_rows == 0:
            sys.exit(f"no text in {', '.join(paths)}: is '{options.column}' the right --column?")
    both = pa.concat_tables(sides)
    return lowest(both, both.num_rows)


def _lines_and_sides(rows: pa.Table, options: argparse.Namespace) -> tuple[pa.Array, fasttext_model.Booleans]:
    lines = fasttext_model.one_line(pa.concat_arrays(rows[TEXT.name].chunks), options.max_chars, options.lower_case)
    return lines, np.asarray(rows[POSITIVE_SIDE.name].to_numpy(), np.bool_)


def train(options: argparse.Namespace) -> None:
    """Train on nine tenths of the sample, measure on the last, write the model and its card."""
    rows = sample(options)
    lines, positive = _lines_and_sides(rows, options)
    held = uniforms(random_keys(pa.concat_arrays(rows[ID.name].chunks), options.seed, "fasttext_binary/held_out")) < 0.1
    settings = fasttext_model.Training(
        dimension=options.dimension,
        word_ngrams=options.word_ngrams,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        hash_buckets=options.hash_buckets,
        seed=options.seed,
    )
    model = fasttext_model.trained(lines.filter(pa.array(~held)), positive[~held], settings)
    found = fasttext_model.evaluated(fasttext_model.opened(model), lines.filter(pa.array(held)), positive[held])
    Path(options.model).write_bytes(model)
    Path(options.model + ".md").write_text(card(options, settings, found, positive), encoding="utf-8")
    print(json.dumps(asdict(found)))


def card(
    options: argparse.Namespace,
    settings: fasttext_model.Training,
    found: fasttext_model.Metrics,
    positive: fasttext_model.Booleans,
) -> str:
    """The model card: what it was made of, how, and how well it does."""
    lines = [
        f"# {Path(options.model).name}",
        "",
        f"fastText classifier of two sides; the score is the probability of `{fasttext_model.POSITIVE}`.",
        "",
        "| | |",
        "|---|---|",
        f"| positive | {int(positive.sum())} documents from {', '.join(Path(one).name for one in options.positive)} |",
        f"| negative | {int((~positive).sum())} documents from {', '.join(Path(one).name for one in options.negative)} |",
        f"| text | first {options.max_chars} characters, {'lower case' if options.lower_case else 'case kept'} |",
        *(f"| {name} | {value} |" for name, value in asdict(settings).items()),
        *(f"| held-out {name} | {value} |" for name, value in asdict(found).items()),
    ]
    return "\n".join(lines) + "\n"


def evaluate(options: argparse.Namespace) -> None:
    """Print how an existing model does on a sample."""
    lines, positive = _lines_and_sides(sample(options), options)
    model = fasttext_model.loaded_file(options.model)
    print(json.dumps(asdict(fasttext_model.evaluated(model, lines, positive, options.positive_label))))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="classifiers.fasttext_binary", description=(__doc__ or "").partition("\n")[0])
    commands = top.add_subparsers(required=True)
    for run in (train, evaluate):
        command = commands.add_parser(run.__name__, help=(run.__doc__ or "").rstrip("."))
        command.set_defaults(run=run)
        command.add_argument("--positive", nargs="+", required=True, help="JSONL or Parquet files of the trusted side")
        command.add_argument("--negative", nargs="+", required=True, help="JSONL or Parquet files of the other side")
        command.add_argument("--model", required=True, help="fastText model file to write or to measure")
        command.add_argument("--column", default="text", help="the column that holds the text")
        command.add_argument("--documents", type=int, default=200_000, help="at most so many per side")
        command.add_argument("--max-chars", type=int, default=4000, help="characters of each document that count")
        command.add_argument("--lower-case", action=argparse.BooleanOptionalAction, default=True)
        command.add_argument("--seed", type=int, default=0)
        if run is evaluate:
            command.add_argument("--positive-label", default=fasttext_model.POSITIVE)
            continue
        given = fasttext_model.Training()
        command.add_argument("--dimension", type=int, default=given.dimension)
        command.add_argument("--word-ngrams", type=int, default=given.word_ngrams)
        command.add_argument("--epochs", type=int, default=given.epochs)
        command.add_argument("--learning-rate", type=float, default=given.learning_rate)
        command.add_argument("--hash-buckets", type=int, default=given.hash_buckets)
    return top


if __name__ == "__main__":
    arguments = parser().parse_args()
    arguments.run(arguments)
