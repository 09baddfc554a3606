"""What numba lacks for work on bytes: memory by address, memcpy, hashes, integers as text. Compiled once, then cached.

Compiled code here takes **addresses** (int64), not arrays: an array argument costs two atomic counts at every call that
is not inlined, which made reading JSON three times slower. Nothing checks bounds: callers have, and the arrays behind
the addresses are kept by their owners.

The hashes are XXH64 (Yann Collet; the same numbers as `xxhash.xxh64`) and Kafka's 32-bit MurmurHash2 (as in
`streams.join.partition`).
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from streams.runtime.compiled import compiled

Words = NDArray[np.int64]

PADDED = 40
"""Bytes behind data of our own that compiled code may read."""
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def reserve(size: int) -> Words:
    """Reserve `size` bytes of zeros as 64-bit words. Pages count as memory only once they have been written.

    So an array may be as large as it will ever need to be: it is never moved, and growing it never stalls.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=np.int64)


def huge(count: int) -> Words:
    """Give `count` 64-bit words for one use, in huge pages where the system has them.

    Writing a fresh array for the first time costs twice as much in pages of 4 kB: most of it is page faults.
    """
    area = mmap.mmap(-1, 8 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, dtype=np.int64)


def release(words: Words, start: int, count: int) -> None:
    """Give whole pages of a reserved array back. They read as zeros from then on."""
    area: Any = words
    while not isinstance(area, mmap.mmap):
        area = area.obj if isinstance(area, memoryview) else area.base
    area.madvise(mmap.MADV_DONTNEED, start * 8, count * 8)


def address(array: NDArray[Any]) -> int:
    """Give where an array's first element lies. The caller keeps the array alive."""
    return int(array.__array_interface__["data"][0])  # a tenth of what `ctypes` takes


def padded(body: bytes) -> NDArray[np.uint8]:
    """Give bytes with those behind them that compiled code may read."""
    return np.frombuffer(body + bytes(PADDED), dtype=np.uint8)


def _load(width: int, result: Any) -> Any:
    def typer(typingctx: Any, at: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(width).as_pointer())
            value = builder.load(pointer, align=1)
            return value if width == 64 else builder.zext(value, ir.IntType(64))

        return result(types.int64), codegen

    return intrinsic(typer)


def _store(width: int) -> Any:
    def typer(typingctx: Any, at: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(width).as_pointer())
            word = args[1] if width == 64 else builder.trunc(args[1], ir.IntType(width))
            builder.store(word, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(typer)


def _copy(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bytes_ = ir.IntType(8).as_pointer()
        raw: Any = cgutils.raw_memcpy
        raw(builder, builder.inttoptr(args[0], bytes_), builder.inttoptr(args[1], bytes_), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _made(implement: Any) -> Any:
    return intrinsic(implement)


def _bits(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


def _put_double(typingctx: Any, at: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.DoubleType().as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


def _swap(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bswap(args[0])

    return types.uint64(types.uint64), codegen


def _prefetch(typingctx: Any, at: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        declare: Any = cgutils.get_or_insert_function
        wanted = declare(builder.module, kind, "llvm.prefetch.p0")
        builder.call(wanted, [builder.inttoptr(args[0], pointer), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


u8: Callable[[int], int] = _load(8, types.int64)
"""Read a byte as int64."""
u32: Callable[[int], int] = _load(32, types.int64)
"""Read four bytes, without sign."""
i64: Callable[[int], int] = _load(64, types.int64)
"""Read 8 bytes, little endian, from any address."""
u64: Any = _load(64, types.uint64)
put8: Callable[[int, int], None] = _store(8)
put64: Callable[[int, int], None] = _store(64)
copy: Callable[[int, int, int], None] = _made(_copy)
"""Copy(to, source, count): bytes that do not overlap."""
put_double: Callable[[int, float], None] = _made(_put_double)
swapped: Any = _made(_swap)
"""Give a uint64 with its bytes in the other order."""
prefetch: Callable[[int], None] = _made(_prefetch)
"""Let the processor bring what lies at an address near: a hint, which may be wrong."""
as_float: Callable[[int], float] = _made(_bits)
"""Read the bits of an int64 as a double."""


_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@compiled
def _rotate(value: Any, bits: int) -> Any:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def _round(total: Any, word: Any) -> Any:
    return _rotate(total + word * _P2, 31) * _P1


@compiled
def xxh64(start: int, size: int, seed: int) -> int:
    """XXH64 of `size` bytes; the unsigned number's bits as int64."""
    at = start
    end = start + size
    s = np.uint64(seed)
    if size >= 32:
        a = s + _P1 + _P2
        b = s + _P2
        c = s
        d = s - _P1
        while at <= end - 32:
            a = _round(a, u64(at))
            b = _round(b, u64(at + 8))
            c = _round(c, u64(at + 16))
            d = _round(d, u64(at + 24))
            at += 32
        h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        h = (h ^ _round(np.uint64(0), a)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), b)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), c)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), d)) * _P1 + _P4
    else:
        h = s + _P5
    h = h + np.uint64(size)
    while at <= end - 8:
        h = _rotate(h ^ _round(np.uint64(0), u64(at)), 27) * _P1 + _P4
        at += 8
    if at <= end - 4:
        four = u8(at) | (u8(at + 1) << 8) | (u8(at + 2) << 16) | (u8(at + 3) << 24)
        h = _rotate(h ^ (np.uint64(four) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(u8(at)) * _P5), 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return np.int64(h ^ (h >> np.uint64(32)))  # type: ignore[return-value]


@compiled
def partition_of(start: int, size: int, partitions: int) -> int:
    """Kafka's default partition of a key."""
    if partitions == 1:
        return 0
    m = 0x5BD1E995
    mask = 0xFFFFFFFF
    h = (0x9747B28C ^ size) & mask
    at = start
    end = start + size
    while at <= end - 4:
        k = (u8(at) | (u8(at + 1) << 8) | (u8(at + 2) << 16) | (u8(at + 3) << 24)) * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = ((h * m) & mask) ^ k
        at += 4
    if at < end:
        shift = 0
        while at < end:
            h ^= u8(at) << shift
            shift += 8
            at += 1
        h = h * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return ((h ^ (h >> 15)) & 0x7FFFFFFF) % partitions


@compiled
def same(one: int, other: int, size: int) -> bool:
    """Whether two stretches of bytes are equal."""
    done = 0
    while done <= size - 8:
        if i64(one + done) != i64(other + done):
            return False
        done += 8
    while done < size:
        if u8(one + done) != u8(other + done):
            return False
        done += 1
    return True


@compiled
def write_int(out: int, value: int) -> int:
    """Write a number that is not negative in decimal; gives the address behind it."""
    digits = 1
    rest = value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    place = out + digits
    rest = value
    while place > out:
        place -= 1
        put8(place, 48 + rest % 10)
        rest //= 10
    return out + digits
