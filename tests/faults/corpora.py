"""Corpora of any size out of this Python's own sources: real words, as many documents as wanted, no two alike but a chosen few.

A document is a few hundred lines drawn from the standard library's prose (docstrings and comments), so quality rules keep most,
and MinHash finds only the near-duplicates that were planted. About 60 MB/s on one core.
"""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

DUPLICATE_SHARE = 0.05
"""Documents that are an earlier one of the same file again: half of them as it was, half with one line changed."""


def prose_lines() -> list[str]:
    """Lines of the standard library that read like prose: at least five words, nine tenths letters and spaces."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        for line in path.read_text("utf-8", "replace").splitlines():
            text = line.strip().lstrip("# ")
            if len(text.split()) >= 5 and sum(c.isalpha() or c == " " for c in text) > 0.9 * len(text):
                found.append(text)
    return found


def documents(megabytes: float, seed: int, lines: list[str]) -> Iterator[str]:
    """About `megabytes` of texts of 1 to 20 kB."""
    rng = random.Random(seed)
    size, earlier = 0, ""
    while size < megabytes * 1e6:
        draw = rng.random()
        if earlier and draw < DUPLICATE_SHARE:
            text = earlier if draw < DUPLICATE_SHARE / 2 else f"{earlier}\n{rng.choice(lines)}"
        else:
            text = "\n".join(rng.choices(lines, k=rng.randrange(20, 360)))
        earlier = text if rng.random() < 0.2 else earlier
        size += len(text)
        yield text


def write_corpus(folder: Path, megabytes: float, files: int, seed: int = 1) -> None:
    """`files` JSONL files of equal size in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = prose_lines()
    for n in range(files):
        with open(folder / f"part-{n:04d}.jsonl", "w") as out:
            for number, text in enumerate(documents(megabytes / files, seed * 100_003 + n, lines)):
                out.write(json.dumps({"id": f"{n}-{number}", "text": text}) + "\n")


RECIPE = """\
name: {name}
datasets:
  docs:
    from: {{kind: jsonl, paths: "{paths}", columns: {{id: id, text: text}}, max_part_bytes: {max_part_bytes}}}
    steps:
      - {{kind: gopher_quality}}
      - {{kind: exact_dedup, partitions: {partitions}}}
      - {{kind: minhash_dedup, partitions: {partitions}}}
"""


def write_recipe(path: Path, paths: Path | str, partitions: int = 4, max_part_bytes: int = 64 << 20) -> Path:
    """The recipe of most fault tests: read, filter, and both dedups; no curriculum."""
    text = RECIPE.format(name=path.stem, paths=paths, partitions=partitions, max_part_bytes=max_part_bytes)
    path.write_text(text)
    return path
