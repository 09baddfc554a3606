"""The scales of ledgers: stored edges, and losses in integer arithmetic that any engine reproduces bit for bit.

Two ways to compute a logit differ in half of their last bits, and so do two `log`s. Therefore nothing here that reaches
a ledger goes through a transcendental function of a score. Bins come from comparisons with stored edges, losses from a
stored table and integers. The tables themselves are computed in decimal arithmetic (libmpdec rounds correctly, 40
digits) and rounded once, so they are the same on every machine; `tables()` hands them to SQL.

**Score edges.** `score_edges()[i]` is the double nearest to 1 / (1 + e^−x) at x = −16 + (i + 1) / 64, i = 0…2046. The
bin of a score is the number of edges ≤ it. Bins of 512 and of 64 are that bin // 4 and // 32.

**Log loss of one outcome, micro-nats.** x = p when y = 1, else 1.0 − p (one IEEE subtraction), clipped to
[2⁻²³, 1 − 2⁻²³]. Read x as IEEE bits u: E = 1022 − (u >> 52), i = (u >> 42) & 1023, f = (u >> 22) & (2²⁰ − 1). With the
table T[j] = round(10⁹ (ln 2 − ln(1 + j / 1024))), j = 0…1024, and T[0] = 693147181 = round(10⁹ ln 2):

    nano  = E · T[0] + T[i] − (((T[i] − T[i+1]) · f) >> 20)
    micro = (nano + 500) div 1000

E is in 0…22 and every term fits in 45 bits. A chord of −ln over 2⁻¹⁰ lies at most 0.12 micro-nats above it, so the
error is at most 0.65 micro-nats an outcome (0.5 of it the last rounding, which has no sign on the average).

**Brier of one outcome, 1e-6.** q = floor(p · 2²¹ + 0.5) (the product is exact, so a fused multiply-add changes
nothing), d = |q − y · 2²¹|, and the loss is (d² · 10⁶ + 2⁴¹) >> 42; d² · 10⁶ < 2⁶². The error is at most 1e-6 and has
no sign on the average.

**Calibration of one outcome.** q as above is p in units of 2⁻²¹ (`grain`); its bin is min(q · 15 >> 21, 14). The
variance that p claims, p(1 − p), is v = (q(2²¹ − q) · 10⁶ + 2⁴¹) >> 42 in 1e-6 (`spread`), and its weight in
Spiegelhalter's Z, (1 − 2p)² p(1 − p), is (v(10⁶ − 4v) + 500000) div 10⁶ in 1e-6 (`twist`): (1 − 2p)² = 1 − 4p(1 − p).

**A number x ≥ 0 of no known scale** (`split`). Read x as IEEE bits: E = u >> 52, F = 2⁵² + (u & (2⁵² − 1));
level = E >> 2, r = E & 3, mantissa m = (F + 2^(31 − r)) >> (32 − r), so x ≈ m · 2^(4 · level − 1043) with
2²⁰ ≤ m ≤ 2²⁴. The wide split takes level = E >> 4, r = E & 15, m = (F + 2^(43 − r)) >> (44 − r), unit
2^(16 · level − 1031). Where E = 0 (0 and subnormal numbers) both are level 0, mantissa 0. The size bin is u >> 48.

**Spans** (latency, delay of a label): edges 0.01 ms · (101 / 99)^i up to 10¹¹ ms; the bin is the number of edges ≤ the
span. A span in bin k is estimated by `span_value(k)` with a relative error of at most 1 %.
"""

from __future__ import annotations

from bisect import bisect_right
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from math import frexp
from struct import pack, unpack
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.measure.ledger import CALIBRATION_BINS, SCORE_BINS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLIP_LOW: Final = 2.0**-23
CLIP_HIGH: Final = 1.0 - 2.0**-23
MILLI: Final = 1_000
_ONE: Final = 1 << 21
_DECIMAL: Final = Context(prec=40)


@lru_cache(maxsize=1)
def score_edges() -> tuple[float, ...]:
    """Give the 2,047 interior edges of the score bins, ascending. The bin is `bisect_right(edges, score)`."""
    with localcontext(_DECIMAL):
        step = (Decimal(1) / 64).exp()
        ratio = Decimal(-16).exp()
        edges = []
        for _ in range(SCORE_BINS - 1):
            ratio *= step
            edges.append(float(ratio / (1 + ratio)))
        return tuple(edges)


@lru_cache(maxsize=1)
def span_edges() -> tuple[float, ...]:
    """Give the edges of latency and delay in ms, ascending. The bin is `bisect_right(edges, span)`."""
    with localcontext(_DECIMAL):
        edge, last, growth = Decimal("0.01"), Decimal(10) ** 11, Decimal(101) / 99
        edges = [float(edge)]
        while edge < last:
            edge *= growth
            edges.append(float(edge))
        return tuple(edges)


@lru_cache(maxsize=1)
def log_loss_nanos() -> tuple[int, ...]:
    """Give the table T of the log loss: 1,025 integers, nano-nats, descending from ln 2 to 0."""
    with localcontext(_DECIMAL):
        two = Decimal(2).ln()
        return tuple(round(10**9 * (two - (1 + Decimal(j) / 1024).ln())) for j in range(1025))


def tables() -> dict[str, list[float] | list[int]]:
    """Give every table that SQL needs: `score_edges`, `span_edges` (doubles) and `log_loss_nanos` (integers)."""
    return {
        "score_edges": list(score_edges()),
        "span_edges": list(span_edges()),
        "log_loss_nanos": list(log_loss_nanos()),
    }


def milli(weight: float) -> int:
    """Give the milli-weight of a weight ≥ 0.

    >>> milli(0.0005), milli(0.25), milli(1.0)
    (1, 250, 1000)
    """
    return int(weight * 1000.0 + 0.5)


def log_loss(p: float, y: int) -> int:
    """Give the log loss of one outcome in micro-nats; `p` in [0, 1], `y` 0 or 1.

    >>> log_loss(0.5, 1), log_loss(0.0, 1), log_loss(0.0, 0)
    (693147, 15942385, 0)
    """
    x = p if y else 1.0 - p
    mantissa, exponent = frexp(min(max(x, CLIP_LOW), CLIP_HIGH))
    bits = int(mantissa * 9007199254740992.0)
    table = log_loss_nanos()
    i = (bits >> 42) & 1023
    here = table[i]
    nano = here - exponent * table[0] - (((here - table[i + 1]) * ((bits >> 22) & 0xFFFFF)) >> 20)
    return (nano + 500) // 1000


def brier(p: float, y: int) -> int:
    """Give the Brier loss (p − y)² of one outcome in units of 1e-6; `p` in [0, 1], `y` 0 or 1.

    >>> brier(0.25, 0), brier(0.25, 1), brier(1.0, 0)
    (62500, 562500, 1000000)
    """
    d = int(p * 2097152.0 + 0.5) - (_ONE if y else 0)
    return (d * d * 1_000_000 + (1 << 41)) >> 42


def grain(p: float) -> int:
    """Give p in [0, 1] in units of 2⁻²¹.

    >>> grain(0.5), grain(1.0)
    (1048576, 2097152)
    """
    return int(p * 2097152.0 + 0.5)


def calibration_bin(q: int) -> int:
    """Give the uniform bin of a p in grains.

    >>> calibration_bin(grain(0.0)), calibration_bin(grain(0.5)), calibration_bin(grain(1.0))
    (0, 7, 14)
    """
    return min(q * CALIBRATION_BINS >> 21, CALIBRATION_BINS - 1)


def spread(q: int) -> int:
    """Give p(1 − p) in 1e-6 of a p in grains: the variance of an outcome that has this chance.

    >>> spread(grain(0.5)), spread(grain(0.1)), spread(grain(1.0))
    (250000, 90000, 0)
    """
    return (q * (_ONE - q) * 1_000_000 + (1 << 41)) >> 42


def twist(spread: int) -> int:
    """Give (1 − 2p)² p(1 − p) in 1e-6 from p(1 − p) in 1e-6.

    >>> twist(250_000), twist(90_000)
    (0, 57600)
    """
    return (spread * (1_000_000 - 4 * spread) + 500_000) // 1_000_000


def split(x: float) -> tuple[int, int]:
    """Give (level, mantissa) of a finite x ≥ 0.

    >>> level, mantissa = split(12.5)
    >>> level, mantissa, mantissa * 2.0 ** (4 * level - 1043)
    (256, 6553600, 12.5)
    >>> split(0.0)
    (0, 0)
    """
    mantissa, exponent = frexp(x)
    biased = exponent + 1022
    if mantissa == 0.0 or biased <= 0:
        return 0, 0
    r = biased & 3
    return biased >> 2, (int(mantissa * 9007199254740992.0) + (1 << (31 - r))) >> (32 - r)


def split_wide(x: float) -> tuple[int, int]:
    """Give (level, mantissa) of a finite x ≥ 0 on levels of sixteen powers of two, coarsely.

    >>> level, mantissa = split_wide(12.5)
    >>> level, mantissa, mantissa * 2.0 ** (16 * level - 1031)
    (64, 1600, 12.5)
    """
    mantissa, exponent = frexp(x)
    biased = exponent + 1022
    if mantissa == 0.0 or biased <= 0:
        return 0, 0
    r = biased & 15
    return biased >> 4, (int(mantissa * 9007199254740992.0) + (1 << (43 - r))) >> (44 - r)


def size_bin(x: float) -> int:
    """Give the bin of a size x ≥ 0 among sixteen to the power of two.

    >>> size_bin(0.0), size_bin(1.0), size_bin(1.0625), size_bin(2.0)
    (0, 16368, 16369, 16384)
    """
    (bits,) = unpack(">Q", pack(">d", x))
    return int(bits >> 48)


def size_value(index: int) -> float:
    """Estimate the size that lies in a bin: its middle, within 1/32 of it.

    >>> size_value(size_bin(0.0)), size_value(size_bin(1.0))
    (0.0, 1.03125)
    """
    lower, upper = (unpack(">d", pack(">Q", place << 48))[0] for place in (index, index + 1))
    return float(lower + upper) / 2 if index else 0.0


def score_bin(score: float) -> int:
    """Give the bin of a score in [0, 1] among the 2,048.

    >>> score_bin(0.0), score_bin(0.5), score_bin(1.0)
    (0, 1024, 2047)
    """
    return bisect_right(score_edges(), score)


def span_bin(span_ms: float) -> int:
    """Give the bin of a span of time."""
    return bisect_right(span_edges(), span_ms)


def span_value(index: int) -> float:
    """Estimate the span in ms that lies in a bin.

    >>> abs(span_value(span_bin(125.0)) / 125.0 - 1) < 0.0101
    True
    """
    edges = span_edges()
    if index == 0:
        return 0.0
    lower = edges[min(index, len(edges)) - 1]
    return lower * 1.01  # the harmonic middle of [lower, lower · 101/99)


def log_losses(p: Floats, y: Ints) -> Ints:
    """Give `log_loss` of many outcomes, the same integers."""
    x = np.clip(np.where(y == 1, p, 1.0 - p), CLIP_LOW, CLIP_HIGH)
    bits = np.ascontiguousarray(x).view(np.int64)
    table = np.array(log_loss_nanos(), dtype=np.int64)
    i = (bits >> 42) & 1023
    here = table[i]
    nano = (1022 - (bits >> 52)) * table[0] + here - (((here - table[i + 1]) * ((bits >> 22) & 0xFFFFF)) >> 20)
    result: Ints = (nano + 500) // 1000
    return result


def briers(p: Floats, y: Ints) -> Ints:
    """Give `brier` of many outcomes, the same integers."""
    d = np.floor(p * 2097152.0 + 0.5).astype(np.int64) - y * _ONE
    result: Ints = (d * d * 1_000_000 + (1 << 41)) >> 42
    return result


def grains(p: Floats) -> Ints:
    """Give `grain` of many."""
    result: Ints = np.floor(p * 2097152.0 + 0.5).astype(np.int64)
    return result


def spreads(q: Ints) -> Ints:
    """Give `spread` of many."""
    result: Ints = (q * (_ONE - q) * 1_000_000 + (1 << 41)) >> 42
    return result


def splits(x: Floats) -> tuple[Ints, Ints]:
    """Give `split` of many."""
    return _split(x, 2, 32)


def splits_wide(x: Floats) -> tuple[Ints, Ints]:
    """Give `split_wide` of many."""
    return _split(x, 4, 44)


def _split(x: Floats, power: int, shift: int) -> tuple[Ints, Ints]:
    bits = np.ascontiguousarray(x).view(np.int64)
    biased = bits >> 52
    drop = shift - (biased & ((1 << power) - 1))
    full = (bits & ((1 << 52) - 1)) | (1 << 52)
    mantissa = np.where(biased > 0, (full + (np.int64(1) << (drop - 1))) >> drop, 0)
    return biased >> power, mantissa


def size_bins(x: Floats) -> Ints:
    """Give `size_bin` of many."""
    result: Ints = np.ascontiguousarray(x).view(np.int64) >> 48
    return result


def bins(edges: tuple[float, ...] | list[float], values: Floats) -> Ints:
    """Count for each value the edges ≤ it: `bisect_right` of many."""
    index: Any = np.searchsorted(np.asarray(edges, dtype=np.float64), values, side="right")
    result: Ints = index.astype(np.int64)
    return result
