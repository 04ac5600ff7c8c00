"""The picture of who imports whom (DESIGN section 2), kept true by reading the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGE_FOLDERS = {"ingest", "text", "quality", "dedup", "code", "synth", "longctx", "tokens", "curriculum"}
ALLOWED = {
    "kernels": set(),
    "schema": set(),
    "stage": {"schema"},
    "engine": {"schema", "stage"},
    "stats": {"schema"},
    "catalog": {"schema", "stage", *STAGE_FOLDERS},
    "recipe": {"schema", "stage", "catalog", "tokens", "curriculum"},
    "verify": {"schema", "engine", "tokens", "curriculum"},
    "cli": None,  # everything
    "__init__": set(),
    **{folder: {"schema", "stage", "kernels"} for folder in STAGE_FOLDERS},
}


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "pipeline")
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] in ("pipeline", "classifiers")}


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_imports_only_what_the_picture_allows(path: Path) -> None:
    parts = path.relative_to(ROOT / "pipeline").with_suffix("").parts
    own = parts[0]
    allowed = ALLOWED[own]
    if allowed is None:
        return
    for name in imports_of(path):
        pieces = name.split(".")
        assert pieces[0] == "pipeline", f"{path} imports {name}: pipeline never imports classifiers"
        if len(pieces) == 1 or pieces[1] in (own, "__version__"):
            continue
        assert pieces[1] in allowed, f"pipeline/{'/'.join(parts)} imports {name}; allowed are {sorted(allowed)}"


def test_classifiers_import_schema_kernels_and_the_trainer_that_quality_applies() -> None:
    for path in sorted((ROOT / "classifiers").rglob("*.py")):
        for name in imports_of(path):
            assert name == "pipeline" or name.startswith(
                ("classifiers", "pipeline.schema", "pipeline.stage", "pipeline.kernels", "pipeline.quality")
            ), f"{path} imports {name}"
