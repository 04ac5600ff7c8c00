"""XXH64 over Arrow buffers agrees with the xxhash package bit by bit."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.hashing import NULL_HASH, SEED_HIGH, SEED_LOW, hash128, hash_rows, hash_strings

KINDS = [pa.large_string(), pa.string(), pa.large_binary(), pa.binary()]


def twin(value: bytes | str | None, seed: int) -> int:
    return (
        NULL_HASH
        if value is None
        else xxhash.xxh64_intdigest(value.encode() if isinstance(value, str) else value, seed)
    )


@given(st.lists(st.none() | st.text(max_size=80)), st.integers(0, 2**64 - 1), st.integers(0, 5), st.sampled_from(KINDS))
def test_hashes_agree_with_xxhash_in_every_string_type_and_in_slices(
    values: list[str | None], seed: int, start: int, kind: pa.DataType
) -> None:
    encoded = [value if value is None or kind in KINDS[:2] else value.encode() for value in values]
    hashes = hash_strings(pa.array(encoded, kind)[start:], seed)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [twin(value, seed) for value in values[start:]]


def test_every_length_around_the_32_byte_lanes_agrees() -> None:
    source = random.Random(3)
    values = [source.randbytes(length) for length in range(200)] + [source.randbytes(100_003)]
    assert hash_strings(pa.array(values, pa.large_binary()), 11).tolist() == [twin(v, 11) for v in values]


@given(st.lists(st.none() | st.binary(min_size=7, max_size=7)), st.integers(0, 3))
def test_fixed_size_binary_agrees_in_slices(values: list[bytes | None], start: int) -> None:
    array = pa.array(values, pa.binary(7))[start:]
    assert hash_strings(array, 5).tolist() == [twin(value, 5) for value in values[start:]]


def test_rows_hash_under_their_own_seeds() -> None:
    rows = np.frombuffer(random.Random(1).randbytes(60), np.uint8).reshape(5, 12)
    seeds = np.array([0, 1, 2, 2**63, 2**64 - 1], np.uint64)
    assert hash_rows(rows, seeds).tolist() == [twin(r.tobytes(), int(s)) for r, s in zip(rows, seeds, strict=True)]
    with pytest.raises(ValueError, match="5 rows, 2 seeds"):
        hash_rows(rows, seeds[:2])


def test_hash128_is_two_seeds_big_endian_and_null_is_zero() -> None:
    hashed = hash128(pa.array(["a text", None, ""], pa.large_string()))
    assert hashed.type == pa.binary(16)
    both = [twin("a text", seed).to_bytes(8, "big") for seed in (SEED_HIGH, SEED_LOW)]
    assert hashed[0].as_py() == b"".join(both)
    assert hashed[1].as_py() == bytes(16) != hashed[2].as_py()


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="not int64"):
        hash_strings(pa.array([1, 2]))


def test_an_empty_column_has_no_hashes() -> None:
    assert len(hash_strings(pa.array([], pa.large_string()))) == 0
    assert len(hash128(pa.array([], pa.binary(16)))) == 0
