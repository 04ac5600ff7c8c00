"""Megatron's files: byte by byte, and read and blended by megatron-core itself."""

from __future__ import annotations

import json
import struct
from collections import Counter
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.schema import document_id
from pipeline.tokens.blends import Blends, megatron_counts, phase_samples, samples, weights_for
from pipeline.tokens.megatron import MegatronWriter, Sequences, index_bytes, token_type
from pipeline.tokens.phase_shards import PREFIXES, SLICES, PhaseShards
from pipeline.tokens.reading import digest_of, idx_lengths
from pipeline.tokens.shards import TokenShards
from pipeline.tokens.training import TrainTokenizer

END = 356


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
def tokenizer_table():
    texts = pa.array(
        ["the quick brown fox jumps over the lazy dog again and again " * 3 + str(i) for i in range(200)],
        pa.large_string(),
    )
    ids = pa.array([document_id(str(i)) for i in range(200)], pa.binary(16))
    fold = TrainTokenizer(vocabulary=END + 1, special_tokens=("<|endoftext|>",)).bound(seed=1)
    batch = pa.RecordBatch.from_arrays([ids, texts], names=["id", "text"])
    return fold.fold(iter([fold.summary(iter([batch]), "web")]))


def write_phase(files, table, dataset, lengths, *, phase, index, packing, size, reads, bins=None):
    """One slice through token_shards and phase_shards; document i of `dataset` is filled with a value of its own."""
    tokens = [[i % 250] * (n - 1) + [END] for i, n in enumerate(lengths)]
    ids = pa.array([document_id(dataset, str(i)) for i in range(len(lengths))], pa.binary(16))
    n = len(lengths)
    docs = pa.RecordBatch.from_pydict(
        {
            "id": ids,
            "origin": pa.nulls(n, pa.large_string()),
            "language": pa.nulls(n, pa.string()),
            "bucket": pa.array(["all"] * n),
            "num_chars": pa.array(lengths),
            "num_tokens": pa.array(lengths),
            "score": pa.nulls(n, pa.float32()),
            "shuffle_key": pa.array(range(n), pa.uint64()),
            "tokens": pa.array(tokens, pa.large_list(pa.int32())),
            "token_hash": pa.array(range(n), pa.uint64()),
        }
    )
    list(TokenShards(dataset=dataset).write(iter([docs]), files, 0))
    piece = {
        "path": f"tokens/{dataset}/all/part-00000.arrow",
        "first_row": 0,
        "end_row": n,
        "documents": n,
        "tokens": sum(lengths),
    }
    row = {
        "phase": phase,
        "phase_index": index,
        "dataset": dataset,
        "bucket": "all",
        "slice": "0.0000-1.0000",
        "reads": reads,
        "packing": packing,
        "sequence_length": size,
        "sequences": bins,
        "tokens_planned": sum(lengths),
        "pieces": [piece],
        "digest": "89abcdef",
    }
    stage = PhaseShards(arrow=False).bound(seed=5, tables={"tokenizer": table})
    return list(stage.write(iter([pa.RecordBatch.from_pylist([row], schema=SLICES)]), files, 0))


def two_phases(files, table):
    """Prefixes of a concatenated phase of three datasets and a packed phase of two."""
    rng, rows = np.random.default_rng(2), []
    for dataset, count, reads in (("a", 100, 1), ("b", 37, 3), ("c", 2, 1)):
        lengths = rng.integers(20, 200, count).tolist() if dataset != "c" else [9, 8]  # c is too small for one sample
        rows += write_phase(
            files, table, dataset, lengths, phase="general", index=0, packing="concatenate", size=64, reads=reads
        )
    for dataset, count, reads in (("d", 150, 1), ("e", 60, 2)):
        lengths = rng.integers(5, 300, count).tolist()
        rows += write_phase(
            files, table, dataset, lengths, phase="long", index=1, packing="best_fit", size=128, reads=reads
        )
    return pa.Table.from_batches(rows, PREFIXES)


def blended(files, table, prefixes, **settings):
    stage = Blends(**settings).bound(name="blends", seed=1, tables={"prefixes": prefixes, "tokenizer": table})
    return pa.Table.from_batches(list(stage.write(iter([]), files, 0)), stage.output()).to_pylist()


# ---------------------------------------------------------------------------------------------------------- format


def test_an_index_is_the_documented_bytes():
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 4) + struct.pack("<3i", 5, 1, 7)
    expected += struct.pack("<3q", 0, 10, 12) + struct.pack("<4q", 0, 1, 2, 3)
    assert b"".join(index_bytes(np.array([5, 1, 7], np.int32), np.dtype("<u2"))) == expected
    assert len(expected) == 42 + 20 * 3
    assert b"".join(index_bytes(np.empty(0, np.int32), np.dtype("<i4"))) == b"MMIDIDX\x00\x00" + struct.pack(
        "<QBQQq", 1, 4, 0, 1, 0
    )


def test_an_index_of_several_pieces_is_that_of_one():
    lengths = np.random.default_rng(0).integers(1, 9, (1 << 20) + 5).astype(np.int32)
    content = b"".join(index_bytes(lengths, np.dtype("<i4")))
    pointers = np.frombuffer(content, "<i8", len(lengths), 34 + 4 * len(lengths))
    assert np.array_equal(pointers, 4 * (np.cumsum(lengths, dtype=np.int64) - lengths))
    assert np.array_equal(
        np.frombuffer(content, "<i8", len(lengths) + 1, 34 + 12 * len(lengths)), np.arange(len(lengths) + 1)
    )


def test_pointers_do_not_overflow_32_bits():
    lengths = np.full(3, 2**31 - 1, np.int32)
    content = b"".join(index_bytes(lengths, np.dtype("<i4")))
    assert np.frombuffer(content, "<i8", 3, 34 + 12).tolist() == [0, 4 * (2**31 - 1), 8 * (2**31 - 1)]


@pytest.mark.parametrize(("vocabulary", "kind"), [(1000, "<u2"), (65_499, "<u2"), (65_500, "<i4"), (151_552, "<i4")])
def test_the_token_type_follows_megatrons_rule(vocabulary, kind):
    assert token_type(vocabulary) == np.dtype(kind)


def write_sequences(files, prefix, rows, vocabulary=70_000):
    writer = MegatronWriter(files, prefix, vocabulary)
    lengths = np.array([len(row) for row in rows], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ids = np.zeros((len(rows), 16), np.uint8)
    writer.append(
        Sequences(np.array(list(chain(*rows)), np.int32), offsets, ids, lengths, np.arange(len(rows) + 1), len(rows))
    )
    return writer.close()


def test_what_is_written_is_read_back_and_its_checksum_holds(files):
    for vocabulary in (400, 70_000):
        written = write_sequences(files, f"p{vocabulary}", [[1, 2, 356], [356], [7, 356]], vocabulary)
        index = idx_lengths(files.root / f"p{vocabulary}.idx")
        assert (index.lengths.tolist(), index.document_indices.tolist()) == ([3, 1, 2], [0, 1, 2, 3])
        assert np.fromfile(files.root / written.path, index.dtype).tolist() == [1, 2, 356, 356, 7, 356]
        assert written.bytes == 6 * index.dtype.itemsize
        assert written.checksum == digest_of(files.root / written.path)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda b: b"X" + b[1:], "not a Megatron index"),
        (lambda b: b[:20], "not a Megatron index"),
        (lambda b: b[:9] + b"\x02" + b[10:], "version is 2, expected 1"),
        (lambda b: b[:17] + b"\x09" + b[18:], "code 9, expected one of"),
        (lambda b: b[:-1], "size in bytes"),
        (lambda b: b + b"\x00", "size in bytes"),
        (lambda b: b[:34] + b"\x00" * 4 + b[38:], "0 tokens, expected one at least"),
        (lambda b: b[: 34 + 12 + 8] + b"\x01" + b[34 + 12 + 9 :], "running sum"),
        (lambda b: b[:-8] + b"\x02" + b[-7:], "document indices"),
    ],
)
def test_a_damaged_index_is_an_error_that_names_file_and_defect(damage, what, files):
    write_sequences(files, "p", [[1, 2, 3], [4], [5, 6]])
    path = files.root / "p.idx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"p\.idx.*{what}"):
        idx_lengths(path)


def test_a_bin_of_the_wrong_size_is_an_error(files):
    write_sequences(files, "p", [[1, 2, 3], [4]])
    (files.root / "p.bin").write_bytes(b"\x00" * 15)
    with pytest.raises(ValueError, match=r"p\.bin: size in bytes is 15, expected 16"):
        idx_lengths(files.root / "p.idx")


# ---------------------------------------------------------------------------------------------------------- blends


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40))
def test_megatron_plans_exactly_the_samples_that_the_weights_were_made_for(counts):
    weights = weights_for(counts)
    assert megatron_counts([float(weight) for weight in weights], sum(counts)) == counts


def test_some_plain_counts_would_be_rounded_to_one_sample_too_many():
    counts = [[i, i + 1, 3 * i + 7] for i in range(1, 400)]
    wrong = [c for c in counts if megatron_counts([float(x) for x in c], sum(c)) != c]
    assert wrong  # else the correction would have nothing to do
    assert all(megatron_counts([float(w) for w in weights_for(c)], sum(c)) == c for c in wrong)


def test_samples_are_what_whole_reads_hold():
    row = {"packing": "concatenate", "reads": 2, "tokens": 65, "sequence_length": 64, "sequences": 5}
    assert samples(row) == 2
    assert samples({**row, "reads": 1}) == 1
    assert samples({**row, "reads": 1, "tokens": 64}) == 0
    assert samples({**row, "reads": 1, "tokens": 0}) == 0
    assert samples({**row, "packing": "best_fit"}) == 10


def test_a_blend_names_every_prefix_with_samples_and_the_arguments_say_the_rest(files, tokenizer_table):
    prefixes = two_phases(files, tokenizer_table)
    rows = blended(files, tokenizer_table, prefixes, global_batch_size=8, trainer_seed=99)
    for phase, size, datasets in (("general", 64, ["a", "b"]), ("long", 128, ["d", "e"])):
        content = json.loads((files.root / "megatron" / phase / "blend.json").read_text())
        assert (content["valid"], content["test"]) == (None, None)
        mine = [row for row in rows if row["phase"] == phase and row["samples"]]
        assert [row["dataset"] for row in mine] == datasets
        assert content["train"] == [item for row in mine for item in (row["weight"], row["prefix"])]
        assert all((files.root / f"{row['prefix']}{ending}").exists() for row in mine for ending in (".bin", ".idx"))
        arguments = (files.root / "megatron" / phase / "args.txt").read_text().splitlines()
        expected = [
            f"--per-split-data-args-path {files.root}/megatron/{phase}/blend.json",
            f"--seq-length {size}",
            f"--train-samples {sum(row['samples'] for row in mine)}",
            "--mid-level-dataset-surplus 0",
            "--seed 99",
            "--global-batch-size 8",
            "--tokenizer-type HuggingFaceTokenizer",
            f"--tokenizer-model {files.root}/megatron/tokenizer",
        ]
        masks = ["--reset-position-ids", "--reset-attention-mask", "--eod-mask-loss"]
        assert arguments == expected + (masks if phase == "long" else [])
    left_out = [row for row in rows if not row["samples"]]
    assert [(row["dataset"], row["weight"]) for row in left_out] == [("c", None)]
    folder = files.root / "megatron" / "tokenizer"
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>") == END
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"


def test_a_phase_of_two_sequence_lengths_is_refused(files, tokenizer_table):
    prefixes = two_phases(files, tokenizer_table)
    mixed = prefixes.set_column(0, "phase", pa.array(["one"] * prefixes.num_rows))
    with pytest.raises(ValueError, match=r"phase one mixes sequence lengths \[64, 128\]"):
        blended(files, tokenizer_table, mixed)


# --------------------------------------------------------------------------------------------- megatron-core itself


@pytest.fixture(scope="module")
def one_process():
    """A torch process group of size 1, as Megatron's dataset builder needs."""
    pytest.importorskip(
        "megatron.core.datasets.gpt_dataset", reason="megatron-core is not installed: tokenmill[megatron]"
    )
    distributed = pytest.importorskip("torch.distributed")
    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    if mine:
        distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [400, 70_000])
def test_megatron_core_reads_our_files_as_its_own(vocabulary, files, one_process):
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    rng = np.random.default_rng(1)
    rows = [[*rng.integers(0, 350, n).tolist(), END] for n in rng.integers(0, 90, 200)]
    write_sequences(files, "ours", rows, vocabulary)
    ours = IndexedDataset(str(files.root / "ours"))
    assert [ours[i].tolist() for i in range(len(ours))] == rows
    builder = IndexedDatasetBuilder(str(files.root / "theirs.bin"), dtype=ours.index.dtype)
    for row in rows:
        builder.add_document(np.array(row), [len(row)])
    builder.finalize(str(files.root / "theirs.idx"))
    for ending in (".bin", ".idx"):
        assert (files.root / f"ours{ending}").read_bytes() == (files.root / f"theirs{ending}").read_bytes()


class EndOfDocument:
    """The little of a tokenizer that Megatron's datasets ask for."""

    vocab_size, eod, pad = END + 1, END, END
    unique_identifiers = {"class": "EndOfDocument"}  # noqa: RUF012


def build(files, phase, packed):
    """Megatron's own training dataset of a phase, from our blend.json and args.txt."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.utils import get_blend_from_list

    folder = files.root / "megatron" / phase
    arguments = dict([*line.split(" ", 1), ""][:2] for line in (folder / "args.txt").read_text().splitlines())
    blend = json.loads((folder / "blend.json").read_text())
    config = GPTDatasetConfig(
        random_seed=int(arguments["--seed"]),
        sequence_length=int(arguments["--seq-length"]),
        blend_per_split=[get_blend_from_list(blend[split]) for split in ("train", "valid", "test")],
        mid_level_dataset_surplus=float(arguments["--mid-level-dataset-surplus"]),
        path_to_cache=str(files.root / "cache"),
        reset_position_ids=packed,
        reset_attention_mask=packed,
        eod_mask_loss=packed,
        tokenizer=EndOfDocument(),
    )
    total = int(arguments["--train-samples"])
    return BlendedMegatronDatasetBuilder(GPTDataset, [total, 0, 0], lambda: True, config).build()[0], total


@pytest.mark.slow
def test_megatron_core_delivers_exactly_the_planned_samples_of_every_prefix(files, tokenizer_table, one_process):
    rows = blended(files, tokenizer_table, two_phases(files, tokenizer_table))
    for phase, size in (("general", 64), ("long", 128)):
        dataset, total = build(files, phase, packed=phase == "long")
        planned = [row["samples"] for row in rows if row["phase"] == phase and row["samples"]]
        assert len(dataset) == total == sum(planned)
        items = [dataset[i] for i in range(total)]
        assert np.bincount([item["dataset_id"] for item in items]).tolist() == planned
        assert {len(item["tokens"]) for item in items} == {size}


@pytest.mark.slow
def test_megatron_core_sees_every_concatenated_document_as_often_as_it_is_read(files, tokenizer_table, one_process):
    blended(files, tokenizer_table, two_phases(files, tokenizer_table))
    dataset, total = build(files, "general", packed=False)
    delivered = [0, 0]
    for i in range(total):
        delivered[int(dataset[i]["dataset_id"])] += int((dataset[i]["tokens"] == END).sum())
    assert abs(delivered[0] - 100) <= 2
    assert abs(delivered[1] - 3 * 37) <= 2


@pytest.mark.slow
def test_a_packed_sample_is_one_bin_whose_padding_costs_nothing(files, tokenizer_table, one_process):
    prefixes = two_phases(files, tokenizer_table)
    blended(files, tokenizer_table, prefixes)
    dataset, total = build(files, "long", packed=True)
    bins = {}
    for row in prefixes.to_pylist():
        if row["phase"] == "long":
            values = np.fromfile(files.root / row["path"], "<u2").reshape(-1, 128)
            bins[row["dataset"]] = Counter(one.tobytes() for one in values.astype("<i8"))
    seen = Counter()
    for i in range(total):
        item = dataset[i]
        seen[int(item["dataset_id"]), item["tokens"].numpy().tobytes()] += 1
        assert item["tokens"].numpy().astype("<i8").tobytes() in bins["de"[int(item["dataset_id"])]]
        assert (item["loss_mask"].numpy()[item["tokens"].numpy() == END] == 0).all()
        ends = np.flatnonzero(item["tokens"].numpy()[:-1] == END)
        assert (item["position_ids"].numpy()[ends + 1] == 0).all()
    for number, (dataset_name, reads) in enumerate((("d", 1), ("e", 2))):
        off = {one: seen[number, one] - reads * times for one, times in bins[dataset_name].items()}
        assert sum(off.values()) == 0
        assert sum(map(abs, off.values())) <= 2  # the last sample comes from an epoch that Megatron opens for it


def test_remainders_of_small_prefixes_add_up_to_sequences_for_the_largest() -> None:
    rows = [
        {"packing": "concatenate", "reads": 1, "tokens": tokens, "sequence_length": 100}
        for tokens in (150, 190, 170, 201)
    ]
    assert [samples(row) for row in rows] == [1, 1, 1, 2]
    assert phase_samples(rows) == [1, 2, 2, 2]  # 711 tokens are 7 sequences
    assert phase_samples([{**row, "packing": "best_fit", "sequences": 3} for row in rows]) == [3, 3, 3, 3]


def test_a_prefix_taken_one_sequence_beyond_its_reads_is_delivered_so_by_our_arithmetic() -> None:
    counts = phase_samples(
        [{"packing": "concatenate", "reads": 2, "tokens": 37 + n, "sequence_length": 16} for n in range(40)]
    )
    assert sum(counts) == sum(2 * (37 + n) for n in range(40)) // 16
    assert megatron_counts([float(w) for w in weights_for(counts)], sum(counts)) == counts
