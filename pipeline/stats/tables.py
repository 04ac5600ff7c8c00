"""What a person wants to see of a run, as tables for a terminal of 100 columns, read from the catalog only.

Numbers are shortened to three digits (`1.25M`): the catalog has the exact ones. A missing number is a dash, never a 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import groupby
from typing import Any

import duckdb
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.stats.catalog import CATALOG
from pipeline.stats.run_files import first_row

TOP_DROPS = 12
TOP_STEPS = 12
TOP_LANGUAGES = 3
MAX_QUERY_ROWS = 1000
WIDTH = 100

_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def short(number: float | None) -> str:
    """Three digits and a unit: 1250000 is `1.25M`, 999 is `999`, null is a dash."""
    if number is None:
        return "-"
    for size, unit in _UNITS:
        if abs(number) >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def percent(part: float | None, whole: float | None) -> str:
    """`12.3%`, or a dash where there is nothing to compare; what is there but rounds to nothing is `<0.1%`."""
    if part is None or not whole:
        return "-"
    share = 100 * part / whole
    return "<0.1%" if 0 < share < 0.05 else f"{share:.1f}%"


def weight(epochs: float | None) -> str:
    """`3.2`, `1.03`, `0`."""
    return "-" if epochs is None else f"{epochs:.2f}".rstrip("0").rstrip(".")


# ---------------------------------------------------------------------------------------------------- buckets


def bucket_table(con: duckdb.DuckDBPyConnection) -> RenderableType:
    """Every dataset's buckets, worst to best: documents, tokens, scores, and how often the curriculum shows them."""
    table = _table("dataset", "bucket", ">documents", ">chars", ">tokens", ">share", ">score", ">epochs", "languages")
    languages = _languages(con)
    rows = con.execute(_BUCKETS).fetchall()
    for dataset, group in groupby(rows, key=lambda row: row[0]):
        buckets = list(group)
        total = sum(row[4] or 0 for row in buckets)
        for number, (_, bucket, documents, chars, tokens, mean, epochs) in enumerate(buckets):
            score = "-" if mean is None else f"{mean:.3f}"
            table.add_row(
                Text(dataset if number == 0 else "", style="bold"), Text(bucket or "-"), short(documents), short(chars),
                short(tokens), percent(tokens, total), score, weight(epochs),
                Text(languages.get((dataset, bucket), "-"), style="dim", overflow="ellipsis"),
                end_section=number == len(buckets) - 1,
            )  # fmt: skip
    return table if rows else Text("no documents yet", style="dim")


# Buckets have no order of their own in the catalog: their scores give it, and where there are none their epochs.
_BUCKETS = """
WITH found AS (
    SELECT dataset, bucket, sum(documents)::BIGINT AS documents, sum(chars)::BIGINT AS chars,
        sum(tokens)::BIGINT AS tokens,
        sum(score_mean * documents) / sum(documents) FILTER (score_mean IS NOT NULL) AS mean
    FROM buckets GROUP BY ALL),
seen AS (SELECT dataset, bucket, sum(epoch_weight) AS epochs FROM epochs GROUP BY ALL),
places AS (SELECT dataset, min(number) AS place FROM steps GROUP BY ALL)
SELECT found.dataset, found.bucket, documents, chars, tokens, mean, epochs
FROM found LEFT JOIN places USING (dataset)
LEFT JOIN seen ON found.dataset = seen.dataset AND found.bucket = seen.bucket
ORDER BY place, mean NULLS FIRST, epochs, found.bucket
"""


def _languages(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str | None], str]:
    """Per dataset and bucket, the most frequent languages with their shares."""
    rows = con.execute(
        "SELECT dataset, bucket, language, sum(documents)::BIGINT AS n FROM buckets GROUP BY ALL "
        "ORDER BY dataset, bucket, n DESC, language"
    ).fetchall()
    found = {}
    for key, group in groupby(rows, key=lambda row: (row[0], row[1])):
        counted = [(row[2] or "unknown", row[3]) for row in group]
        total = sum(count for _, count in counted)
        names = [
            name if count == total else f"{name} {100 * count / total:.0f}%" for name, count in counted[:TOP_LANGUAGES]
        ]
        more = len(counted) - TOP_LANGUAGES
        found[key] = ", ".join(names) + (f", +{more}" if more > 0 else "")
    return found


# ---------------------------------------------------------------------------------------------------- summary


def summary(con: duckdb.DuckDBPyConnection, run: str) -> RenderableType:
    """The end of a run: what each phase got, what was dropped and why, where the time went, where the outputs are."""
    parts = [part for part in (_phases(con), _drops(con), _times(con), _outputs(con, run)) if part is not None]
    return Group(*(Padding(part, (1, 0, 0, 0)) for part in parts))


def _phases(con: duckdb.DuckDBPyConnection) -> RenderableType | None:
    rows = con.execute(_PHASES).fetchall()
    if not rows:
        return None
    curriculum = sum(row[2] for row in rows)
    table = _table(
        "phase, dataset",
        ">planned",
        ">written",
        ">delivered",
        ">fill",
        ">share",
        "epochs per bucket",
        title="Curriculum, in tokens",
    )
    for phase, group in groupby(rows, key=lambda row: row[0]):
        datasets = list(group)
        planned, written, delivered = (_sum(row[at] for row in datasets) for at in (2, 3, 4))
        _phase_row(table, Text(phase, style="bold"), (planned, written, delivered), curriculum, "", style="bold")
        for _, dataset, *numbers, epochs in datasets:
            _phase_row(table, Text(f"  {dataset}"), numbers, planned, epochs or "all buckets 0")
    return Group(table, _delivered_by(con))


def _phase_row(
    table: Table, name: Text, numbers: Sequence[int | None], whole: int | None, epochs: str, style: str = ""
) -> None:
    """Planned, written, delivered; filled as far as delivered, or written where nobody has counted yet."""
    planned, written, delivered = numbers
    fill = percent(delivered if delivered is not None else written, planned)
    cells = (*(short(number) for number in numbers), fill, percent(planned, whole))
    table.add_row(name, *(Text(cell, style=style) for cell in cells), Text(epochs))


_PHASES = """
WITH rows AS (SELECT *, row_number() OVER () AS number FROM ledger)
SELECT phase, dataset, sum(tokens_planned)::BIGINT, sum(tokens_written)::BIGINT, sum(tokens_delivered)::BIGINT,
    string_agg(bucket || ' ' || printf('%.2f', epoch_weight), ', ' ORDER BY number) FILTER (epoch_weight > 0)
FROM rows GROUP BY phase, dataset ORDER BY min(phase_index), min(number)
"""


def _delivered_by(con: duckdb.DuckDBPyConnection) -> Text:
    found = first_row(con, "SELECT string_agg(DISTINCT delivered_by, ', ') FROM ledger")
    by = found[0] if found else None
    if by is None:
        return Text("delivered: not counted yet; `tokenmill verify` reads the shards back", style="dim")
    return Text(f"delivered: counted by {by}; fill: delivered over planned", style="dim")


def _drops(con: duckdb.DuckDBPyConnection) -> RenderableType | None:
    rows = con.execute(_DROPS).fetchall()
    if not rows:
        return None
    table = _table("dataset", "step", "reason", ">documents", ">of those met", title="Drops")
    for dataset, step, reason, documents, met in rows[:TOP_DROPS]:
        reason = Text(reason, overflow="ellipsis", no_wrap=True)
        table.add_row(Text(dataset), Text(step), reason, f"{documents:,}", percent(documents, met))
    if len(rows) > TOP_DROPS:
        rest = rows[TOP_DROPS:]
        table.add_row(
            "", "", Text(f"{len(rest)} more reasons", style="dim"), f"[dim]{sum(row[3] for row in rest):,}[/]", ""
        )
    return table


_DROPS = """
WITH counted AS (SELECT dataset, step, reason, count(*) AS documents FROM drops GROUP BY ALL),
met AS (SELECT dataset, step, sum(rows_in)::BIGINT AS met FROM accounts GROUP BY ALL)
SELECT dataset, step, reason, documents, met FROM counted LEFT JOIN met USING (dataset, step)
ORDER BY documents DESC, dataset, step, reason
"""


def _times(con: duckdb.DuckDBPyConnection) -> RenderableType | None:
    rows = con.execute(_TIMES).fetchall()
    if not rows:
        return None
    table = _table("dataset", "step", ">seconds", ">share", ">rows in", ">rows/s", title="Time, over all workers")
    found = first_row(con, "SELECT sum(seconds) FROM steps")
    in_steps = sum(row[2] for row in rows)
    total = max(in_steps, (found[0] if found else None) or 0.0)
    for dataset, step, spent, rows_in in rows[:TOP_STEPS]:
        rate = short(rows_in / spent) if spent > 0.001 else "-"
        table.add_row(Text(dataset), Text(step), f"{spent:.2f}", percent(spent, total), short(rows_in), rate)
    others = sum(row[2] for row in rows[TOP_STEPS:])
    if len(rows) > TOP_STEPS:
        table.add_row(
            "",
            Text(f"{len(rows) - TOP_STEPS} more steps", style="dim"),
            f"{others:.2f}",
            percent(others, total),
            "",
            "",
        )
    rest = total - in_steps
    table.add_row("", Text("reading, writing, exchanging", style="dim"), f"{rest:.2f}", percent(rest, total), "", "")
    table.add_row("", Text("all work", style="bold"), f"[bold]{total:.2f}[/]", "", "", "")
    return table


_TIMES = """
SELECT dataset, step, sum(seconds) AS spent, sum(rows_in)::BIGINT AS rows_in FROM accounts
GROUP BY ALL HAVING sum(seconds) > 0 ORDER BY spent DESC, dataset, step
"""


def _outputs(con: duckdb.DuckDBPyConnection, run: str) -> RenderableType:
    root = run.rstrip("/")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    formats = con.execute(
        "SELECT format, count(*), sum(bytes)::BIGINT FROM shards GROUP BY ALL ORDER BY ALL DESC"
    ).fetchall()
    for name, files, size in formats:
        table.add_row(name, Text(f"{root}/{name}/<phase>/  {files:,} files, {short(size)}B"))
    shards = first_row(con, "SELECT count(*), sum(documents)::BIGINT, sum(tokens)::BIGINT FROM token_shards")
    if shards and shards[0]:
        table.add_row(
            "tokens",
            Text(f"{root}/tokens/<dataset>/<bucket>/  {short(shards[1])} documents, {short(shards[2])} tokens"),
        )
    table.add_row("catalog", Text(f"{root}/{CATALOG}"))
    return Group(Text("Outputs", style="bold"), table)


# ---------------------------------------------------------------------------------------------------- any query


def query_table(con: duckdb.DuckDBPyConnection, sql: str) -> RenderableType:
    """The answer to any query, at most MAX_QUERY_ROWS rows of it."""
    result = con.execute(sql)
    names = [column[0] for column in result.description or ()]
    rows = result.fetchmany(MAX_QUERY_ROWS + 1)
    result.fetchall()
    shown = rows[:MAX_QUERY_ROWS]
    cells = [[_cell(value) for value in row] for row in shown]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    heads = names if sum(widths) + 2 * len(widths) <= WIDTH else [name.replace("_", "_\n") for name in names]
    numeric = [_is_numeric([row[at] for row in shown]) for at in range(len(names))]
    table = _table(*((">" if right else "") + head for head, right in zip(heads, numeric, strict=True)))
    for row in cells:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    many = (
        f"the first {MAX_QUERY_ROWS:,} rows"
        if len(rows) > MAX_QUERY_ROWS
        else f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"
    )
    return Group(table, Text(many, style="dim")) if names else Text("done", style="dim")


def _is_numeric(values: Sequence[Any]) -> bool:
    return any(isinstance(value, (int, float)) for value in values) and all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.1f}"
    if isinstance(value, bytes):
        return value.hex()
    return (
        value.isoformat(" ")
        if isinstance(value, datetime)
        else value.isoformat()
        if isinstance(value, date)
        else str(value)
    )


# ---------------------------------------------------------------------------------------------------- shared


def _table(*columns: str, title: str = "") -> Table:
    """Columns whose name begins with `>` are numbers, on the right."""
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _sum(values: Iterator[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
