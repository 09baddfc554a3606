"""The compiled hashes and numbers are those of the reference implementations."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from streams.join import partition
from streams.runtime.native import address, partition_of, same, write_int, xxh64


def at(body: bytes, shift: int = 0) -> tuple[int, object]:
    """Give the address of bytes that lie `shift` bytes off a word, with noise around them."""
    kept = np.frombuffer(b"\xa5" * shift + body + b"\xa5" * 16, dtype=np.uint8)
    return address(kept) + shift, kept


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_xxh64_of_every_length(seed: int) -> None:
    random = Random(seed)
    for size in [*range(140), 1_000, 4_096, 70_001]:
        body = random.randbytes(size)
        start, kept = at(body, size % 8)
        assert xxh64(start, size, seed) & (2**64 - 1) == xxh64_intdigest(body, seed), size
        del kept


@given(st.binary(max_size=200), st.sampled_from([1, 2, 3, 12, 64, 1_000]), st.integers(0, 7))
def test_partition_is_kafkas(body: bytes, partitions: int, shift: int) -> None:
    start, kept = at(body, shift)
    assert partition_of(start, len(body), partitions) == partition.partitions_of([body], partitions)[0]
    del kept


@given(st.integers(0, 2**63 - 1))
def test_integers_are_written_in_decimal(value: int) -> None:
    out = np.full(40, 0xA5, dtype=np.uint8)
    end = write_int(address(out), value)
    text = str(value).encode()
    assert end - address(out) == len(text)
    assert out.tobytes() == text + b"\xa5" * (40 - len(text))


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 7), st.integers(0, 7))
def test_same_looks_at_every_byte_and_none_behind(body: bytes, place: int, shift: int, other_shift: int) -> None:
    start, kept = at(body, shift)
    equal, kept_equal = at(body, other_shift)
    assert same(start, equal, len(body))
    if place < len(body):
        changed = bytearray(body)
        changed[place] ^= 1
        other, kept_other = at(bytes(changed), other_shift)
        assert not same(start, other, len(body))
        assert same(start, other, place)
        del kept_other
    del kept, kept_equal
