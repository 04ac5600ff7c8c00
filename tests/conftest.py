"""Shared by all tests: where the hand-out data may lie, and small documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.schema import ID_TYPE, document_id
from tests.mini_run import MINI, digest, tokenmill

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run of the mini recipe, in one process."""
    run = tmp_path_factory.mktemp("mini") / "run"
    tokenmill("run", MINI, "--out", run, "--workers", "1")
    return run


@pytest.fixture(scope="session")
def mini_digest(mini: Path) -> str:
    """Its digest; megatron-core reads it where it is installed."""
    return digest(mini)


def documents(texts: Sequence[str | None], **columns: Sequence[object] | Mapping[str, object]) -> pa.RecordBatch:
    """A batch of documents with ids d0, d1, ... and the given further columns (values, or a pa.Array)."""
    ids = pa.array([document_id(f"d{n}") for n in range(len(texts))], ID_TYPE)
    origins = pa.array([f"d{n}" for n in range(len(texts))], pa.large_string())
    arrays: dict[str, pa.Array] = {"id": ids, "origin": origins, "text": pa.array(texts, pa.large_string())}
    for name, values in columns.items():
        arrays[name] = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.RecordBatch.from_pydict(arrays)
