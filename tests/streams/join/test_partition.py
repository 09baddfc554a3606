"""Partitions agree with Java's vectors and with the librdkafka that our own clients use."""

import ctypes
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.join.partition import murmur2, partition_of, partitions_of

# Apache Kafka's own test vectors, as Java's signed ints.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), VECTORS.items())
def test_hash_equals_kafkas_vectors(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


def test_sign_bit_is_masked_not_negated() -> None:
    assert partition_of(b"foobar", 1000) == (-790332482 & 0x7FFFFFFF) % 1000 != 790332482 % 1000


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 200))
def test_keys_hashed_together_go_where_each_goes_alone(keys: list[bytes], partitions: int) -> None:
    assert partitions_of(keys, partitions) == [partition_of(key, partitions) for key in keys]


@given(st.lists(st.binary(min_size=7, max_size=9), min_size=40, max_size=60))
def test_keys_of_one_size_are_hashed_side_by_side(keys: list[bytes]) -> None:
    assert partitions_of(keys, 64) == [partition_of(key, 64) for key in keys]


@given(st.binary(min_size=1, max_size=70), st.integers(1, 200))
def test_librdkafka_agrees(key: bytes, partitions: int) -> None:
    assert _librdkafka()(None, key, len(key), partitions, None, None) == partition_of(key, partitions)


def _librdkafka() -> "ctypes._NamedFuncPointer":
    spec = importlib.util.find_spec("confluent_kafka")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent.parent / "confluent_kafka.libs"
    (path,) = wheel.glob("librdkafka*.so*")
    partitioner = ctypes.CDLL(str(path)).rd_kafka_msg_partitioner_murmur2_random
    partitioner.restype = ctypes.c_int32
    partitioner.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return partitioner
