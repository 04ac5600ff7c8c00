"""The command line: its commands and options are few and frozen, its help teaches, its errors and exit codes tell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.engine.lock import locked
from pipeline.engine.printed import plan_json
from pipeline.engine.storage import Storage
from tests.test_engine import chain, corpus, plan_of, run
from tests.toy_stages import MinLength, SortedTexts

__all__ = ["corpus"]

# Knobs go in recipes, where they are part of a step's identity and of the run's record. An option is for what is neither:
# where a run lies, what runs it, how it is shown. Add one here only with that in mind.
FROZEN = {
    "plan": {"RECIPE", "--out", "--set", "--explain"},
    "run": {"RECIPE", "--out", "--set", "--executor", "--workers", "--address", "--plain"},
    "status": {"RUN", "--steps"},
    "clean": {"RUN", "--yes"},
    "inspect": {"RUN", "--sql"},
    "trace": {"RUN", "WHAT"},
    "verify": {"RUN", "--megatron"},
}

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def tokenmill(*words: str | Path) -> tuple[int, str]:
    """Exit code and all that was printed, in one line."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.fixture
def finished(corpus: Path, tmp_path: Path) -> Path:
    """A small run with one exchange, finished."""
    plan = plan_of(chain(corpus, MinLength(), SortedTexts()))
    storage = Storage(str(tmp_path / "run"))
    storage.write_json("plan.json", {"name": "toy", **plan_json(plan)})
    run(plan, tmp_path / "run")
    storage.write_json("run.json", {"executor": "local", "workers": 1, "finished": 1.0, "seconds": 2.0})
    return tmp_path / "run"


def test_commands_and_options_are_the_frozen_ones() -> None:
    found = {
        name: {p.opts[0] if p.param_type_name == "option" else p.metavar for p in command.params if p.name != "help"}
        for name, command in COMMANDS.items()
    }
    assert found == FROZEN


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_the_help_of_every_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    code, text = tokenmill(name, "--help")
    assert code == 0
    assert re.search(rf" tokenmill {name} (recipes|runs|s3:)/", text)
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name}: {parameter.name} is not explained"


def test_the_command_alone_lists_all_commands() -> None:
    code, text = tokenmill()
    assert code in (0, 2)
    assert all(f" {name} " in text for name in FROZEN)


@pytest.mark.parametrize(
    "words", [("status",), ("clean",), ("clean", "--yes"), ("inspect",), ("verify",), ("trace", "x")]
)
def test_a_folder_without_a_run_is_told_with_what_makes_one(words: tuple[str, ...], tmp_path: Path) -> None:
    code, text = tokenmill(words[0], tmp_path, *words[1:])
    assert code == 2
    assert "no run here (no plan.json); make one with: tokenmill run RECIPE --out" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "no-such.yaml"), "no-such.yaml"),
        (("run", "x.yaml", "--executor", "slurm"), "--executor is local or ray, not 'slurm'"),
        (("run", "x.yaml", "--workers", "0"), "workers"),
        (("clean",), "Missing argument"),
        (("statsu",), "No such command"),
    ],
)
def test_a_wrong_command_line_ends_in_2_and_names_what_is_wrong(words: tuple[str, ...], said: str) -> None:
    code, text = tokenmill(*words)
    assert code == 2
    assert said in text


def test_status_tells_the_state_in_words_and_in_its_exit_code(finished: Path) -> None:
    code, text = tokenmill("status", finished)
    assert (code, "toy 2 of 2 steps" in text, " done " in text) == (0, True, True)
    assert "`tokenmill clean` would free" in text
    with locked(Storage(str(finished))):
        code, text = tokenmill("status", finished)
    assert (code, "in progress: process" in text) == (3, True)
    manifest = next(finished.glob("datasets/toy/01-*/manifest.json"))
    manifest.unlink()
    code, text = tokenmill("status", finished)
    assert (code, "interrupted: nobody works there" in text) == (3, True)
    error = {"error": "StepFailed", "message": "toy/x, part 2 failed: [no] memory"}
    (finished / "progress.json").write_text(json.dumps({"state": "failed", "error": error}))
    code, text = tokenmill("status", finished)
    assert (code, "failed: toy/x, part 2 failed: [no] memory" in text) == (1, True)


def test_status_lists_every_step_when_asked(finished: Path) -> None:
    assert "by_first_word/exchange/rows" not in tokenmill("status", finished)[1]
    assert "by_first_word/exchange/rows" in tokenmill("status", finished, "--steps")[1]


def test_clean_removes_only_with_yes_and_refuses_while_a_run_works_there(finished: Path) -> None:
    exchanged = sorted(finished.glob("datasets/toy/*/part-*.exchange*"))
    code, text = tokenmill("clean", finished)
    assert code == 0
    assert "exchange files datasets/toy/00-by_first_word.exchange-" in text
    assert re.search(r"would free [\d.]+ k?B in \d+ files; to remove it: tokenmill clean .* --yes", text)
    with locked(Storage(str(finished))):
        for words in ((), ("--yes",)):
            code, text = tokenmill("clean", finished, *words)
            assert (code, "works in" in text) == (1, True)
    assert sorted(finished.glob("datasets/toy/*/part-*.exchange*")) == exchanged
    code, text = tokenmill("clean", finished, "--yes")
    assert (code, "freed" in text) == (0, True)
    assert not list(finished.glob("datasets/toy/*/part-*.exchange*"))
    assert "freed 0 B in 0 files" in tokenmill("clean", finished, "--yes")[1]
