"""Recipes: what is understood, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalog import producers
from pipeline.engine.graph import PlanError
from pipeline.engine.plan import make_plan
from pipeline.ingest.paths import input_file
from pipeline.recipe import RecipeError, load_recipe
from pipeline.text.gopher import GopherQuality

RECIPE = """\
name: example
seed: 7
tokenizer: {train: {vocabulary: 500, from: [notes]}}
datasets:
  notes:
    from: {kind: jsonl, paths: "%s/*.jsonl"}
    steps:
      - {kind: exact_dedup, partitions: 2}
      - kind: gopher_quality
        min_words: 5
        expect_drop: [0.0, 0.9]
      - {kind: fim, rate: 0.5}
  long:
    from: notes@gopher_quality
    steps:
      - {kind: select_long, min_tokens: 1000}
  all:
    from: [notes, long]
curriculum:
  scale: 1e-6
  phases:
    - {name: one, tokens: 15T, sequence_length: 64, packing: concatenate, mix: {notes: 1.0}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text('{"text": "hello"}\n')
    path = tmp_path / "example.yaml"
    path.write_text(RECIPE % tmp_path)
    return path


def changed(recipe: Path, old: str, new: str) -> Path:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    return recipe


def test_a_recipe_becomes_typed_stages_in_chains(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert (loaded.name, loaded.seed, list(loaded.datasets)) == ("example", 7, ["notes", "long", "all"])
    quality = next(s for s in loaded.datasets["notes"].steps if s.name == "gopher_quality")
    assert isinstance(quality.stage, GopherQuality)
    assert (quality.stage.min_words, quality.expect_drop, quality.where) == (5, (0.0, 0.9), "example.yaml:9")
    assert [c.name for c in loaded.chains()] == ["notes", "long", "all", "tokenizer", "curriculum"]
    plan = make_plan(loaded.chains(), loaded.seed, input_file, producers)
    assert {"notes/token_shards", "curriculum/ledger", "all/as_it_is"} <= {step.key for step in plan.steps}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate: 0.5", "ratee: 0.5", r"example.yaml:12: unknown key 'ratee' of 'fim' \(did you mean 'rate'\?\); legal keys are rate, psm"),
        ("kind: fim", "kind: fin", r"example.yaml:12: unknown kind 'fin' \(did you mean 'fim'\?\); kinds are .*exact_dedup"),
        ("kind: fim", "kind: jsonl", r"example.yaml:12: 'jsonl' is a source: it belongs after from"),
        ("kind: jsonl", "kind: fim", r"example.yaml:6: 'fim' is a step: it belongs into steps; sources are .*jsonl"),
        ("seed: 7", "seeed: 7", r"example.yaml:2: unknown key 'seeed' \(did you mean 'seed'\?\)"),
        ("seed: 7", "seed: seven", r"example.yaml:2: seed is a whole number, not 'seven'"),
        ("rate: 0.5", "rate: many", r"example.yaml:12: 'fim': rate: Input should be a valid number.*found 'many'"),
        ("notes@gopher_quality", "note@x", r"example.yaml:14: from: 'note@x' is no dataset \(did you mean 'notes'\?\); datasets are notes, long, all"),
        ("[0.0, 0.9]", "[0.9, 0.1]", r"example.yaml:11: expect_drop is \[low, high\] with 0 <= low <= high <= 1"),
        ("mix: {notes: 1.0}", "mix: {nots: 1.0}", "mixes 'nots', which is no dataset; datasets are notes, long, all"),
        ("mix: {notes: 1.0}", "mix: {notes: 0.7}", "0.7"),
        ("from: [notes]}", "from: [nobody]}", "tokenizer.train.from: 'nobody' is no dataset"),
        ("tokenizer: {train: {vocabulary: 500, from: [notes]}}", "description: none", r"a curriculum needs a tokenizer"),
        ("name: example", "name: [", r"example.yaml:\d+: not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_the_legal_values(recipe: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(changed(recipe, old, new))


def test_an_unknown_step_of_another_dataset_is_an_error_that_lists_the_steps(recipe: Path) -> None:
    loaded = load_recipe(changed(recipe, "notes@gopher_quality", "notes@gopher"))
    with pytest.raises(
        PlanError,
        match=r"dataset 'notes' has no step 'gopher'; its steps are \['jsonl', 'exact_dedup', 'gopher_quality', 'fim'",
    ):
        make_plan(loaded.chains(), 7, input_file, producers)


def test_a_missing_column_names_step_column_and_who_could_add_it(recipe: Path) -> None:
    loaded = load_recipe(changed(recipe, "min_words: 5", "when: quality_rank < 12"))
    with pytest.raises(
        PlanError,
        match=r"example.yaml:9: step 'gopher_quality' of dataset 'notes' needs column 'quality_rank', which is not there",
    ):
        make_plan(loaded.chains(), 7, input_file, producers)


def test_set_overrides_one_value_by_name_kind_or_position(recipe: Path) -> None:
    loaded = load_recipe(
        recipe, ["curriculum.scale=1e-9", "datasets.notes.steps.fim.rate=0.25", "datasets.long.steps.0.min_tokens=7"]
    )
    assert loaded.curriculum is not None
    assert loaded.curriculum.scale == 1e-9
    assert loaded.resolved["datasets"]["notes"]["steps"][2]["rate"] == 0.25
    assert loaded.resolved["datasets"]["long"]["steps"][0]["min_tokens"] == 7
    with pytest.raises(
        RecipeError, match=r"there is no 'fum' in the list; it holds \['exact_dedup', 'gopher_quality', 'fim'\]"
    ):
        load_recipe(recipe, ["datasets.notes.steps.fum.rate=0.25"])


def test_a_recipe_extends_another_mapping_by_mapping(recipe: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: example.yaml\nname: child\ncurriculum: {scale: 1e-7}\n")
    loaded = load_recipe(child)
    assert loaded.curriculum is not None
    assert (loaded.name, loaded.seed, loaded.curriculum.scale) == ("child", 7, 1e-7)
    recipe.write_text("extends: child.yaml\n" + recipe.read_text())
    with pytest.raises(RecipeError, match="extend each other in a circle"):
        load_recipe(child)


def test_an_error_in_an_extended_recipe_names_that_file(recipe: Path, tmp_path: Path) -> None:
    changed(recipe, "rate: 0.5", "ratee: 0.5")
    child = tmp_path / "child.yaml"
    child.write_text("extends: example.yaml\nname: child\n")
    with pytest.raises(RecipeError, match=r"example.yaml:12: unknown key 'ratee'"):
        load_recipe(child)


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="more than 100000 values"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [true]", "- a\n- b\n", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"odd.yaml"):
        load_recipe(path)


def test_an_absent_or_undecodable_recipe_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe: No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match="byte 9 is not"):
        load_recipe(tmp_path / "latin.yaml")
