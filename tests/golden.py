"""Golden copies of each recipe's plan: `python -m tests.golden quickstart` writes one anew, to be read in the diff."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pipeline.catalog import producers
from pipeline.engine.plan import make_plan
from pipeline.engine.printed import plan_lines
from pipeline.ingest.paths import input_file
from pipeline.recipe import load_recipe

ROOT = Path(__file__).parents[1]


def golden_lines(recipe: Path) -> list[str]:
    """The plan without what depends on the machine: the number of a source's parts."""
    loaded = load_recipe(recipe)
    plan = make_plan(loaded.chains(), loaded.seed, input_file, producers)
    return [re.sub(r"  \d+ parts$", "", line) for line in plan_lines(plan)]


def path_of(name: str) -> Path:
    """Where the golden copy lies."""
    return ROOT / "tests" / "golden_plans" / f"{name}.txt"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path_of(name).write_text("\n".join(golden_lines(ROOT / "recipes" / f"{name}.yaml")) + "\n")
