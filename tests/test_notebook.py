"""The notebook runs on a real small run, draws its charts, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stats.catalog import write_catalog
from tests.tiny_run import make, planned, recipe

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "bucket_statistics.ipynb"

pytestmark = pytest.mark.slow


def executed(run: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """All outputs, after a run of every cell in the notebook's own folder."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("TOKENMILL_RUN", str(run))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebook_draws_its_charts_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    make(recipe(tmp_path / "corpus"), str(run))
    write_catalog(str(run))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    outputs = executed(run, monkeypatch)
    charts = [one for one in outputs if "image/png" in one.get("data", {})]  # type: ignore[operator]
    assert len(charts) == 5
    assert not [one for one in outputs if one["output_type"] in ("error", "stream")]
    text = "".join(one["data"].get("text/plain", "") for one in outputs)  # type: ignore[attr-defined]
    assert "near_duplicate" in text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_notebook_survives_a_run_that_has_only_been_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(recipe(tmp_path / "corpus"), str(tmp_path / "run"))
    write_catalog(str(tmp_path / "run"))
    said = "".join(str(one.get("text", "")) for one in executed(tmp_path / "run", monkeypatch))
    assert "nothing was dropped" in said
    assert "no ledger yet" in said


def test_the_notebook_is_committed_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)] == []
