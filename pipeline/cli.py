"""The command `tokenmill`: plan, run, status, clean, inspect, trace, verify. Thin: each command reads as what it does."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from pipeline import __version__
from pipeline.catalog import producers
from pipeline.engine.disk import disk_trouble
from pipeline.engine.executors import opened
from pipeline.engine.graph import PlanError
from pipeline.engine.lock import RunIsLocked, holder_of, locked
from pipeline.engine.parts import read_table
from pipeline.engine.plan import Plan, make_plan, status_of
from pipeline.engine.printed import plan_json, plan_lines
from pipeline.engine.progress import duration, size_words, watching
from pipeline.engine.publish import publish_tables
from pipeline.engine.run import Driver, StepFailed, UnexpectedDrop
from pipeline.engine.storage import Storage, StorageRefused, StorageUnavailable
from pipeline.engine.task import table_path
from pipeline.ingest.paths import input_file
from pipeline.recipe import Recipe, RecipeError, load_recipe

app = typer.Typer(
    name="tokenmill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Makes the token shards of a whole pre-training curriculum out of raw input.

A **recipe** (YAML) says what to make; `run` makes it in a folder; everything else looks at that folder.

    tokenmill plan    recipes/quickstart.yaml
    tokenmill run     recipes/quickstart.yaml --out runs/quickstart
    tokenmill inspect runs/quickstart
    tokenmill trace   runs/quickstart http://docs.localhost/python/json.html
    tokenmill verify  runs/quickstart
""",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, local or s3://.")]
Out = Annotated[
    str, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run; runs/<recipe's name> by default.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one value: curriculum.scale=1e-7, datasets.code.steps.fim.rate=0.3.",
    ),
]

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)  # a pipe has no width of its own
err = Console(stderr=True, highlight=False)


def _fail(message: object, code: int = 1) -> NoReturn:
    err.print(f"[bold red]error[/] {_escaped(str(message))}", soft_wrap=True)
    raise typer.Exit(code)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _planned(path: Path, overrides: list[str] | None) -> tuple[Recipe, Plan]:
    try:
        recipe = load_recipe(path, overrides or ())
        return recipe, make_plan(recipe.chains(), recipe.seed, input_file, producers)
    except (RecipeError, PlanError) as error:
        _fail(error, 2)
    except (OSError, ValueError) as error:  # a source that cannot list its input says which
        _fail(f"{path}: {error}", 2)


def _folder(out_option: str, recipe: Recipe) -> str:
    return out_option or os.path.join("runs", recipe.name)


@app.command()
def plan(
    recipe: RecipePath,
    out_folder: Out = "",
    overrides: Sets = None,
    explain: Annotated[bool, typer.Option(help="Say under each step why it is reused or is not.")] = True,
) -> None:
    """Check a recipe and print the steps that a run would take, what is reused, and why the rest is not.

    Nothing runs and nothing is written. Columns, settings, datasets and input files are checked; every error names the
    recipe's line.

        tokenmill plan recipes/quickstart.yaml
        tokenmill plan recipes/quickstart.yaml --set datasets.code.steps.fim.rate=0.3
    """
    loaded, made = _planned(recipe, overrides)
    folder = _folder(out_folder, loaded)
    statuses = status_of(made, Storage(folder))
    reused = sum(status.done for status in statuses.values())
    out.print(
        f"[bold]{_escaped(loaded.name)}[/], seed {loaded.seed}, into {_escaped(folder)}: {len(made.steps)} steps, {reused} reused"
    )
    for line in plan_lines(made, statuses if explain else None):
        out.print(_escaped(line), style="" if line.startswith(" ") else "bold", soft_wrap=True)


@app.command()
def run(
    recipe: RecipePath,
    out_folder: Out = "",
    overrides: Sets = None,
    executor: Annotated[
        str, typer.Option(help="local: processes on this machine; ray: tasks on a Ray cluster.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Parallel tasks; 1 runs them in this process.")] = os.cpu_count()
    or 1,
    address: Annotated[
        str, typer.Option(help="Ray cluster to join, e.g. auto or ray://head:10001; empty starts a local Ray.")
    ] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain lines instead of a live table (default when not a terminal).")
    ] = False,
) -> None:
    """Make what a recipe says, in a folder. Run the same command again after any interruption: it continues.

    Finished steps and parts are reused as long as nothing that they depend on changed. The result does not depend on the
    executor or the number of workers.

        tokenmill run recipes/quickstart.yaml --out runs/quickstart --workers 8
        tokenmill run recipes/quickstart.yaml --out s3://bucket/run --executor ray --address auto
    """
    if executor not in ("local", "ray"):
        _fail(f"--executor is local or ray, not {executor!r}", 2)
    loaded, made = _planned(recipe, overrides)
    storage = Storage(_folder(out_folder, loaded))
    started = time.time()
    try:
        with locked(storage):
            _write_head(storage, loaded, made, executor, workers, started)
            with (
                opened(executor, storage.address, workers=workers, cluster=address or None) as places,
                watching(storage, places, out, title=loaded.name, workers=workers, plain=plain) as listener,
            ):
                Driver(made, storage, places, listener).run()
                _write_tail(storage, loaded, made, started)
    except (RunIsLocked, StepFailed, UnexpectedDrop, StorageUnavailable, StorageRefused) as error:
        _report_failure(storage, error)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)
    except Exception as error:
        if said := disk_trouble(error, storage.address):
            _fail(said)
        raise
    _summary(storage.address, time.time() - started)


def _report_failure(storage: Storage, error: Exception) -> NoReturn:
    if said := disk_trouble(error, storage.address):
        _fail(f"{said} ({error})")
    cause = error.__cause__
    if (
        cause is not None
        and not isinstance(cause, ValueError)
        and not isinstance(error, (StorageUnavailable, StorageRefused))
    ):
        import traceback

        err.print(_escaped("".join(traceback.format_exception(cause))), soft_wrap=True)
    if not isinstance(error, RunIsLocked):
        err.print(
            f"[dim]finished parts stay in {_escaped(storage.address)}; the same command continues from there[/]",
            soft_wrap=True,
        )
    _fail(error)


def _write_head(storage: Storage, recipe: Recipe, made: Plan, executor: str, workers: int, started: float) -> None:
    """What a run is, before anything of it is made."""
    storage.write("recipe.yaml", recipe.to_yaml().encode())
    storage.write("plan.txt", ("\n".join(plan_lines(made)) + "\n").encode())
    described = plan_json(made)
    described["name"], described["datasets"], described["mixed"] = recipe.name, list(recipe.datasets), recipe.mixed()
    storage.write_json("plan.json", described)
    storage.write_json(
        "run.json",
        {
            "tokenmill": __version__,
            "git_commit": _git_commit(),
            "python": platform.python_version(),
            "packages": {
                name: metadata.version(name) for name in ("pyarrow", "duckdb", "numba", "tokenizers", "gigatoken")
            },
            "executor": executor,
            "workers": workers,
            "started": started,
            "finished": None,
        },
    )


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's own git
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _write_tail(storage: Storage, recipe: Recipe, made: Plan, started: float) -> None:
    """The tokenizer and the curriculum in plain sight, the catalog, the timings."""
    from pipeline.stats.catalog import write_catalog

    if recipe.curriculum is not None:
        storage.write_json("curriculum/curriculum.json", json.loads(recipe.curriculum.model_dump_json()))
    if path := recipe.tokenizer_path():
        storage.write("tokenizer.json", Path(path).read_bytes())
    elif recipe.tokenizer is not None and recipe.curriculum is not None:
        table = read_table(storage, table_path(made.step("tokenizer/train").folder))
        storage.write("tokenizer.json", table["tokenizer_json"][0].as_py())
    publish_tables(made, storage)
    write_catalog(storage.address)
    head = storage.read_json("run.json")
    storage.write_json("run.json", {**head, "finished": time.time(), "seconds": round(time.time() - started, 2)})


def _summary(address: str, seconds: float) -> None:
    from pipeline.stats.catalog import connect
    from pipeline.stats.tables import summary

    with connect(address) as con:
        out.print(summary(con, address))
    out.print(f"made in {duration(seconds)}: {_escaped(address)}", soft_wrap=True)


@app.command()
def status(
    folder: RunFolder,
    steps: Annotated[bool, typer.Option("--steps", help="List every step, not only those at work.")] = False,
) -> None:
    """Say how far a run is: datasets and steps done, parts, rows, drops, pace, time left, who works there, the last error.

    Looks from anywhere, also at `s3://`, while the run goes on or after a crash; it writes nothing and takes no lock. Exit
    code: 0 done, 3 in progress or interrupted, 1 failed.

        tokenmill status runs/quickstart
        tokenmill status s3://bucket/run --steps
    """
    from pipeline.engine.run_state import run_state
    from pipeline.engine.terminal import status_lines

    state = run_state(_existing(folder))
    for line in status_lines(state, out, every_step=steps):
        out.print(line, soft_wrap=True)
    raise typer.Exit(state.exit_code)


@app.command()
def clean(
    folder: RunFolder,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only say what would go.")] = False,
) -> None:
    """Remove what a run no longer needs: steps of earlier settings, exchanged rows that were read, half-written files.

    Without `--yes` nothing is touched: a table says what would go, and how many bytes. Rows, drops and accounts of the plan
    in force stay; running the recipe again finds everything done. Going back to earlier settings makes their steps anew. Refused
    while a run works in the folder.

        tokenmill clean runs/quickstart
        tokenmill clean runs/quickstart --yes
    """
    from pipeline.engine.housekeeping import find_unneeded, remove_unneeded
    from pipeline.engine.terminal import findings_table

    storage = _existing(folder)
    try:
        if not yes and (at_work := holder_of(storage)):
            _fail(f"a run works in {storage.address} ({at_work}): nothing there is unneeded until it ends")
        findings = remove_unneeded(storage) if yes else find_unneeded(storage)
    except RunIsLocked as error:
        _fail(error)
    for note in findings.notes:
        out.print(f"[dim]{_escaped(note)}[/]", soft_wrap=True)
    if findings.groups:
        out.print(findings_table(findings))
    advice = "" if yes or not findings.groups else f"; to remove it: tokenmill clean {folder} --yes"
    out.print(
        f"{'freed' if yes else 'would free'} {size_words(findings.bytes)} in {findings.files:,} files{advice}",
        soft_wrap=True,
    )


@app.command()
def inspect(
    folder: RunFolder,
    sql: Annotated[
        str, typer.Option(help='Any DuckDB query over the catalog\'s views, e.g. "select * from ledger".')
    ] = "",
) -> None:
    """Print the bucket table of a run, or the answer to any SQL query over its catalog.

    Views: documents, drops, accounts, buckets, duplicates, supply, epochs, ledger, shards. The catalog is the file
    `catalog.duckdb` in the run, and opens in any duckdb client as well.

        tokenmill inspect runs/quickstart
        tokenmill inspect runs/quickstart --sql "select reason, count(*) from drops group by 1"
    """
    import duckdb

    from pipeline.stats.catalog import connect
    from pipeline.stats.tables import bucket_table, query_table

    _existing(folder)
    with connect(folder) as con:
        try:
            out.print(query_table(con, sql) if sql else bucket_table(con))
        except duckdb.Error as error:
            _fail(error)


@app.command()
def trace(
    folder: RunFolder,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A document id, a URL or path, or SHARD:TOKEN_OFFSET.")],
) -> None:
    """Tell one document's story: every step, score and duplicate, its bucket, the shards and token ranges that hold it.

    SHARD:TOKEN_OFFSET goes the other way: from a token in a shard to the document and the file it came from.

        tokenmill trace runs/quickstart http://docs.localhost/python/json.html
        tokenmill trace runs/quickstart runs/quickstart/megatron/general/code.bin:123456
    """
    from pipeline.stats.trace import NotFound, render
    from pipeline.stats.trace import trace as story_of

    _existing(folder)
    try:
        out.print(render(story_of(folder, what)))
    except NotFound as error:
        _fail(error)


@app.command()
def verify(
    folder: RunFolder,
    megatron: Annotated[bool, typer.Option(help="Read back through megatron-core where it is installed.")] = True,
) -> None:
    """Read back all that a run wrote, compare it with the ledger, and print the digest of its shards.

    Checksums, .idx against .bin, Arrow against Megatron, and, where the extra `[megatron]` is installed, every prefix
    through megatron-core's IndexedDataset and every phase through its blended GPT dataset. Fills `tokens_delivered`.

        tokenmill verify runs/quickstart
        tokenmill verify runs/quickstart --no-megatron
    """
    from pipeline.verify import verify_run

    storage = _existing(folder)
    report = verify_run(storage, use_megatron=megatron)
    for line in report.lines:
        out.print(_escaped(line), soft_wrap=True)
    for failure in report.failures:
        err.print(f"[bold red]FAIL[/] {_escaped(failure)}", soft_wrap=True)
    if not storage.local:  # its catalog holds tables, and the ledger has just changed
        from pipeline.stats.catalog import write_catalog

        write_catalog(storage.address)
    if report.failures:
        _fail(f"{len(report.failures)} checks failed")
    out.print(f"digest {report.digest}")


def _existing(folder: str) -> Storage:
    storage = Storage(folder)
    if not storage.exists("plan.json"):
        _fail(f"{folder}: no run here (no plan.json); make one with: tokenmill run RECIPE --out {folder}", 2)
    return storage


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except (
        StorageUnavailable,
        StorageRefused,
        PermissionError,
    ) as error:  # the message says what to do; a trace would say no more
        err.print(f"[bold red]error[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
