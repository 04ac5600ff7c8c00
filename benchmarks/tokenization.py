"""Tokenization side by side: ours, Hugging Face `tokenizers`, and tiktoken where it is installed; one thread each.

    python benchmarks/tokenization.py FOLDER [--tokenizer tokenizer.json] [--smoke]

FOLDER is searched for .txt, .md, .rst and .py files (with --smoke and no folder: this Python's standard library).
Without --tokenizer, one of 32,000 entries is trained on the same text first. Prints the median of the repetitions in MB
(10^6 bytes of UTF-8) per second of CPU time; every engine encodes the same documents, and ours is held to `tokenizers` id by id.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.kernels.gather import append_each
from pipeline.schema import document_id
from pipeline.tokens.tokenizer import Encoder
from pipeline.tokens.training import TrainTokenizer

ENDINGS = {".txt", ".md", ".rst", ".py"}


def texts_of(folder: Path, max_bytes: int) -> list[str]:
    """Documents under `folder` in path order, until `max_bytes`; files that are no UTF-8 are left out."""
    found, size = [], 0
    for path in sorted(folder.rglob("*")):
        if path.suffix not in ENDINGS or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found.append(text)
        size += len(text.encode())
        if size >= max_bytes:
            break
    return found


def trained(texts: list[str]) -> bytes:
    """A tokenizer of 32,000 entries trained on `texts`."""
    ids = pa.array([document_id("benchmark", str(i)) for i in range(len(texts))], pa.binary(16))
    batch = pa.RecordBatch.from_arrays([ids, pa.array(texts, pa.large_string())], names=["id", "text"])
    fold = TrainTokenizer().bound(name="train_tokenizer", seed=0)
    start = time.perf_counter()
    table = fold.fold(iter([fold.summary(iter([batch]), "benchmark")]))
    print(
        f"trained 32,000 entries on {sum(map(len, texts)) / 1e6:.1f} M characters in {time.perf_counter() - start:.1f} s"
    )
    return bytes(table.column("tokenizer_json")[0].as_py())


def median_seconds(run: Callable[[], object], prepare: Callable[[], object], repeats: int) -> float:
    """Median CPU time over `repeats`, each after `prepare` (which makes a fresh engine, without any word remembered)."""
    seconds = []
    for _ in range(repeats):
        prepare()
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def tiktoken_encoding(config: dict[str, Any]) -> Any:
    """The same vocabulary and split pattern as a tiktoken encoding, or None where it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in letters}
    byte_of |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in letters)}
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in config["model"]["vocab"].items()}
    pattern = config["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    return tiktoken.Encoding("benchmark", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--smoke", action="store_true", help="1 MB, one repetition: does it run?")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    texts = texts_of(arguments.folder, 1_000_000 if arguments.smoke else 50_000_000)
    repeats = 1 if arguments.smoke else arguments.repeats
    if not texts:
        print(f"no text files under {arguments.folder}", file=sys.stderr)
        return 2
    array = pa.array(texts, pa.large_string())
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    content = arguments.tokenizer.read_bytes() if arguments.tokenizer else trained(texts)
    config = json.loads(content)
    bare = json.dumps({**config, "added_tokens": [], "post_processor": None})
    held: dict[str, Any] = {}

    def fresh_ours() -> None:
        held["ours"] = Encoder(content)
        held["ours"].encode(pa.array(["load the engine"], pa.large_string()))

    def ours() -> None:
        values, offsets = held["ours"].encode(array)
        held["ids"] = append_each(values, offsets, np.zeros(len(array), np.int32))

    def fresh_reference() -> None:
        held["reference"] = Tokenizer.from_str(bare)

    def reference() -> None:
        held["expected"] = held["reference"].encode_batch_fast(texts, add_special_tokens=False)

    rows = [
        ("tokenmill, first pass", median_seconds(ours, fresh_ours, repeats)),
        ("tokenmill, second pass", median_seconds(ours, lambda: None, repeats)),
        ("tokenizers", median_seconds(reference, fresh_reference, 1 if arguments.smoke else min(repeats, 3))),
    ]
    values, offsets = held["ids"]
    different = sum(
        e.ids != values[a : b - 1].tolist() for e, a, b in zip(held["expected"], offsets[:-1], offsets[1:], strict=True)
    )
    encoding = tiktoken_encoding(config)
    if encoding is not None:
        rows.append(
            ("tiktoken", median_seconds(lambda: [encoding.encode_ordinary(t) for t in texts], lambda: None, repeats))
        )
    print(
        f"{len(texts)} documents, {megabytes:.1f} MB, vocabulary {held['ours'].vocabulary}, medians of {repeats}, one thread"
    )
    slowest = dict(rows)["tokenizers"]
    for name, seconds in rows:
        print(f"{name:24}{megabytes / seconds:9.1f} MB/s{slowest / seconds:9.1f} x tokenizers")
    print(f"documents whose ids differ from tokenizers: {different}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
