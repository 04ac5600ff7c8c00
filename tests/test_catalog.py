"""The catalog's contract on a real small run: views, sums, partial and superseded and moved runs, object storage."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from rich.console import Console, RenderableType

from pipeline.curriculum.ledger import with_delivered
from pipeline.engine.plan import Plan
from pipeline.engine.run import Manifest
from pipeline.stats.catalog import CATALOG, connect, write_catalog
from pipeline.stats.run_files import NoRun
from pipeline.stats.tables import bucket_table, percent, query_table, short, summary, weight
from tests.tiny_run import FILES, PAGES, make, planned, recipe

CONTRACT = {  # DESIGN.md section 5
    "documents": "id dataset origin language chars tokens bucket kept",
    "drops": "id dataset step reason chars",
    "accounts": "dataset step kind part rows_in rows_out rows_dropped",
    "buckets": "dataset language bucket documents tokens score_min score_mean score_max",
    "duplicates": "id keeper_id cluster_id cluster_size method similarity",
    "supply": "dataset bucket documents tokens",
    "epochs": "phase dataset bucket epoch_weight tokens_available tokens_planned",
    "ledger": "phase dataset bucket epoch_weight tokens_planned tokens_written tokens_delivered",
    "shards": "phase dataset bucket slice path format sequences tokens bytes checksum",
}

Made = tuple[Path, Plan, dict[str, Manifest]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run, in a folder whose name DuckDB would take for a pattern."""
    folder = tmp_path_factory.mktemp("tiny")
    run = folder / "a [run]*"
    plan, done = make(recipe(folder / "corpus"), str(run))
    write_catalog(str(run))
    return run, plan, done


@pytest.fixture
def con(made: Made) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(str(made[0])) as connection:
        yield connection


def names(con: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    return {row[0]: row[1] for row in con.execute(f"describe {view}").fetchall()}


def one(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[object, ...]:
    rows: list[tuple[object, ...]] = con.execute(sql).fetchall()
    return rows[0]


@pytest.mark.parametrize("view", CONTRACT)
def test_every_view_begins_with_the_columns_of_the_contract(con: duckdb.DuckDBPyConnection, view: str) -> None:
    wanted = CONTRACT[view].split()
    assert list(names(con, view))[: len(wanted)] == wanted


def test_a_plain_client_in_another_directory_reads_the_same_catalog(made: Made, tmp_path: Path) -> None:
    code = "import duckdb, sys; con = duckdb.connect(sys.argv[1], read_only=True); print(con.execute('select count(*) from documents').fetchall()[0][0])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(made[0] / CATALOG)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == PAGES + 3 + 30 + FILES + 4


def test_every_page_is_kept_or_dropped_once_with_its_reason(con: duckdb.DuckDBPyConnection) -> None:
    rows = con.execute(
        "select kept, reason, count(*) from documents where dataset = 'web' group by all order by all"
    ).fetchall()
    assert [(kept, (reason or "").split(" (")[0], count) for kept, reason, count in rows] == [
        (False, "near_duplicate", 1),
        (False, "same_text", 1),
        (False, "unreadable: not JSON", 1),
        (True, "", PAGES),
    ]


def test_documents_of_a_dataset_that_no_phase_mixes_have_characters_but_no_tokens(
    con: duckdb.DuckDBPyConnection, made: Made
) -> None:
    rows = con.execute(
        "select origin, chars, tokens, bucket from documents where dataset = 'books' order by origin"
    ).fetchall()
    folder = made[0] / made[1].step("books/jsonl").folder
    expected = {row["origin"]: len(row["text"]) for row in pq.read_table(folder / "part-00000.parquet").to_pylist()}
    assert {origin: chars for origin, chars, _, _ in rows} == expected
    assert {(tokens, bucket) for _, _, tokens, bucket in rows} == {(None, None)}


def test_accounts_balance_and_drops_are_as_many_as_they_say(con: duckdb.DuckDBPyConnection, made: Made) -> None:
    off = con.execute(
        "select dataset, step from accounts where kind not in ('expand', 'fold') group by all "
        "having sum(rows_in) <> sum(rows_out) + sum(rows_dropped)"
    ).fetchall()
    assert off == []
    assert one(con, "select count(*) from drops") == one(con, "select sum(rows_dropped)::bigint from accounts") == (3,)
    accounts = sum(len(account.stages) for manifest in made[2].values() for account in manifest.accounts)
    assert one(con, "select count(*) from accounts") == (accounts,)


def test_duplicates_name_keepers_that_are_kept_and_how_they_were_found(con: duckdb.DuckDBPyConnection) -> None:
    rows = con.execute(
        "select u.method, u.cluster_size, k.kept, u.similarity >= 0.9 from duplicates u join documents k on k.id = u.keeper_id "
        "order by method"
    ).fetchall()
    assert rows == [("exact", 2, True, True), ("minhash", 2, True, True)]


def test_buckets_sum_to_the_supply_and_to_the_token_shards_themselves(
    con: duckdb.DuckDBPyConnection, made: Made
) -> None:
    buckets = con.execute(
        "select dataset, bucket, sum(documents)::bigint, sum(tokens)::bigint from buckets where tokens is not null group by all order by all"
    ).fetchall()
    assert buckets == con.execute("select dataset, bucket, documents, tokens from supply order by all").fetchall()
    found: dict[tuple[str, str], list[int]] = {}
    for path in (made[0] / "tokens").rglob("*.arrow"):
        table = pyarrow.ipc.open_file(path).read_all()
        total = found.setdefault((path.parts[-3], path.parts[-2]), [0, 0])
        total[0] += table.num_rows
        total[1] += sum(map(len, table["tokens"].to_pylist()))
    assert {(d, b): [n, t] for d, b, n, t in buckets} == found
    assert one(con, "select count(*) from buckets where score_min > score_mean or score_mean > score_max") == (0,)
    assert one(con, "select count(*) from buckets where dataset = 'web' and score_mean is not null") == (2,)


@pytest.mark.parametrize("form", ["megatron", "arrow"])
def test_shards_times_reads_are_what_the_ledger_calls_written(con: duckdb.DuckDBPyConnection, form: str) -> None:
    shards = con.execute(
        "select phase, dataset, bucket, sum(tokens * reads)::bigint from shards where format = ? group by all order by all",
        [form],
    ).fetchall()
    ledger = con.execute("select phase, dataset, bucket, tokens_written from ledger order by all").fetchall()
    assert shards == ledger
    assert all(os.path.getsize(path) == size for path, size in con.execute("select path, bytes from shards").fetchall())


def test_verified_tokens_show_up_without_writing_the_catalog_anew(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    write_catalog(str(run))
    path = run / "curriculum" / "ledger.parquet"
    ledger = pq.read_table(path)
    rows = ledger.to_pylist()
    delivered = {(r["phase"], r["dataset"], r["bucket"]): r["tokens_written"] for r in rows}
    pq.write_table(with_delivered(ledger, delivered, "tokenmill"), path)
    with duckdb.connect(str(run / CATALOG), read_only=True) as con:
        assert con.execute(
            "select distinct delivered_by, tokens_delivered = tokens_written from ledger"
        ).fetchall() == [("tokenmill", True)]


def test_folders_of_earlier_settings_and_their_ledger_do_not_count(tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", str(tmp_path / "run")
    make(recipe(corpus), run)
    plan, _ = make(recipe(corpus, repos=7_000), run)
    assert len(list((tmp_path / "run" / "datasets" / "curriculum").glob("*-solution-*"))) == 2
    with connect(run) as con:
        assert one(con, "select sum(tokens_planned)::bigint from ledger where phase = 'repo_code'") == (7_000,)
        assert one(con, "select count(*) from accounts where step = 'solution'") == (1,)
    planned(recipe(corpus), run)  # back to the first settings: the published copies are still the second's
    with connect(run) as con:
        assert one(con, "select sum(tokens_planned)::bigint from ledger where phase = 'repo_code'") == (6_000,)
        assert one(con, "select count(*) from ledger where tokens_written is null") == (0,)
    assert plan.steps


def test_a_run_that_has_only_been_planned_has_empty_views_of_the_same_types(made: Made, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    planned(recipe(tmp_path / "corpus"), run)
    with connect(run) as empty, connect(str(made[0])) as full:
        for view in CONTRACT:
            assert one(empty, f"select count(*) from {view}") == (0,)
            assert names(empty, view) == names(full, view)


def test_an_interrupted_run_counts_the_parts_that_have_an_account(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    plan = made[1]
    index, signatures = (
        run / plan.step("web/token_shards").folder,
        run / plan.step("web/minhash_dedup/signatures").folder,
    )
    for folder in (index, signatures):
        (folder / "manifest.json").unlink()
    (signatures / "account" / "part-00001.json").unlink()
    shutil.rmtree(run / plan.step("curriculum/supply").folder)
    with connect(str(run)) as con:
        assert one(con, "select count(*), count(tokens) from documents where dataset = 'web' and kept") == (PAGES, 0)
        assert one(con, "select count(*) from supply") == (0,)
        parts = con.execute("select distinct part from accounts where step = 'exact_dedup/keep_first'").fetchall()
        assert parts == [(0,)]
        drops = json.loads((signatures / "account" / "part-00000.json").read_text())["reasons"]
        assert one(con, "select count(*) from drops where step = 'exact_dedup/keep_first'") == (sum(drops.values()),)


def test_a_moved_run_gets_a_catalog_that_points_to_its_new_place(made: Made, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(made[0], before)
    write_catalog(str(before))
    after = tmp_path / "it's here"
    before.rename(after)
    with connect(str(after)) as con:
        assert one(con, "select count(*) from documents where dataset = 'code'") == (FILES,)
        assert all(path.startswith(str(after)) for (path,) in con.execute("select path from shards").fetchall())


def test_thousands_of_folders_are_one_scan(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    source = made[0] / made[1].step("web/minhash_dedup/signatures").folder
    steps = []
    for number in range(1500):
        folder = f"datasets/d{number}/00-signatures-{number:08x}"
        (run / folder / "drops").mkdir(parents=True)
        (run / folder / "account").mkdir()
        name = "part-00000"
        for part in sorted((source / "drops").glob("*.parquet")):
            shutil.copy(part, run / folder / "drops" / f"{name}.parquet")
        shutil.copy(source / "account" / f"{name}.json", run / folder / "account" / f"{name}.json")
        files = [{"path": f"{folder}/drops/{name}.parquet", "bytes": 1, "checksum": ""}]
        (run / folder / "manifest.json").write_text(json.dumps({"parts": 1, "rows": 0, "seconds": 0.1, "files": files}))
        steps.append(
            {"key": f"d{number}/signatures", "dataset": f"d{number}", "label": "signatures", "kind": "rows", "folder": folder,
             "nodes": [], "publish": None, "keep": False}
        )  # fmt: skip
    (run / "plan.json").write_text(json.dumps({"seed": 1, "datasets": [], "mixed": [], "steps": steps, "nodes": []}))
    started = time.perf_counter()
    with connect(str(run)) as con:
        assert one(con, "select count(distinct dataset), count(*) from drops") == (1500, 1500)
        assert one(con, "select count(distinct folder) from accounts") == (1500,)
    assert time.perf_counter() - started < 60


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="no run here"):
        connect(str(tmp_path))


# ---------------------------------------------------------------------------------------------------- tables


def printed(item: RenderableType, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(item)
    return console.export_text()


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1_250_000, "1.25M"),
        (999_999, "1.00M"),
        (99_960, "100K"),
        (9_996, "10.0K"),
        (15e12, "15.0T"),
    ],
)
def test_numbers_are_shortened_to_three_digits(number: float | None, shown: str) -> None:
    assert short(number) == shown


def test_shares_and_weights_never_claim_what_is_not_there() -> None:
    assert [percent(None, 1), percent(1, 0), percent(1, 10_000), percent(0, 5), percent(1, 3)] == [
        "-",
        "-",
        "<0.1%",
        "0.0%",
        "33.3%",
    ]
    assert [weight(None), weight(0), weight(3.2), weight(1.0328)] == ["-", "0", "3.2", "1.03"]


def test_the_summary_fits_a_hundred_columns_and_says_the_ledgers_numbers(
    con: duckdb.DuckDBPyConnection, made: Made
) -> None:
    lines = printed(summary(con, "runs/tiny")).splitlines()
    assert max(map(len, lines)) <= 100
    phase = next(line.split() for line in lines if line.startswith("general"))
    planned_tokens, written = one(
        con, "select sum(tokens_planned)::bigint, sum(tokens_written)::bigint from ledger where phase = 'general'"
    )
    assert phase[1:4] == [short(planned_tokens), short(written), "-"]  # type: ignore[arg-type]
    web = next(line for line in lines if line.split()[:1] == ["web"] and "high" in line)
    assert "low 1.03, high 3.00" in web  # worst to best, as the curriculum has them
    assert any(line.split()[:4] == ["web", "exact_dedup/keep_first", "same_text", "1"] for line in lines)
    assert any("runs/tiny/megatron/<phase>/" in line for line in lines)


def test_the_bucket_table_orders_buckets_from_worst_to_best(con: duckdb.DuckDBPyConnection) -> None:
    text = printed(bucket_table(con))
    assert max(map(len, text.splitlines())) <= 100
    web = [line.split() for line in text.splitlines()[1:] if " en" in line]
    assert text.index(" low ") < text.index(" high ")
    assert web[1][:2] == ["high", str(one(con, "select documents from supply where bucket = 'high'")[0])]
    assert web[1][-2:] == ["3", "en"]


def test_a_query_shows_wide_rows_within_the_terminal_and_nulls_as_dashes(con: duckdb.DuckDBPyConnection) -> None:
    text = printed(query_table(con, "select * from ledger"))
    assert "tokens_\n" not in text
    assert "18,585" in text
    assert text.rstrip().endswith("4 rows")
    assert printed(query_table(con, "select null as nothing, true as yes")).split() == [
        "nothing",
        "yes",
        "-",
        "True",
        "1",
        "row",
    ]


def test_a_plan_without_results_still_has_its_tables(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    planned(recipe(tmp_path / "corpus"), run)
    with connect(run) as con:
        assert printed(bucket_table(con)).strip() == "no documents yet"
        assert "catalog.duckdb" in printed(summary(con, run)).replace("\n", "")


# ---------------------------------------------------------------------------------------------------- object storage


@pytest.fixture
def bucket() -> Iterator[str]:
    """`s3://runs` on a server of this test's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        try:
            import s3fs

            for _ in range(100):
                try:
                    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("catalogs")
                    break
                except OSError:
                    time.sleep(0.2)
            yield "s3://catalogs"
        finally:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_the_catalog_of_a_run_on_an_object_store_holds_the_same_rows(made: Made, bucket: str, tmp_path: Path) -> None:
    import s3fs

    from pipeline.stats.trace import trace

    plain = shutil.copytree(made[0], tmp_path / "run")  # fsspec would take the other name for a pattern
    s3fs.S3FileSystem(skip_instance_cache=True).put(f"{plain}/", f"{bucket}/tiny/", recursive=True)
    assert write_catalog(f"{bucket}/tiny") == f"{bucket}/tiny/{CATALOG}"
    with connect(f"{bucket}/tiny") as far, connect(str(made[0])) as near:
        for view in CONTRACT:
            columns = ", ".join(CONTRACT[view].split()).replace("path", "split_part(path, '/', -1)")
            sql = f"select {columns} from {view} order by all"
            assert far.execute(sql).fetchall() == near.execute(sql).fetchall(), view
    url = "http://pages.test/9.html"
    assert trace(f"{bucket}/tiny", url).chapters == trace(str(made[0]), url).chapters
