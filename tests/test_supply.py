"""Supply: what the shards hold, and where they may be cut, whatever the batch cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curriculum.supply import SUPPLY, Supply

Row = tuple[str, str, str, int, int, int]
"""dataset, bucket, path, row, tokens, hash"""


def index(rows: list[Row]) -> pa.RecordBatch:
    stage = Supply()
    names = ["dataset", "bucket", "path", "row", "num_tokens", "token_hash"]
    types = {f.name: f.type for f in stage.needs()}
    columns = {name: pa.array([row[at] for row in rows], types[name]) for at, name in enumerate(names)}
    return pa.RecordBatch.from_pydict({f.name: columns[f.name] for f in stage.needs()})


def file_rows(path: str, tokens: list[int], bucket: str = "all", dataset: str = "web") -> list[Row]:
    return [(dataset, bucket, path, row, n, (row * 7919 + n) % 2**64) for row, n in enumerate(tokens)]


def cut(batch: pa.RecordBatch, at: list[int]) -> Iterator[pa.RecordBatch]:
    edges = [0, *sorted(at), batch.num_rows]
    for start, end in pairwise(edges):
        yield batch.slice(start, end - start)


def summed(batches: Iterator[pa.RecordBatch], max_blocks: int = 4096) -> pa.Table:
    stage = Supply(max_blocks=max_blocks)
    return stage.fold(iter([stage.summary(batches, "web")]))


def slow_blocks(tokens: list[int], max_blocks: int) -> tuple[int, list[int]]:
    """The plain twin: double the block until the file fits."""
    size = 1
    while -(-len(tokens) // size) > max_blocks:
        size *= 2
    return size, [sum(tokens[at : at + size]) for at in range(0, len(tokens), size)]


def test_a_small_file_has_a_block_per_document() -> None:
    [row] = summed(iter([index(file_rows("t/a.arrow", [5, 7, 11]))])).to_pylist()
    assert row["documents"] == 3
    assert row["tokens"] == 23
    assert row["block_documents"] == 1
    assert row["block_tokens"] == [5, 7, 11]
    hashes = np.array([5, 7919 + 7, 2 * 7919 + 11], "<u8")
    assert row["digest"] == xxhash.xxh3_64(hashes.tobytes()).hexdigest()


def test_blocks_double_when_a_file_outgrows_them_and_the_last_may_be_short() -> None:
    [row] = summed(iter([index(file_rows("a", [1, 2, 3, 4, 5, 6, 7, 8, 9]))]), max_blocks=4).to_pylist()
    assert row["block_documents"] == 4
    assert row["block_tokens"] == [10, 26, 9]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_and_digest_do_not_depend_on_the_batch_cut(data: st.DataObject) -> None:
    max_blocks = data.draw(st.integers(2, 9))
    files = {
        f"f{i}": data.draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=60))
        for i in range(data.draw(st.integers(1, 3)))
    }
    waiting = {path: file_rows(path, tokens, bucket=path) for path, tokens in files.items()}
    rows: list[Row] = []
    while any(waiting.values()):  # files interleave, each in its own order
        path = data.draw(st.sampled_from([path for path, left in waiting.items() if left]))
        rows.append(waiting[path].pop(0))
    at = data.draw(st.lists(st.integers(0, len(rows)), max_size=6))
    table = summed(cut(index(rows), at), max_blocks)
    assert table.equals(summed(iter([index(rows)]), max_blocks))
    for row in table.to_pylist():
        size, blocks = slow_blocks(files[row["path"]], max_blocks)
        assert (row["block_documents"], row["block_tokens"]) == (size, blocks)
        assert row["documents"] == len(files[row["path"]])
        assert len(row["block_tokens"]) <= max_blocks


def test_a_changed_token_changes_the_digest_and_nothing_else() -> None:
    rows = file_rows("a", [5, 7])
    other = [rows[0], (*rows[1][:5], 99)]
    one, two = (summed(iter([index(each)])) for each in (rows, other))
    assert one["digest"] != two["digest"]
    assert one.drop_columns(["digest"]).equals(two.drop_columns(["digest"]))


def test_the_table_is_sorted_whatever_the_order_of_parts() -> None:
    stage = Supply()
    parts = [
        stage.summary(iter([index(file_rows(path, [3], bucket, dataset))]), dataset)
        for dataset, bucket, path in [
            ("web", "low", "2"),
            ("code", "all", "9"),
            ("web", "high", "3"),
            ("web", "low", "1"),
        ]
    ]
    table = stage.fold(iter(parts))
    assert [(r["dataset"], r["bucket"], r["path"]) for r in table.to_pylist()] == [
        ("code", "all", "9"),
        ("web", "high", "3"),
        ("web", "low", "1"),
        ("web", "low", "2"),
    ]
    assert stage.fold(iter(parts[::-1])).equals(table)


def test_no_rows_give_an_empty_table_of_the_right_columns() -> None:
    stage = Supply()
    assert stage.fold(iter([])).schema == SUPPLY
    assert stage.fold(iter([stage.summary(iter([]), "web")])).num_rows == 0
    assert stage.summary(iter([index([])]), "web").num_rows == 0


def test_a_gap_in_a_file_is_an_error_that_names_file_and_row() -> None:
    rows = file_rows("t/a.arrow", [5, 7, 11])
    with pytest.raises(
        ValueError,
        match=r"'t/a.arrow' \(dataset 'web', bucket 'all'\) should go on with row 1, but the index has row 2",
    ):
        summed(iter([index([rows[0], rows[2]])]))


def test_a_file_that_does_not_begin_at_row_0_is_an_error() -> None:
    with pytest.raises(ValueError, match="should go on with row 0, but the index has row 1"):
        summed(iter([index(file_rows("a", [5, 7])[1:])]))


def test_a_file_counted_in_two_parts_is_an_error() -> None:
    stage = Supply()
    part = stage.summary(iter([index(file_rows("t/a.arrow", [5]))]), "web")
    with pytest.raises(ValueError, match=r"1 token shards are counted more than once, the first is 't/a.arrow'"):
        stage.fold(iter([part, part]))


def test_a_row_without_a_bucket_is_an_error() -> None:
    batch = index(file_rows("a", [5]))
    batch = batch.set_column(batch.schema.get_field_index("bucket"), "bucket", pa.array([None], pa.string()))
    with pytest.raises(ValueError, match="a row of the token index has no dataset, bucket or path"):
        Supply().summary(iter([batch]), "web")
