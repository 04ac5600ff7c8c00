"""Token shards, and the slices of them that a phase's files hold."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schema import document_id
from pipeline.tokens import phase_shards, shards
from pipeline.tokens.phase_shards import SLICES, PhaseShards, bins_of, cut
from pipeline.tokens.reading import digest_of, idx_lengths
from pipeline.tokens.shards import TokenShards, chunks
from pipeline.tokens.training import TrainTokenizer

END = 256 + 100  # set by `tables` below: 100 merges, then the one special token


class Files:
    """A run's folder on a local disk."""

    def __init__(self, root):
        self.root = root

    def create(self, path):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("xb")

    def open(self, path):
        return pa.memory_map(str(self.root / path))

    def url(self, path):
        return str(self.root / path)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture(scope="module")
def tables():
    texts = pa.array(
        ["the quick brown fox jumps over the lazy dog again and again " * 3 + str(i) for i in range(200)],
        pa.large_string(),
    )
    ids = pa.array([document_id(str(i)) for i in range(200)], pa.binary(16))
    fold = TrainTokenizer(vocabulary=357, special_tokens=("<|endoftext|>",)).bound(seed=1)
    batch = pa.RecordBatch.from_arrays([ids, texts], names=["id", "text"])
    return {"tokenizer": fold.fold(iter([fold.summary(iter([batch]), "web")]))}


def token_rows(lengths, buckets=("high",), end=None):
    """A batch as it reaches `token_shards`: row i holds `lengths[i]` tokens, the last one `end`."""
    rng, count = np.random.default_rng(4), len(lengths)
    tokens = [[*rng.integers(0, 250, n - 1).tolist(), END if end is None else end] for n in lengths]
    return pa.RecordBatch.from_pydict(
        {
            "id": pa.array([document_id("d", str(i)) for i in range(count)], pa.binary(16)),
            "origin": pa.array([f"file#{i}" for i in range(count)], pa.large_string()),
            "language": pa.array(["en"] * count, pa.string()),
            "bucket": pa.array([buckets[i % len(buckets)] for i in range(count)], pa.string()),
            "num_chars": pa.array([3 * n for n in lengths], pa.int64()),
            "num_tokens": pa.array(lengths, pa.int64()),
            "score": pa.array([None if i % 3 else 0.5 for i in range(count)], pa.float32()),
            "shuffle_key": pa.array(range(count), pa.uint64()),
            "tokens": pa.array(tokens, pa.large_list(pa.int32())),
            "token_hash": pa.array(range(count), pa.uint64()),
        }
    )


def written(stage, batches, files, part=0):
    return pa.Table.from_batches(list(stage.write(iter(batches), files, part)), stage.output())


def shard_rows(files, path):
    return pa.ipc.open_file(files.open(path)).read_all().to_pylist()


# ----------------------------------------------------------------------------------------------------- token shards


def test_every_document_stands_in_its_buckets_shard_at_the_row_that_the_index_names(files):
    docs = token_rows([5, 3, 9, 1, 4, 2, 8], buckets=("high", "low", "low"))
    index = written(TokenShards(dataset="web"), [docs], files, part=12).to_pylist()
    assert sorted({row["path"] for row in index}) == [
        f"tokens/web/{bucket}/part-00012.arrow" for bucket in ("high", "low")
    ]
    by_id = {row["id"]: row["tokens"] for row in docs.to_pylist()}
    for row in index:
        shard = shard_rows(files, row["path"])[row["row"]]
        assert (shard["id"], shard["tokens"]) == (row["id"], by_id[row["id"]])
        assert (row["dataset"], row["bucket"] in row["path"], row["num_tokens"]) == ("web", True, len(shard["tokens"]))
    assert [row["id"] for row in index] == docs.column("id").to_pylist()


def test_shards_have_the_same_bytes_however_batches_are_cut(files, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CHUNK_TOKENS", 40)
    monkeypatch.setattr(shards, "CHUNK_ROWS", 6)
    docs = token_rows([5, 3, 9, 1, 100, 2, 8, 7, 40, 41, 1, 1, 1, 1, 1, 1, 1, 30, 12], buckets=("high", "low", "all"))
    stage, digests, indices = TokenShards(dataset="web"), set(), []
    for size in (1, 2, 5, 100):
        mine = Files(tmp_path / str(size))
        indices.append(
            written(stage, [docs.slice(at, size) for at in range(0, len(docs), size)], mine).combine_chunks()
        )
        digests.add(tuple(digest_of(path) for path in sorted((tmp_path / str(size)).rglob("*.arrow"))))
    assert len(digests) == 1
    assert all(index.equals(indices[0]) for index in indices)
    assert (
        max(
            batch.num_rows
            for batch in pa.ipc.open_file(mine.open("tokens/web/high/part-00000.arrow")).read_all().to_batches()
        )
        <= 6
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_chunks_are_a_function_of_the_sequence_of_rows_alone(lengths, cuts):
    def expected():
        out, rows, tokens = [], 0, 0
        for n in lengths:
            if rows and (tokens + n > 50 or rows == 7):
                out.append(rows)
                rows = tokens = 0
            rows, tokens = rows + 1, tokens + n
        return [*out, rows] if rows else out

    batch, batches, at, turn = pa.RecordBatch.from_pydict({"num_tokens": pa.array(lengths, pa.int64())}), [], 0, 0
    while at < len(lengths):
        batches.append(batch.slice(at, cuts[turn % len(cuts)]))
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CHUNK_TOKENS", 50)
        patch.setattr(shards, "CHUNK_ROWS", 7)
        assert [chunk.num_rows for chunk in chunks(iter(batches))] == expected()


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "a b", "ü"])
def test_names_that_are_unsafe_in_paths_are_refused(name, files):
    with pytest.raises(ValueError, match="it names files"):
        TokenShards(dataset=name)
    with pytest.raises(ValueError, match="bucket"):
        written(TokenShards(dataset="web"), [token_rows([2], buckets=(name,))], files)


def test_no_rows_make_no_files(files):
    assert written(TokenShards(dataset="web"), [], files).num_rows == 0
    assert list(files.root.rglob("*")) == []


# ----------------------------------------------------------------------------------------------------- phase shards


def make_slice(
    files, lengths, *, packing="concatenate", size=16, bins=None, reads=1, rows=None, phase="general", index=0, **other
):
    """Write shards of `lengths` in two parts and return the slice that takes `rows` of each."""
    docs, half = token_rows(lengths), len(lengths) // 2
    pieces = []
    dataset = other.pop("dataset", "web")
    for part, mine in enumerate((docs.slice(0, half), docs.slice(half))):
        written(TokenShards(dataset=dataset), [mine], files, part=part)
        first, end = rows or (0, len(mine))
        tokens = sum(mine.column("num_tokens").to_pylist()[first:end])
        path = f"tokens/{dataset}/high/part-{part:05d}.arrow"
        pieces.append({"path": path, "first_row": first, "end_row": end, "documents": end - first, "tokens": tokens})
    values = {
        "phase": phase,
        "phase_index": index,
        "dataset": dataset,
        "bucket": "high",
        "slice": "0.0000-0.5000",
        "reads": reads,
        "packing": packing,
        "sequence_length": size,
        "sequences": bins,
        "tokens_planned": 1,
        "pieces": pieces,
        "digest": "0123abcd",
        **other,
    }
    return pa.RecordBatch.from_pylist([values], schema=SLICES)


def phase_rows(files, job, tables, **settings):
    return written(PhaseShards(**settings).bound(name="phase", seed=5, tables=tables), [job], files).to_pylist()


def sequences_of(files, row):
    """Sequences of a file, read without our own reader."""
    if row["format"] == "arrow":
        return [item["tokens"] for item in shard_rows(files, row["path"])]
    index = idx_lengths(str(files.root / row["path"]).removesuffix(".bin") + ".idx")
    values = np.fromfile(files.root / row["path"], index.dtype).tolist()
    starts = (index.pointers // index.dtype.itemsize).tolist()
    return [values[a : a + n] for a, n in zip(starts, index.lengths.tolist(), strict=True)]


def test_concatenate_writes_every_document_once_in_order(files, tables):
    lengths = [5, 3, 9, 1, 40, 2, 8]
    rows = phase_rows(files, make_slice(files, lengths), tables)
    documents = token_rows(lengths).column("tokens").to_pylist()
    assert [row["path"] for row in rows] == [
        "megatron/general/web-high-0.0000-0.5000-0123abcd.bin",
        "arrow/general/web-high-0.0000-0.5000-0123abcd.arrow",
    ]
    for row in rows:
        assert sequences_of(files, row) == documents
        counted = ("sequences", "documents", "tokens", "document_tokens")
        assert [row[name] for name in counted] == [7, 7, sum(lengths), sum(lengths)]
        assert row["bytes"] == (files.root / row["path"]).stat().st_size
        assert row["checksum"] == digest_of(files.root / row["path"])
    arrow = shard_rows(files, rows[1]["path"])
    assert [item["documents"] for item in arrow] == [[one] for one in token_rows(lengths).column("id").to_pylist()]
    assert [item["lengths"] for item in arrow] == [[n] for n in lengths]


def test_a_slice_takes_only_its_rows(files, tables):
    lengths = [5, 3, 9, 1, 7, 2, 8, 6]
    rows = phase_rows(files, make_slice(files, lengths, rows=(1, 3)), tables, arrow=False)
    documents = token_rows(lengths).column("tokens").to_pylist()
    assert sequences_of(files, rows[0]) == [documents[1], documents[2], documents[5], documents[6]]
    assert len(rows) == 1


def reassembled(arrow, size):
    """Document id -> its tokens, put together from the pieces of all bins; also checks each bin's form."""
    pieces = {}
    for item in arrow:
        assert len(item["tokens"]) == size
        assert sum(item["lengths"]) <= size
        assert item["tokens"][sum(item["lengths"]) :] == [END] * (size - sum(item["lengths"]))
        at = 0
        for document, n in zip(item["documents"], item["lengths"], strict=True):
            pieces.setdefault(document, []).append(item["tokens"][at : at + n])
            at += n
    return pieces


def test_best_fit_puts_every_token_into_a_bin_and_cuts_only_what_is_longer_than_a_bin(files, tables, monkeypatch):
    monkeypatch.setattr(phase_shards, "WINDOW_TOKENS", 48)  # several windows
    monkeypatch.setattr(shards, "CHUNK_TOKENS", 60)  # several record batches per shard
    rng = np.random.default_rng(8)
    lengths = [*rng.integers(1, 16, 60).tolist(), 16, 17, 50, 33]
    rows = phase_rows(files, make_slice(files, lengths, packing="best_fit"), tables)
    pieces = reassembled(shard_rows(files, rows[1]["path"]), 16)
    docs = token_rows(lengths).to_pylist()
    assert len(pieces) == len(docs) == rows[0]["documents"]
    for doc in docs:
        mine = pieces[doc["id"]]
        assert len(mine) == -(-len(doc["tokens"]) // 16)
        assert sorted(chain(*mine)) == sorted(doc["tokens"])
        if len(mine) == 1:
            assert mine[0] == doc["tokens"]
    assert sequences_of(files, rows[0]) == sequences_of(files, rows[1])
    assert rows[0]["tokens"] == 16 * rows[0]["sequences"]
    assert rows[0]["document_tokens"] == sum(lengths)


def test_best_fit_writes_exactly_the_bins_that_were_asked_for(files, tables):
    lengths = np.random.default_rng(9).integers(1, 40, 300).tolist()
    for bins in (1, 7, 100, 200):
        mine = Files(files.root / str(bins))
        rows = phase_rows(mine, make_slice(mine, lengths, packing="best_fit", bins=bins), tables, arrow=bins == 7)
        assert (rows[0]["sequences"], rows[0]["tokens"]) == (bins, bins * 16)
        assert rows[0]["document_tokens"] > 0.9 * bins * 16
    pieces = reassembled(shard_rows(Files(files.root / "7"), "arrow/general/web-high-0.0000-0.5000-0123abcd.arrow"), 16)
    assert set(pieces) == set(token_rows(lengths).column("id").to_pylist()[: len(pieces)])  # the first documents


def test_a_slice_with_too_little_gives_fewer_bins_and_the_row_says_so(files, tables):
    rows = phase_rows(files, make_slice(files, [16, 10, 5], packing="best_fit", bins=9), tables)
    assert [row["sequences"] for row in rows] == [2, 2]


def test_bins_stand_in_hashed_order_and_their_pieces_in_shard_order():
    lengths = np.sort(np.random.default_rng(1).integers(1, 100, 2_000).astype(np.int32))
    bin_of = bins_of(lengths, 100, None, seed=1)
    longest = np.zeros(bin_of.max() + 1)
    np.maximum.at(longest, bin_of, lengths)
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.15  # best fit's own order gives about -1
    assert not np.array_equal(bin_of, bins_of(lengths, 100, None, seed=2))


def test_cutting_documents_keeps_their_tokens_in_stream_order():
    chunks_ = cut(np.array([3, 10, 4, 8, 9]), 4)
    assert chunks_.lengths.tolist() == [3, 4, 4, 2, 4, 4, 4, 4, 4, 1]
    assert chunks_.starts.tolist() == [0, 3, 7, 11, 13, 17, 21, 25, 29, 33]
    assert chunks_.documents.tolist() == [0, 1, 1, 1, 2, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"phase": "../x"}, "phase"),
        ({"slice": "0/1"}, "slice"),
        ({"digest": "xyz"}, "8 hex"),
        ({"packing": "wrapped"}, "legal are"),
        ({"sequence_length": 0}, "no sense"),
    ],
)
def test_a_slice_that_makes_no_sense_is_refused_before_anything_is_written(changed, what, files, tables):
    job = make_slice(files, [3, 4])
    job = pa.RecordBatch.from_pylist([{**job.to_pylist()[0], **changed}], schema=SLICES)
    with pytest.raises(ValueError, match=what):
        phase_rows(files, job, tables)
    assert not (files.root / "megatron").exists()


def test_shards_that_do_not_fit_the_slice_are_an_error_that_names_the_shard(files, tables):
    row = make_slice(files, [3, 4, 5, 6]).to_pylist()[0]
    row["pieces"][1]["tokens"] += 1
    with pytest.raises(
        ValueError, match=r"part-00001\.arrow rows 0 to 2: expected 2 documents with 12 tokens, found 2 with 11"
    ):
        phase_rows(files, pa.RecordBatch.from_pylist([row], schema=SLICES), tables)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_a_document_without_its_end_is_an_error_that_names_the_shard(packing, files, tables):
    job = make_slice(files, [3, 4, 5, 6], packing=packing)
    written(TokenShards(dataset="other"), [token_rows([3, 4], end=7)], files)
    row = job.to_pylist()[0]
    row["pieces"] = [
        {"path": "tokens/other/high/part-00000.arrow", "first_row": 0, "end_row": 2, "documents": 2, "tokens": 7}
    ]
    with pytest.raises(ValueError, match=r"other/high/part-00000\.arrow: document 0 .* end-of-document token 356"):
        phase_rows(files, pa.RecordBatch.from_pylist([row], schema=SLICES), tables)


def test_writing_neither_form_is_refused():
    with pytest.raises(ValueError, match="writes nothing"):
        PhaseShards(arrow=False, megatron=False)
