"""MinHash side by side with datasketch: from text to signatures, and from text to clusters, on one thread.

    python benchmarks/minhash.py            about a minute; medians of 5
    python benchmarks/minhash.py --smoke    seconds; says only that it works

Both sides use 112 permutations, 14 bands of 8 rows, lower-cased word 5-grams and the same texts: the standard library's
sources, and the near-duplicate pages of `shared/data` where they lie beside the repository. datasketch gets its shingles from
one compiled regular expression and hashes a document's shingles in one `update_batch`. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import datasketch
import numpy as np
import pyarrow as pa
import xxhash

from pipeline.dedup.minhash import Bands, Edges, Signatures, minima_of
from pipeline.schema import ID_TYPE, document_id

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5
WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")
NEAR_DUPLICATES = Path(__file__).parents[2] / "shared" / "data" / "neardup" / "llvm-docs.docs.jsonl"


def corpora(max_bytes: int) -> dict[str, list[str]]:
    """Texts by the name of their corpus, each corpus up to `max_bytes`."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    files = [path for path in files if "site-packages" not in path.parts]
    found = {"standard library": _up_to(max_bytes, (path.read_text(errors="replace") for path in files))}
    if NEAR_DUPLICATES.exists():
        lines = NEAR_DUPLICATES.read_text(encoding="utf-8").splitlines()
        found["LLVM documentation"] = _up_to(max_bytes, (json.loads(line)["text"] for line in lines))
    return found


def _up_to(max_bytes: int, texts: Iterable[str]) -> list[str]:
    chosen, size = [], 0
    for text in texts:
        size += len(text.encode())
        if size > max_bytes:
            break
        chosen.append(text)
    return chosen


def shingles(text: str) -> list[bytes]:
    words = WORD.findall(text.lower())
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return [" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(last)] if words else []


def their_signatures(ready: Sequence[list[bytes]]) -> list[datasketch.MinHash]:
    sketches = []
    for one in ready:
        sketch = datasketch.MinHash(num_perm=BANDS * ROWS, hashfunc=xxhash.xxh32_intdigest)
        sketch.update_batch(one)
        sketches.append(sketch)
    return sketches


def their_clusters(texts: Sequence[str]) -> int:
    """Documents that share a cluster with another: insert all, query all, join what meets."""
    sketches = their_signatures([shingles(text) for text in texts])
    index = datasketch.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    root = list(range(len(texts)))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for number, sketch in enumerate(sketches):
        for other in index.query(sketch):
            root[find(number)] = find(other)
    labels = [find(number) for number in range(len(texts))]
    return sum(labels.count(label) > 1 for label in labels)


def documents(texts: Sequence[str]) -> pa.RecordBatch:
    ids = pa.array([document_id(str(number)) for number in range(len(texts))], ID_TYPE)
    return pa.RecordBatch.from_pydict({"id": ids, "text": pa.array(texts, pa.large_string())})


def our_signatures(docs: pa.RecordBatch) -> pa.Array:
    return Signatures(permutations=BANDS * ROWS, shingle_words=SHINGLE_WORDS).columns(docs)["minhash"]


def our_clusters(docs: pa.RecordBatch) -> int:
    """The same, by the stages that a run consists of; sorting stands for the exchange."""
    signed = docs.select(["id"]).append_column("minhash", our_signatures(docs))
    rows = Bands(bands=BANDS, rows_per_band=ROWS).rows(signed).sort_by([("band_key", "ascending"), ("id", "ascending")])
    edges = Edges(permutations=BANDS * ROWS)
    return int(edges.fold(iter([edges.summary(iter([rows]), "benchmark")])).num_rows)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def exact_jaccard(ready: Sequence[list[bytes]], pairs: np.ndarray) -> np.ndarray:
    sets = [set(one) for one in ready]
    return np.array([len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs])


def errors(texts: Sequence[str], pairs_at_most: int) -> tuple[int, float, float]:
    """Pairs of Jaccard 0.3 and more among neighbours in the corpus, and both sides' root mean square error on them."""
    ready = [shingles(text) for text in texts]
    pairs = np.array(
        [(a, a + gap) for gap in (1, 2, 3) for a in range(len(texts) - gap) if ready[a] and ready[a + gap]]
    )
    pairs = pairs[:pairs_at_most]
    true = exact_jaccard(ready, pairs)
    pairs, true = pairs[true >= 0.3], true[true >= 0.3]
    ours = minima_of(our_signatures(documents(texts)))
    theirs = np.array([one.hashvalues for one in their_signatures(ready)])
    both = [np.sqrt((((m[pairs[:, 0]] == m[pairs[:, 1]]).mean(axis=1) - true) ** 2).mean()) for m in (ours, theirs)]
    return len(pairs), float(both[0]), float(both[1])


def compare(name: str, texts: Sequence[str], repeats: int) -> list[str]:
    """Prints the table rows of one corpus; returns what else there is to say."""
    docs, ready = documents(texts), [shingles(text) for text in texts]
    size = sum(len(text.encode()) for text in texts) / 1e6
    jobs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "text to signatures": (
            lambda: our_signatures(docs),
            lambda: their_signatures([shingles(text) for text in texts]),
        ),
        "the same, datasketch given shingles": (lambda: our_signatures(docs), lambda: their_signatures(ready)),
        "text to clusters": (lambda: our_clusters(docs), lambda: their_clusters(texts)),
    }
    for job, (ours, theirs) in jobs.items():
        mine, other = size / median_seconds(ours, repeats), size / median_seconds(theirs, repeats)
        print(f"| {name} | {size:.1f} | {job} | {mine:.1f} | {other:.2f} | {mine / other:.0f} |")
    found, by_them = our_clusters(docs), their_clusters(texts)
    notes = [f"{name}: {found} of {len(texts)} documents are in clusters (datasketch {by_them})."]
    count, rmse, their_rmse = errors(texts, 2000)
    if count:
        error = f"error of the estimated Jaccard {rmse:.4f} (datasketch {their_rmse:.4f})"
        notes.append(f"{name}: {error} on {count} pairs from 0.3 up.")
    return notes


def main() -> None:
    parser = argparse.ArgumentParser(description="MinHash side by side with datasketch")
    parser.add_argument("--smoke", action="store_true", help="a little text, once: says only that it works")
    smoke = parser.parse_args().smoke
    repeats, max_bytes = (1, 300_000) if smoke else (5, 5_000_000)
    our_clusters(documents(["compiles the kernels", "and makes the word table"]))
    print("| corpus | MB | job | ours MB/s | datasketch MB/s | ratio |\n|---|---|---|---|---|---|")
    notes = [note for name, texts in corpora(max_bytes).items() for note in compare(name, texts, repeats)]
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
