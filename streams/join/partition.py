"""Which partition a request belongs to: Kafka's Java default, murmur2 of the key's bytes.

Java takes `toPositive(murmur2(key)) % partitions`, where `toPositive` clears the sign bit (it does not negate), and
librdkafka's `murmur2_random` does the same for every key that is not null. The hash is the 32-bit MurmurHash2 of Austin
Appleby with the seed 0x9747b28c, read as little-endian words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFF_FFFF
_FEW = 12  # below this the plain loop is faster than setting numpy up


def murmur2(key: bytes) -> int:
    """Give the hash as an unsigned 32-bit number.

    >>> murmur2(b"foobar") - 2**32   # as Java's signed int
    -790332482
    """
    size = len(key)
    whole = size & ~3
    h = _SEED ^ size
    for k in struct.unpack_from(f"<{whole >> 2}I", key):
        k = k * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if size != whole:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Give the partition of one key.

    >>> partition_of(b"foobar", 4)
    2
    """
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Give the partition of each key; keys of one length are hashed side by side."""
    if partitions == 1:
        return [0] * len(keys)
    if len(keys) < _FEW:
        return [partition_of(key, partitions) for key in keys]
    by_size: dict[int, list[int]] = {}
    for index, key in enumerate(keys):
        by_size.setdefault(len(key), []).append(index)
    found = [0] * len(keys)
    for size, indices in by_size.items():
        if len(indices) < _FEW:
            for index in indices:
                found[index] = partition_of(keys[index], partitions)
            continue
        hashes = _murmur2_of_one_size([keys[index] for index in indices], size)
        targets = (hashes & np.uint32(0x7FFF_FFFF)) % np.uint32(partitions)
        for index, target in zip(indices, targets.tolist(), strict=True):
            found[index] = target
    return found


def _murmur2_of_one_size(keys: list[bytes], size: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    rows = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), size)
    whole = size & ~3
    words = np.ascontiguousarray(rows[:, :whole]).view("<u4").astype(np.uint32)
    m = np.uint32(_M)
    h = np.full(len(keys), _SEED ^ size, dtype=np.uint32)
    for column in range(whole >> 2):
        k = words[:, column] * m
        k = (k ^ (k >> np.uint32(24))) * m
        h = (h * m) ^ k
    if size != whole:
        for place in range(size - whole):
            h = h ^ (rows[:, whole + place].astype(np.uint32) << np.uint32(8 * place))
        h = h * m
    h = (h ^ (h >> np.uint32(13))) * m
    return h ^ (h >> np.uint32(15))
