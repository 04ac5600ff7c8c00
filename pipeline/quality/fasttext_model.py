"""A fastText text classifier with two sides: how it is trained, evaluated, loaded and asked.

Training is repeatable to the byte (one thread, fixed seed, a fresh process). Texts become one line each, and nothing
written in a text can act as a label or as fastText's end of line. Asking runs at about 45 MB/s of text on one core.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.kernels import spans

POSITIVE, NEGATIVE = "__label__positive", "__label__negative"
LABEL_PREFIX = "__label__"
END_OF_LINE = "</s>"

Float32s = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Training:
    """What a training run depends on besides its texts."""

    dimension: int = 16
    word_ngrams: int = 2  # DCLM, arXiv:2406.11794: fastText's defaults otherwise
    epochs: int = 5
    learning_rate: float = 0.5
    hash_buckets: int = 200_000
    seed: int = 0


@dataclass(frozen=True)
class Metrics:
    """Held-out results at probability 1/2; null where nothing was held out or nothing was called positive."""

    documents: int
    precision: float | None
    recall: float | None
    accuracy: float | None


def one_line(texts: pa.Array, max_chars: int | None, lower_case: bool) -> pa.Array:
    """The first `max_chars` code points of each text as one line, harmless to fastText; null stays null."""
    lines = texts.cast(pa.large_string())
    if max_chars is not None:
        lines = spans.first_chars(lines, max_chars)
    if lower_case:
        lines = pc.utf8_lower(lines)
    for mark, instead in (("\n", " "), (LABEL_PREFIX, "label "), (END_OF_LINE, " ")):
        lines = pc.replace_substring(lines, mark, instead)
    return lines


def trained(lines: pa.Array, positive: Booleans, settings: Training) -> bytes:
    """The model file of a classifier trained on these lines (`one_line`), in this order."""
    options = {
        "dim": settings.dimension,
        "wordNgrams": settings.word_ngrams,
        "epoch": settings.epochs,
        "lr": settings.learning_rate,
        "bucket": settings.hash_buckets,
        "seed": settings.seed % (1 << 31),
        "minCount": 1,
        "loss": "softmax",
    }
    labels = pa.array([NEGATIVE, POSITIVE], pa.large_string()).take(pa.array(positive.astype(np.int8)))
    labelled = pc.binary_join_element_wise(labels, lines, pa.scalar(" ", pa.large_string()))
    with tempfile.TemporaryDirectory(prefix="tokenmill-train-") as folder:
        written, model = Path(folder, "lines.txt"), Path(folder, "model.bin")
        written.write_bytes("\n".join([*labelled.to_pylist(), ""]).encode())
        _train_in_fresh_process(written, model, options)
        return model.read_bytes()


def _train_in_fresh_process(lines: Path, model: Path, options: dict[str, Any]) -> None:
    script = Path(__file__).with_name("fasttext_train.py")
    # glibc: take large blocks from the kernel (zeroed) always, and zero the others (0xff means zeroes)
    clean_memory = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_PERTURB_": "255"}
    command = [sys.executable, "-P", str(script), str(lines), str(model), json.dumps(options)]
    done = subprocess.run(command, env=os.environ | clean_memory, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        msg = f"fastText could not train on {lines.stat().st_size} bytes with {options}: {done.stderr.strip()[-2000:]}"
        raise RuntimeError(msg)


_loaded: OrderedDict[str, Any] = OrderedDict()
_MAX_LOADED = 4
"""Models kept in a worker process; a fastText model takes up to a few GB."""


def digest(model: bytes) -> str:
    """sha256 of a model file, 64 hex digits: what `loaded` knows it by."""
    return hashlib.sha256(model).hexdigest()


def opened(model: bytes) -> Any:
    """The fastText model in these bytes. fastText reads files only, so they pass through a temporary one."""
    with tempfile.NamedTemporaryFile(prefix="tokenmill-model-", suffix=".bin") as file:
        file.write(model)
        file.flush()
        return _open(file.name)


def loaded(key: str, model: Callable[[], bytes]) -> Any:
    """The model with this digest, opened once per process; `model` gives its bytes when it has to be."""
    if key not in _loaded:
        _remember(key, opened(model()))
    _loaded.move_to_end(key)
    return _loaded[key]


def loaded_file(path: str) -> Any:
    """The fastText model in a local file, loaded once per process and version of the file."""
    found = os.stat(path)
    key = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}"
    if key not in _loaded:
        _remember(key, _open(path))
    _loaded.move_to_end(key)
    return _loaded[key]


def _remember(key: str, model: Any) -> None:
    _loaded[key] = model
    while len(_loaded) > _MAX_LOADED:
        _loaded.popitem(last=False)


def _open(path: str) -> Any:
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        msg = f"{path} is not a fastText model file: {error}"
        raise ValueError(msg) from error


def probabilities(model: Any, lines: pa.Array, label: str = POSITIVE) -> Float32s:
    """float32[rows]: probability of `label` for each line; rows must not be null."""
    labels = model.get_labels()
    if label not in labels:
        msg = f"the model has no label {label!r}; its labels are {', '.join(sorted(labels)[:20])}"
        raise ValueError(msg)
    if len(lines) == 0:
        return np.empty(0, np.float32)
    ended = pc.binary_join_element_wise(lines, pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string()))
    # Asking for one label of two is a sixth faster than for both: the other's probability follows.
    wanted = 1 if len(labels) == 2 else len(labels)
    names, values = model.f.multilinePredict(ended.to_pylist(), wanted, 0.0, "strict")
    if wanted == 1:
        best = np.concatenate(values)
        named = np.array(list(chain.from_iterable(names))) == label
        chance = np.where(named, best, np.float32(1) - best)
    else:
        chance = np.array([v[n.index(label)] if label in n else 0.0 for n, v in zip(names, values, strict=True)])
    return np.clip(chance, 0, 1).astype(np.float32)  # fastText adds 1e-5 to every probability


def evaluated(model: Any, lines: pa.Array, positive: Booleans, label: str = POSITIVE) -> Metrics:
    """How well the model tells the two sides apart on these lines."""
    if len(lines) == 0:
        return Metrics(0, None, None, None)
    called = probabilities(model, lines, label) >= 0.5
    right = int((called & positive).sum())
    return Metrics(
        documents=len(lines),
        precision=right / int(called.sum()) if called.any() else None,
        recall=right / int(positive.sum()) if positive.any() else None,
        accuracy=float((called == positive).mean()),
    )
