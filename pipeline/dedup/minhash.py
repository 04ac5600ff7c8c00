"""Near-duplicates by MinHash and locality-sensitive hashing: signatures -> bands -> edges -> clusters -> one stays.

    signatures   bands * rows minima per document                                       (Annotate)
    bands        one row per document and band: a hash of the band's minima             (Expand)
    exchange     rows with the same band hash meet
    edges        documents that meet are joined; connected ones form a cluster          (Fold -> table `clusters`)
    keepers      signatures of the documents that stay, one per cluster                 (Fold -> table `keepers`)
    cluster      each document's keeper, and its estimated Jaccard similarity to it     (Annotate)
    keep_one     the others go, as `near_duplicate`                                     (Filter)

Two documents of Jaccard similarity s meet in at least one band with probability 1 - (1 - s**rows)**bands: 0.57 at 0.7,
0.92 at 0.8, 1.0 at 0.9 with FineWeb's 14 bands of 8 rows. Whoever meets is joined, and clusters are connected
components, so a chain of near-duplicates may link documents that share little; `min_similarity` refuses pairs whose whole
signatures disagree, for about twelve times the bytes in the exchange. Every dropped document carries its estimated
similarity to its keeper, so that such chains can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr, model_validator

from pipeline.dedup.exact import KeepOne
from pipeline.dedup.ids import Index, numbered
from pipeline.kernels.hashing import binary16, hash_rows
from pipeline.kernels.minhash import MAX_LEADERS, agreeing_values, leaders, signatures
from pipeline.kernels.spans import buffers
from pipeline.kernels.union_find import components
from pipeline.schema import (
    CLUSTER_ID,
    CLUSTER_SIZE,
    EVIDENCE,
    ID,
    ID_TYPE,
    KEEPER_ID,
    METHOD,
    PARENT_ID,
    SIMILARITY,
    TEXT,
    document_id,
    field,
)
from pipeline.stage import Annotate, Compound, Exchange, Expand, Fold, Step

BAND_KEY = field(
    "band_key", pa.uint64(), "XXH64 of one band's minima (little-endian uint32), the band's number as seed"
)

Matrix = npt.NDArray[np.uint32]


def minhash_field(permutations: int) -> pa.Field:
    """The signature column for that many permutations."""
    kind = pa.list_(pa.uint32(), permutations)
    return field("minhash", kind, "MinHash minima, one per permutation; null for a text without words")


def minima_of(column: pa.FixedSizeListArray) -> Matrix:
    """uint32[n, permutations]: the signatures as they lie in memory; what stands for a null means nothing."""
    width, values = column.type.list_size, column.values
    if len(column) == 0:
        return np.empty((0, width), np.uint32)
    start = values.offset + column.offset * width
    return np.frombuffer(values.buffers()[1], np.uint32)[start : start + len(column) * width].reshape(-1, width)


# ---------------------------------------------------------------------------------------------------- signatures


class Signatures(Annotate):
    """Adds `minhash`: 32-bit minima over word shingles (kernels/minhash.py defines words, shingles and permutations).

    Memory: 4 bytes per permutation and document of the batch. Broder 1997 for the method; no seed, so that the
    signatures of two runs compare.
    """

    kind: ClassVar[str] = "minhash_signatures"

    permutations: int = Field(default=112, ge=1)
    """Length of a signature: bands times rows."""
    shingle_words: int = Field(default=5, ge=1, le=64)
    """Words in a shingle."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (minhash_field(self.permutations),)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        texts = docs["text"]
        minima, empty = signatures(*buffers(texts), self.shingle_words, self.permutations)
        if texts.null_count:
            empty |= texts.is_null().to_numpy(zero_copy_only=False)
        values = pa.array(minima.reshape(-1))
        return {"minhash": pa.FixedSizeListArray.from_arrays(values, self.permutations, mask=pa.array(empty))}


# ---------------------------------------------------------------------------------------------------- bands

_CHILD_SEEDS = np.frombuffer(document_id("minhash_bands"), "<u8")
_ALONE_SEED = np.uint64(2**64 - 1)  # of the key that a document without words has to itself; bands count from 0


class Bands(Expand):
    """One row per document and band: `band_key`, and the signature where pairs are to be verified.

    A document without words has no bands and gives one row with a key of its own, so that nothing meets it. Memory: 110
    bytes per document and band of the batch, and as often the signature when it travels.
    """

    kind: ClassVar[str] = "minhash_bands"
    narrow: ClassVar[bool] = True

    bands: int = Field(default=14, ge=1)
    rows_per_band: int = Field(default=8, ge=1)
    signature: bool = False
    """Whether `minhash` travels with every row."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, minhash_field(self.bands * self.rows_per_band))

    def output(self, schema: pa.Schema) -> pa.Schema:
        fields = [ID, PARENT_ID, BAND_KEY]
        return pa.schema([*fields, minhash_field(self.bands * self.rows_per_band)] if self.signature else fields)

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        documents, signed = docs.num_rows, docs["minhash"].is_valid().to_numpy(zero_copy_only=False)
        counts = np.where(signed, self.bands, 1)
        parents = np.repeat(np.arange(documents), counts)
        ordinals = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
        parent_ids = docs["id"].take(pa.array(parents))
        bands = np.tile(np.arange(self.bands, dtype=np.uint64), documents)
        minima = np.ascontiguousarray(minima_of(docs["minhash"]))
        keys = hash_rows(minima.view(np.uint8).reshape(documents * self.bands, 4 * self.rows_per_band), bands)
        own = hash_rows(_id_bytes(docs["id"]), np.full(documents, _ALONE_SEED))
        keys = np.where(signed[parents], keys[parents * self.bands + ordinals], own[parents])
        columns = [_child_ids(parent_ids, ordinals), parent_ids, pa.array(keys)]
        if self.signature:
            columns.append(docs["minhash"].take(pa.array(parents)))
        return pa.RecordBatch.from_arrays(columns, schema=self.output(docs.schema))


def _id_bytes(ids: pa.Array) -> npt.NDArray[np.uint8]:
    """uint8[n, 16]."""
    if len(ids) == 0:
        return np.empty((0, 16), np.uint8)
    return np.frombuffer(ids.buffers()[1], np.uint8, count=16 * len(ids), offset=16 * ids.offset).reshape(-1, 16)


def _child_ids(parents: pa.Array, ordinals: npt.NDArray[np.int64]) -> pa.Array:
    """binary(16)[n]: hashes of (parent id, ordinal) under two seeds of this stage."""
    place = np.concatenate([_id_bytes(parents), ordinals.astype(">u8").view(np.uint8).reshape(-1, 8)], axis=1)
    high, low = (hash_rows(place, np.full(len(place), seed, np.uint64)) for seed in _CHILD_SEEDS)
    return binary16(high, low)


# ---------------------------------------------------------------------------------------------------- edges

_EDGES = pa.schema([pa.field("left", ID_TYPE), pa.field("right", ID_TYPE)])
_COMPACT_EDGES = 4_000_000  # 128 MB of ids, and as much again while they are numbered

CLUSTERS = pa.schema([ID, KEEPER_ID, CLUSTER_ID, CLUSTER_SIZE])
"""The table `clusters`: documents in clusters of two or more, by id."""


class _Edges:
    """Pairs of documents that belong together, thinned to one per document whenever many have gathered."""

    def __init__(self) -> None:
        self._waiting: list[pa.RecordBatch] = []
        self._rows, self._limit = 0, _COMPACT_EDGES

    def add(self, left: pa.Array, right: pa.Array) -> None:
        self._waiting.append(pa.RecordBatch.from_arrays([left, right], schema=_EDGES))
        self._rows += len(left)
        if self._rows >= self._limit:
            self._waiting = [self.spanning()]
            self._rows = self._waiting[0].num_rows
            self._limit = self._rows + max(self._rows, _COMPACT_EDGES)

    def clusters(self) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """All documents by id, and for each the number of the lowest one in its cluster."""
        edges = pa.Table.from_batches(self._waiting, schema=_EDGES)
        ends = (
            pa.concat_arrays([*edges["left"].chunks, *edges["right"].chunks])
            if edges.num_rows
            else pa.array([], ID_TYPE)
        )
        ids, places = numbered(ends)
        return ids, components(len(ids), places[: edges.num_rows], places[edges.num_rows :])

    def spanning(self) -> pa.RecordBatch:
        """The same clusters in the fewest edges: every document but the lowest of its cluster, with that lowest one."""
        ids, labels = self.clusters()
        others = np.flatnonzero(labels != np.arange(len(labels)))
        return pa.RecordBatch.from_arrays(
            [ids.take(pa.array(others)), ids.take(pa.array(labels[others]))], schema=_EDGES
        )


class Edges(Fold):
    """Joins documents that share a band; connected ones form a cluster, kept by its lowest id. Gives `clusters`.

    Within a band hash, each document is joined with the first one. With `min_similarity`, only if their signatures
    agree in that share of places; a document that agrees with none of the (at most 8) leading ones leads in turn.

    Memory: a part keeps at most one edge (32 bytes) per document beside the 4 million last found; the fold holds 32
    bytes per edge of all parts, about 150 while it numbers them, and gives 56 bytes per document in a cluster.
    """

    kind: ClassVar[str] = "minhash_edges"

    permutations: int = Field(default=112, ge=1)
    min_similarity: float | None = Field(default=None, gt=0, le=1)
    """Least estimated Jaccard similarity of a pair; null joins all that share a band."""

    def needs(self) -> tuple[pa.Field, ...]:
        verified = (minhash_field(self.permutations),) if self.min_similarity is not None else ()
        return (ID, PARENT_ID, BAND_KEY, *verified)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        edges = _Edges()
        columns = [one.name for one in self.needs() if one.name != "id"]
        before: pa.RecordBatch | None = None  # leaders of the group that the last batch ended in
        for batch in batches:
            if batch.num_rows == 0:
                continue
            rows = batch.select(columns)
            if before is not None:
                rows = _one_batch(pa.Table.from_batches([before, rows]))
            keys = rows["band_key"].to_numpy()
            first = self._leaders(rows, keys)
            others = np.flatnonzero(first != np.arange(len(first)))
            parents = rows["parent_id"]
            edges.add(parents.take(pa.array(others)), parents.take(pa.array(first[others])))
            group = int(np.searchsorted(keys, keys[-1]))
            leading = group + np.flatnonzero(first[group:] == np.arange(group, len(first)))[:MAX_LEADERS]
            before = rows.take(pa.array(leading if self.min_similarity is not None else leading[:1]))
        return edges.spanning()

    def _leaders(self, rows: pa.RecordBatch, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        if self.min_similarity is None:
            return leaders(keys)
        # Rounded first: 0.7 * 10 is a hair above 7 in binary, and 7 of 10 places are enough.
        least = math.ceil(round(self.min_similarity * self.permutations, 6))
        return leaders(keys, minima_of(rows["minhash"]), least)

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        edges = _Edges()
        for one in summaries:
            edges.add(one["left"], one["right"])
        ids, labels = edges.clusters()
        lowest = ids.take(pa.array(labels))
        sizes = np.bincount(labels, minlength=len(labels))[labels].astype(np.int64)
        return pa.table([ids, lowest, lowest, pa.array(sizes)], schema=CLUSTERS)


# ---------------------------------------------------------------------------------------------------- clusters


class _Lookup(NamedTuple):
    """A table in one piece, and where its ids stand."""

    rows: pa.RecordBatch
    ids: Index


class _Lookups:
    """Lookups by table name, made once per table rather than once per batch."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[pa.Table, _Lookup]] = {}

    def of(self, name: str, table: pa.Table) -> _Lookup:
        made = self._made.get(name)
        if made is None or made[0] is not table:
            rows = _one_batch(table)
            made = self._made[name] = (table, _Lookup(rows, Index.of(rows["id"])))
        return made[1]


class KeeperSignatures(Fold):
    """Gathers the signatures of the documents that stay for others. Gives `keepers`.

    Memory: the table `clusters` with 16 bytes more for each row, and 4 bytes per permutation and cluster.
    """

    kind: ClassVar[str] = "minhash_keepers"

    permutations: int = Field(default=112, ge=1)

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, minhash_field(self.permutations))

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        clusters = self.table("clusters")
        keepers = Index.of(clusters["id"].filter(pc.equal(clusters["id"], clusters["keeper_id"])))
        schema = pa.schema(self.needs())
        found = [
            one.select(schema.names).filter(pa.array(keepers.find(one["id"]) >= 0)).cast(schema) for one in batches
        ]
        return _one_batch(pa.Table.from_batches(found, schema=schema))

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        schema = pa.schema(self.needs())
        return pa.Table.from_batches([one.cast(schema) for one in summaries], schema=schema).sort_by("id")


class Cluster(Annotate):
    """Adds the evidence: keeper, cluster, its size, and the estimated Jaccard similarity to the keeper.

    A document that met no other is its own keeper, in a cluster of one. Memory: the tables `clusters` and `keepers`, and
    16 bytes more for each of their rows.
    """

    kind: ClassVar[str] = "minhash_cluster"

    permutations: int = Field(default=112, ge=1)

    _lookups: _Lookups = PrivateAttr(default_factory=_Lookups)

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, minhash_field(self.permutations))

    def adds(self) -> tuple[pa.Field, ...]:
        return EVIDENCE

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        clusters, index = self._lookups.of("clusters", self.table("clusters"))
        places = index.find(docs["id"])
        rows = pa.array(places, mask=places < 0)  # null: in no cluster
        keepers = pc.coalesce(clusters["keeper_id"].take(rows), docs["id"])
        return {
            KEEPER_ID.name: keepers,
            CLUSTER_ID.name: pc.coalesce(clusters["cluster_id"].take(rows), docs["id"]),
            CLUSTER_SIZE.name: pc.coalesce(clusters["cluster_size"].take(rows), pa.scalar(1, pa.int64())),
            METHOD.name: pa.repeat(pa.scalar("minhash", pa.string()), docs.num_rows),
            SIMILARITY.name: self._similarity(docs, np.flatnonzero(places >= 0), keepers),
        }

    def _similarity(self, docs: pa.RecordBatch, members: npt.NDArray[np.int64], keepers: pa.Array) -> pa.Array:
        """float32[n]: the share of places in which a signature equals its keeper's; 1 for a document on its own."""
        similarity = np.ones(docs.num_rows, np.float32)
        if len(members):
            table, index = self._lookups.of("keepers", self.table("keepers"))
            places = index.find(keepers.take(pa.array(members)))
            agreeing = agreeing_values(minima_of(docs["minhash"])[members], minima_of(table["minhash"]), places)
            similarity[members] = agreeing / self.permutations
        return pa.array(similarity)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


# ---------------------------------------------------------------------------------------------------- the compound


class Lsh(NamedTuple):
    """How signatures are cut into bands, and how many words a shingle has."""

    bands: int
    rows: int
    shingle_words: int


PRESETS = {
    "fineweb": Lsh(14, 8, 5),  # datatrove, examples/fineweb.py: 112 hashes, word 5-grams
    "fineweb2": Lsh(14, 8, 5),  # FineWeb-2, arXiv:2506.20920: the same, per language
    "stack_v2": Lsh(25, 10, 5),  # arXiv:2402.19173: 250 permutations at 0.7; optimal bands and rows by its code
}
"""Published settings with word shingles. Words are ours (kernels/minhash.py); each tool splits a little differently."""

MAX_PERMUTATIONS = 16384


class MinhashDedup(Compound):
    """One document per cluster of near-duplicates: the lowest id. Drops the others as `near_duplicate`, with evidence.

    Memory: the batch, and the table of documents in clusters (56 bytes each). Moves (16 + 16 + 8) bytes per document and
    band, twelve times that with `min_similarity`. Broder 1997 for MinHash; Penedo et al. 2024 (FineWeb, arXiv:2406.17557) for the use.
    """

    kind: ClassVar[str] = "minhash_dedup"

    preset: Literal["fineweb", "fineweb2", "stack_v2"] | None = None
    """A published setting; `bands`, `rows` and `shingle_words` given beside it win. Null stands for `fineweb`."""
    bands: int | None = Field(default=None, ge=1, le=1024)
    rows: int | None = Field(default=None, ge=1, le=1024)
    """Minima in a band. More rows demand more likeness, more bands forgive more."""
    shingle_words: int | None = Field(default=None, ge=1, le=64)
    """Words in a shingle."""
    min_similarity: float | None = Field(default=None, gt=0, le=1)
    """Least estimated Jaccard similarity at which a pair that shares a band is joined; null joins all that do."""
    keep: Literal["lowest_id"] = "lowest_id"
    """Which document of a cluster stays."""
    partitions: int = Field(default=16, ge=1)
    """Parts of the exchange of bands."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        lsh = self.lsh()
        if lsh.bands * lsh.rows > MAX_PERMUTATIONS:
            msg = (
                f"bands * rows must be at most {MAX_PERMUTATIONS} permutations, "
                f"not {lsh.bands} * {lsh.rows} = {lsh.bands * lsh.rows}: use fewer bands or rows"
            )
            raise ValueError(msg)
        return self

    def lsh(self) -> Lsh:
        """The bands, rows and words that hold: own settings before the preset's."""
        preset = PRESETS[self.preset or "fineweb"]
        return Lsh(self.bands or preset.bands, self.rows or preset.rows, self.shingle_words or preset.shingle_words)

    def match_probability(self, similarity: float) -> float:
        """How likely two documents of this Jaccard similarity share a band."""
        lsh = self.lsh()
        return 1.0 - (1.0 - similarity**lsh.rows) ** lsh.bands

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def steps(self) -> list[Step]:
        lsh = self.lsh()
        permutations, verify = lsh.bands * lsh.rows, self.min_similarity is not None
        travels = (PARENT_ID.name, "minhash") if verify else (PARENT_ID.name,)
        clusters = {"clusters": "edges"}
        return [
            Step("signatures", Signatures(permutations=permutations, shingle_words=lsh.shingle_words), checkpoint=True),
            Step("bands", Bands(bands=lsh.bands, rows_per_band=lsh.rows, signature=verify)),
            Step("exchange", Exchange(by=BAND_KEY.name, partitions=self.partitions, columns=travels)),
            Step("edges", Edges(permutations=permutations, min_similarity=self.min_similarity)),
            Step("keepers", KeeperSignatures(permutations=permutations), after=("signatures",), tables=clusters),
            Step(
                "cluster",
                Cluster(permutations=permutations),
                after=("signatures",),
                tables={**clusters, "keepers": "keepers"},
            ),
            Step("keep_one", KeepOne(reason="near_duplicate", spent=("minhash",))),
        ]
