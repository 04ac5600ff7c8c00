"""The exchange against a plain sort in Python: any keys, any cuts, runs that are spilled and merged, huge groups, huge rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import exchange, merge, parts
from pipeline.engine.exchange import ExchangeWriter, exchanged_schema, partition_numbers, read_partition
from pipeline.engine.parts import PartWriter, read_batches
from pipeline.engine.sizes import ROW_BYTES, pieces, row_bytes
from pipeline.engine.storage import Storage
from pipeline.schema import document_id
from pipeline.stage import Exchange

Rows = list[dict[str, Any]]
KEYS = {"id16": pa.binary(16), "word": pa.string(), "long_word": pa.large_string(), "number": pa.uint64()}
SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16)),
        *(pa.field(name, kind) for name, kind in KEYS.items()),
        pa.field("text", pa.large_string()),
        pa.field("tokens", pa.large_list(pa.int32())),
        pa.field("specials", pa.list_(pa.struct([pa.field("at", pa.int64()), pa.field("token", pa.string())]))),
        pa.field("score", pa.float32()),
        pa.field("kept", pa.bool_()),
    ]
)
ALPHABET = "aé水𐍈 \n\0z"


def some_rows(choose: random.Random, count: int, distinct: int, *, nulls: float, doubled: float) -> Rows:
    """Rows with `distinct` keys, the first of which holds about a third; some share key and id."""
    rows: Rows = []
    for number in range(count):
        key = 0 if choose.random() < 0.3 else choose.randrange(distinct)
        missing = choose.random() < nulls
        row: dict[str, Any] = {
            "id": document_id("row", str(number)),
            "id16": None if missing else document_id("key", str(key)),
            "word": None if missing else f"w{key}é",
            "long_word": None if missing else ALPHABET[key % 8] * (key % 50),
            "number": None if missing else (key * 0x9E3779B97F4A7C15) % 2**64,
            "text": choose.choice([None, "", "".join(choose.choices(ALPHABET, k=choose.randrange(200)))]),
            "tokens": choose.choice([None, [], [choose.randrange(1000) for _ in range(choose.randrange(9))]]),
            "specials": choose.choice([None, [{"at": number, "token": "<|x|>"}] * choose.randrange(3)]),
            "score": choose.choice([None, number / 7]),
            "kept": choose.choice([None, True, False]),
        }
        if rows and choose.random() < doubled:
            twin = choose.choice(rows)
            row |= {name: twin[name] for name in ("id", *KEYS)}
        rows.append(row)
    return rows


def batches_of(rows: Rows, choose: random.Random, most: int = 40) -> Iterator[pa.RecordBatch]:
    """The rows in random cuts; every other batch is a slice of a larger one, so that its offset is not 0."""
    at = 0
    while at < len(rows):
        count = choose.randrange(1, most)
        if choose.random() < 0.5:
            yield pa.RecordBatch.from_pylist(rows[at : at + count], SCHEMA)
        else:
            wider = [*rows[:3], *rows[at : at + count], *rows[:2]]
            yield pa.RecordBatch.from_pylist(wider, SCHEMA).slice(min(3, len(rows)), len(rows[at : at + count]))
        at += count


def written(storage: Storage, stage: Exchange, maps: list[list[pa.RecordBatch]]) -> list[str]:
    """One map task per list of batches."""
    paths = []
    for number, batches in enumerate(maps):
        paths.append(f"step/part-{number:05d}.exchange")
        with storage.transaction() as files:
            writer = ExchangeWriter(files, paths[-1], stage, batches[0].schema if batches else SCHEMA)
            for batch in batches:
                writer.write(batch)
            writer.close()
            assert writer.rows == sum(batch.num_rows for batch in batches)
            files.commit()
    return paths


def read(storage: Storage, stage: Exchange, paths: list[str]) -> list[list[pa.RecordBatch]]:
    schema = exchanged_schema(stage, SCHEMA)
    return [list(read_partition(storage, stage, paths, n, schema)) for n in range(stage.partitions)]


def in_order(rows: Rows, stage: Exchange) -> list[Rows]:
    """The same by a plain stable sort in Python: per partition, (key, id), nulls last, equal rows as they arrived."""
    numbers = (
        partition_numbers(stage, pa.array([row[stage.by] for row in rows], SCHEMA.field(stage.by).type)) if rows else []
    )
    found: list[Rows] = [[] for _ in range(stage.partitions)]
    for row, number in zip(rows, numbers, strict=True):
        found[number].append(row)
    for one in found:
        one.sort(key=lambda row: (row[stage.by] is None, row[stage.by], row["id"]))
    if stage.group_columns:
        for one in found:
            groups: dict[Any, Rows] = {}
            for row in one:
                groups.setdefault(row[stage.by], []).append(row)
            one[:] = [
                row | {"group_first": group[0]["id"], "group_size": len(group)}
                for group in groups.values()
                for row in group
            ]
    return found


def as_rows(batches: list[pa.RecordBatch]) -> Rows:
    return [row for batch in batches for row in batch.to_pylist()]


def same(found: Rows, expected: Rows) -> bool:
    return pa.Table.from_pylist(found, SCHEMA).equals(pa.Table.from_pylist(expected, SCHEMA)) and [
        (row.get("group_first"), row.get("group_size")) for row in found
    ] == [(row.get("group_first"), row.get("group_size")) for row in expected]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that a few hundred rows spill, merge, fill many windows and many batches."""
    for module, limits in {
        exchange: {"SPILL_BYTES": 9000, "PIECE_BYTES": 1500, "BLOCK_BYTES": 600, "BLOCK_ROWS": 7, "BATCH_BYTES": 2500,
                   "BATCH_ROWS": 31, "REQUEST_BYTES": 1000},
        merge: {"SAMPLE_ROWS": 3, "WINDOW_BYTES": 3000, "WINDOW_ROWS": 40, "FORGET_BYTES": 2000},
    }.items():  # fmt: skip
        for name, value in limits.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("by", [*KEYS, "id"])
@pytest.mark.parametrize("seed", range(4))
def test_partitions_hold_what_a_plain_sort_gives_whatever_the_cuts(
    storage: Storage, small_limits: None, by: str, seed: int
) -> None:
    choose = random.Random(f"{by} {seed}")
    stage = Exchange(
        by=by,
        partitions=choose.choice([1, 3, 40]),
        group_columns=choose.random() < 0.5,
        max_group_bytes=choose.choice([None, 300, 5000]),
        placement="range" if by == "number" and choose.random() < 0.5 else "hash",
    )
    rows = some_rows(choose, choose.choice([1, 100, 400]), choose.choice([1, 30, 200]), nulls=choose.choice([0, 0.2]),
                     doubled=choose.choice([0, 0.2]))  # fmt: skip
    border = choose.randrange(len(rows) + 1)
    maps = [list(batches_of(one, choose)) for one in (rows[:border], rows[border:])]
    found = read(storage, stage, written(storage, stage, maps))
    for batches, expected in zip(found, in_order(rows, stage), strict=True):
        assert same(as_rows(batches), expected)
        for batch in batches:
            batch.validate(full=True)


@pytest.mark.parametrize("seed", range(4))
def test_batches_depend_on_the_rows_alone_and_never_cut_a_group_below_its_limit(
    storage: Storage, small_limits: None, seed: int
) -> None:
    choose = random.Random(seed)
    limit = (1, 700, 4000, 1 << 20)[seed]
    stage = Exchange(by="word", partitions=2, max_group_bytes=limit)
    rows = some_rows(choose, 300, choose.choice([3, 60]), nulls=0.1, doubled=0)
    found = read(storage, stage, written(storage, stage, [list(batches_of(rows, choose))]))
    choose.shuffle(rows)
    maps = [list(batches_of(rows[n::5], choose)) for n in range(5)]
    again = read(Storage(storage.address + "-again"), stage, written(Storage(storage.address + "-again"), stage, maps))
    all_cut: set[str | None] = set()
    for one, other in zip(found, again, strict=True):
        assert [batch.num_rows for batch in one] == [batch.num_rows for batch in other]
        assert same(as_rows(one), as_rows(other))
        weights: dict[str | None, int] = {}
        homes: dict[str | None, list[int]] = {}
        for number, batch in enumerate(one):
            for word, weight in zip(batch["word"].to_pylist(), row_bytes(batch).tolist(), strict=True):
                weights[word] = weights.get(word, 0) + weight
                homes.setdefault(word, []).append(number)
        cut = {word for word, numbers in homes.items() if len(set(numbers)) > 1}
        assert all(weights[word] > limit for word in cut)
        all_cut |= cut
    assert ("w0é" in all_cut) == (limit < 10_000)  # the group with a third of the rows


def test_a_group_that_fills_many_windows_knows_its_size_and_first_id_from_the_start(
    storage: Storage, small_limits: None
) -> None:
    stage = Exchange(by="word", partitions=1, group_columns=True, columns=("score",))
    words = ["a"] * 3 + ["b"] * 1000 + ["c"] + [None] * 400
    rows = [{"id": document_id(str(n)), "word": word, "score": n / 2} for n, word in enumerate(words)]
    random.Random(5).shuffle(rows)
    maps = [[pa.RecordBatch.from_pylist(rows[n::4], SCHEMA)] for n in range(4)]
    (batches,) = read(storage, stage, written(storage, stage, maps))
    first = {word: min(row["id"] for row in rows if row["word"] == word) for word in ("a", "b", "c", None)}
    assert len(batches) > 40
    assert batches[0].schema.names == ["id", "word", "score", "group_first", "group_size"]
    assert [(row["word"], row["group_first"], row["group_size"]) for row in as_rows(batches)] == [
        (word, first[word], words.count(word)) for word in words
    ]


def test_one_file_and_one_range_per_partition_however_often_a_map_task_spilled(
    storage: Storage, small_limits: None, tmp_path: Path
) -> None:
    choose = random.Random(1)
    stage = Exchange(by="number", partitions=9)
    rows = some_rows(choose, 600, 100, nulls=0, doubled=0)
    (path,) = written(storage, stage, [list(batches_of(rows, choose))])
    assert sorted(p.name for p in (tmp_path / "run" / "step").iterdir()) == [
        "part-00000.exchange",
        "part-00000.exchange.index",
    ]
    index = np.frombuffer((tmp_path / "run" / (path + ".index")).read_bytes(), "<i8").reshape(9, 3)
    assert index[:, 2].tolist() == [len(one) for one in in_order(rows, stage)]
    filled = index[index[:, 2] > 0]
    assert (filled[1:, 0] == filled[:-1, 0] + filled[:-1, 1]).all()  # one range behind the other
    with pa.ipc.open_stream((tmp_path / "run" / path).read_bytes()) as whole:  # and the file is plain Arrow
        assert whole.read_all().num_rows == 600


def test_thousands_of_partitions_most_of_them_empty(storage: Storage) -> None:
    choose = random.Random(2)
    stage = Exchange(by="id16", partitions=5000)
    rows = some_rows(choose, 300, 300, nulls=0, doubled=0)
    paths = written(storage, stage, [list(batches_of(rows, choose)), []])
    assert (storage.size(paths[0] + ".index"), storage.size(paths[1] + ".index")) == (120_000, 120_000)
    found = read(storage, stage, paths)
    assert [len(as_rows(one)) for one in found] == [len(one) for one in in_order(rows, stage)]


class Counted(Storage):
    """A folder behind an object store's interface: no mapping, and every request is noted."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.requests: list[tuple[str, int]] = []

    def as_remote(self) -> Counted:
        self.local = False
        self.root, self.address = self.root, f"file://{self.root}"
        return self

    def read_range(self, path: str, start: int, length: int) -> pa.Buffer:
        self.requests.append((path, length))
        return super().read_range(path, start, length)


def test_an_object_store_is_asked_once_per_file_and_in_large_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(exchange, "REQUEST_BYTES", 50_000)
    choose = random.Random(3)
    stage = Exchange(by="number", partitions=2)
    rows = some_rows(choose, 1200, 100, nulls=0, doubled=0)
    storage = Counted(str(tmp_path))
    maps = [list(batches_of(one, choose)) for one in (rows[:900], rows[900:1200])]
    paths = written(storage, stage, [*maps, []])
    sizes = [np.frombuffer(storage.read(path + ".index"), "<i8").reshape(2, 3)[1, 1] for path in paths]
    remote = storage.as_remote()
    (batches,) = [list(read_partition(remote, stage, paths, 1, SCHEMA))]
    assert same(as_rows(batches), in_order(rows, stage)[1])
    assert sorted(remote.requests) == sorted(
        [(path + ".index", 24) for path in paths]
        + [(path, min(50_000, size - done)) for path, size in zip(paths, sizes, strict=True) for done in range(0, size, 50_000)]
    )  # fmt: skip


def test_rows_that_differ_by_a_million_travel_in_bounded_batches_and_row_groups(storage: Storage) -> None:
    choose = random.Random(4)
    sizes = [20, 20_000_000, 50, 300, 18_000_000, 5, *(choose.randrange(1, 300_000) for _ in range(300))]
    rows = [
        {"id": document_id(str(n)), "number": n % 3, "text": chr(97 + n % 26) * size} for n, size in enumerate(sizes)
    ]
    stage = Exchange(by="number", partitions=1, columns=("text",))
    maps = [[pa.RecordBatch.from_pylist(rows[n::2], SCHEMA)] for n in range(2)]
    (batches,) = read(storage, stage, written(storage, stage, maps))
    expected = sorted(rows, key=lambda row: (row["number"], row["id"]))
    assert [len(row["text"]) for row in as_rows(batches)] == [len(row["text"]) for row in expected]
    limit = exchange.BATCH_BYTES
    assert all(int(row_bytes(batch).sum()) <= limit or batch.num_rows == 1 for batch in batches)
    with storage.transaction() as files:
        writer = PartWriter(files, "part.parquet", batches[0].schema, "lz4")
        for batch in batches:
            writer.write(batch)
        writer.write(pa.RecordBatch.from_pylist(rows, batches[0].schema))
        writer.close()
        files.commit()
    again = list(read_batches(storage, "part.parquet"))
    assert as_rows(again) == [{k: row.get(k) for k in again[0].schema.names} for row in [*expected, *rows]]
    assert all(int(row_bytes(batch).sum()) <= parts.ROW_GROUP_BYTES or batch.num_rows == 1 for batch in again)
    assert sum(batch.num_rows == 1 for batch in again) == 4


def test_row_groups_depend_on_the_rows_alone(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 5000)
    monkeypatch.setattr(parts, "ROW_GROUP_ROWS", 31)
    rows = some_rows(random.Random(6), 400, 20, nulls=0.1, doubled=0)
    for number in range(3):
        with storage.transaction() as files:
            writer = PartWriter(files, f"{number}.parquet", SCHEMA, "zstd")
            for batch in batches_of(rows, random.Random(number), most=90):
                writer.write(batch)
            writer.close()
            files.commit()
    first, *others = (storage.read(f"{number}.parquet") for number in range(3))
    assert [one == first for one in others] == [True, True]
    assert pq.read_table(pa.BufferReader(first)).equals(pa.Table.from_pylist(rows, SCHEMA))


def test_an_empty_exchange_has_no_rows(storage: Storage) -> None:
    stage = Exchange(by="word", partitions=3, group_columns=True)
    assert read(storage, stage, written(storage, stage, [[], []])) == [[], [], []]
    assert read(storage, stage, []) == [[], [], []]


def test_a_dictionary_column_is_refused_by_name(storage: Storage) -> None:
    schema = pa.schema([pa.field("id", pa.binary(16)), pa.field("lang", pa.dictionary(pa.int32(), pa.string()))])
    with storage.transaction() as files, pytest.raises(TypeError, match=r"column 'lang' is dictionary<.*use string"):
        ExchangeWriter(files, "x.exchange", Exchange(by="id"), schema)


def test_a_row_weighs_its_texts_binaries_and_lists_at_any_depth() -> None:
    row = {"text": "é" * 3, "tokens": [1, 2], "specials": [{"at": 1, "token": "abc"}, {"at": 2, "token": None}],
           "word": "four", "long_word": None, "id16": b"x" * 16}  # fmt: skip
    batch = pa.RecordBatch.from_pylist([{}, row, {"text": "ab"}], SCHEMA)
    assert row_bytes(batch).tolist() == [32, 32 + 6 + 8 + (8 + 3 + 8) + 4, 34]
    assert row_bytes(batch.slice(1)).tolist() == row_bytes(batch)[1:].tolist()
    vectors = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2))
    assert row_bytes(pa.RecordBatch.from_arrays([vectors.slice(1)], ["v"])).tolist() == [ROW_BYTES + 8] * 2


def test_pieces_hold_as_many_rows_as_fit_and_at_least_one() -> None:
    assert list(pieces(np.array([5, 5, 20, 1, 1, 1, 1]), 10, 3)) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert list(pieces(np.zeros(0, np.int64), 10, 3)) == []


@pytest.mark.parametrize(
    "kind", [pa.date32(), pa.bool_(), pa.int8(), pa.binary(), pa.binary(5), pa.timestamp("s", "UTC")]
)
def test_keys_of_other_types_have_a_partition_too(kind: pa.DataType) -> None:
    values: list[Any] = (
        [None, b"12345", b"abcde"]
        if "binary" in str(kind)
        else [None, *([True, False] if kind == pa.bool_() else [-5, 99])]
    )
    numbers = partition_numbers(Exchange(by="k", partitions=1000), pa.array(values, kind)).tolist()
    assert numbers[0] == 0
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("by", KEYS)
def test_a_keys_partition_does_not_depend_on_the_keys_beside_it(by: str) -> None:
    rows = some_rows(random.Random(7), 300, 200, nulls=0.2, doubled=0)
    keys = pa.array([row[by] for row in rows], KEYS[by])
    stage = Exchange(by=by, partitions=11)
    together = partition_numbers(stage, keys).tolist()
    assert [partition_numbers(stage, keys.slice(n, 1))[0] for n in range(300)] == together
    assert {number for number, key in zip(together, keys, strict=True) if not key.is_valid} == {0}
    assert len(set(together)) == 11
