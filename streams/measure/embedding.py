"""Embeddings as sums that merge and retract exactly: random Fourier features in whole numbers.

`fourier` says why sums of features are all that MMD needs. Its features are doubles, whose last digits differ between
machines and batch shapes, so that what one worker added another could not take away. Here nothing is rounded in an
order that anybody chooses, and every machine gives the same integers:

1. A coordinate becomes (x − centre) · 2¹⁶/bandwidth, rounded: three operations that IEEE 754 defines to the last bit.
2. A frequency is a whole number of 2⁻¹⁴ turns a bandwidth, one of 4,096 equally likely quantiles of the normal law,
   chosen by a counter that is mixed (Steele, Lea and Flood 2014, OOPSLA: SplitMix64). So no generator of a library has
   to stay as it is, and a reference carries a seed in place of its frequencies.
3. The angle is their product. Every product and every partial sum is a whole number below 2⁵³, so a matrix product of
   doubles is exact in any order.
4. The angle, rounded to 1/4,096 of a turn, finds its cosine and sine in a table of multiples of 2⁻¹⁰.

The kernel is that of this discrete law of frequencies: the Gaussian one but for frequencies beyond 3.7/bandwidth, which
are left out. It is a positive definite kernel by construction, and reference and traffic are seen through the same one.

**Limits.** At most `MOST_DIMENSION` numbers a vector. A coordinate further than `FAR` bandwidths from the centre makes
its vector `TOO_FAR`, which is counted by itself; it could not be told apart anyhow, because the angle turns around
many times.

**Bytes.** A pane holds 2 · frequencies sums and 4 counts, whatever the dimension: with 64 frequencies some 1.5 kB in
`measures` and packed in the judge. The frequencies take 8 · frequencies · dimension bytes in a worker (0.4 MB for 768
numbers, 2 MB at most), once for all versions of one dimension and seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.control import EmbeddingReference
from streams.measure.fourier import median_bandwidth
from streams.measure.ledger import EMBEDDING, EMBEDDING_ROWS, NO_VECTOR, OTHER_LENGTH, TOO_FAR, VECTORS_HELD

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vector = Sequence[float] | Floats | None
"""A row's embedding; None or an empty one: it has none."""

FREQUENCIES: Final = 64
MOST_FREQUENCIES: Final = 256
MOST_DIMENSION: Final = 4_096
FAR: Final = 512.0
SCALE: Final = 1_024
"""A feature of 1 is counted as this."""
KINDS: Final = 4
"""How many places `embedding.rows` has."""
SAMPLE: Final = 1_000
"""So many rows of a reference, evenly spread over it, give centre and bandwidth, up to twice as many."""
STRAY: Final = 100.0
"""Rows so many times farther from the middle than half of them choose no bandwidth: one wrong row would blind it."""
PIECE: Final = 4_096

_STEPS = 1 << 12
_COORDINATE = float(1 << 16)
_FREQUENCY = 1 << 14
_TO_STEP = 18  # an angle is in units of 2⁻³⁰ turns, a step is 2⁻¹² of a turn


@lru_cache(maxsize=1)
def tables() -> tuple[Ints, Ints, Ints]:
    """Give the quantiles of the frequencies, and the cosines and sines of all steps of a turn."""
    law, turn = NormalDist(), 2 * math.pi
    quantiles = [round(law.inv_cdf((k + 0.5) / _STEPS) / turn * _FREQUENCY) for k in range(_STEPS)]
    cosines = np.array([round(math.cos(turn * k / _STEPS) * SCALE) for k in range(_STEPS)], dtype=np.int64)
    return np.array(quantiles, dtype=np.int64), cosines, np.roll(cosines, _STEPS // 4)


@lru_cache(maxsize=1)
def longest() -> float:
    """Give the length that no pair of a cosine and a sine of the tables exceeds: 1 but for their rounding."""
    _, cosines, sines = tables()
    return math.sqrt(int((cosines**2 + sines**2).max())) / SCALE


@lru_cache(maxsize=64)
def directions(dimension: int, frequencies: int, seed: int) -> Floats:
    """Give the frequencies: whole numbers (dimension, frequencies)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, dimension * frequencies + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed & (2**64 - 1)) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    chosen = tables()[0][(z >> np.uint64(52)).astype(np.int64)].astype(np.float64)
    found: Floats = np.ascontiguousarray(chosen.reshape(frequencies, dimension).T)
    found.flags.writeable = False
    return found


@dataclass(frozen=True)
class EmbeddingCut:
    """How the vectors of one reference are counted. `bandwidth` is above 0, `centre` has `dimension` numbers."""

    dimension: int
    bandwidth: float
    centre: tuple[float, ...]
    seed: int
    frequencies: int

    @classmethod
    def of(cls, given: EmbeddingReference) -> EmbeddingCut:
        """Give that of a reference without `fault`."""
        return cls(given.dimension, given.bandwidth, tuple(given.centre), given.seed, given.frequencies)

    @cached_property
    def _centre(self) -> Floats:
        return np.array(self.centre, dtype=np.float64)

    def features(self, rows: Floats) -> tuple[Ints, NDArray[np.bool_]]:
        """Give the features, in units of 1/`SCALE`, of those rows (row, dimension) that are near, and which are.

        >>> cut = EmbeddingCut(2, 1.0, (0.0, 0.0), 0, 3)
        >>> found, near = cut.features(np.array([[0.0, 0.0], [0.5, 1.0], [1e9, 0.0]]))
        >>> found.tolist()[0], near.tolist()
        ([1024, 1024, 1024, 0, 0, 0], [True, True, False])
        """
        with np.errstate(over="ignore", invalid="ignore"):
            placed = np.rint((rows - self._centre) * (_COORDINATE / self.bandwidth))
            near = np.asarray((np.abs(placed) <= FAR * _COORDINATE).all(axis=1))
        turned = (placed[near] @ directions(self.dimension, self.frequencies, self.seed)).astype(np.int64)
        steps = ((turned + (1 << (_TO_STEP - 1))) >> _TO_STEP) & (_STEPS - 1)
        _, cosines, sines = tables()
        return np.concatenate((cosines[steps], sines[steps]), axis=1), near

    def count(self, vectors: Sequence[Vector]) -> dict[str, dict[int, int]]:
        """Give what vectors add to `embedding` and `embedding.rows`.

        >>> found = EmbeddingCut(1, 1.0, (0.0,), 0, 1).count([[0.0], [0.0], None, [], [1.0, 2.0]])
        >>> found["embedding"], found["embedding.rows"]
        ({0: 2048, 1: 0}, {0: 2, 1: 2, 2: 1, 3: 0})
        """
        lengths = [0 if vector is None else len(vector) for vector in vectors]
        held = [vector for vector, length in zip(vectors, lengths, strict=True) if length == self.dimension]
        missing = lengths.count(0)
        total, near = np.zeros(2 * self.frequencies, dtype=np.int64), 0
        for start in range(0, len(held), PIECE):
            found, _ = self.features(np.array(held[start : start + PIECE], dtype=np.float64))
            total += found.sum(axis=0)
            near += len(found)
        kinds = {VECTORS_HELD: near, NO_VECTOR: missing, TOO_FAR: len(held) - near}
        kinds[OTHER_LENGTH] = len(vectors) - missing - len(held)
        return {EMBEDDING: dict(enumerate(total.tolist())), EMBEDDING_ROWS: dict(sorted(kinds.items()))}


def learn_embedding(vectors: Sequence[Vector], *, seed: int = 0) -> EmbeddingReference | None:
    """Freeze the embeddings of a reference; None where no row has a vector that can be compared.

    The dimension is the length that occurs most, and must be at most `MOST_DIMENSION`. A vector with a number that is
    NaN or infinite is missing.
    """
    vectors = [vector if vector is not None and np.isfinite(vector).all() else None for vector in vectors]
    lengths = Counter(len(vector) for vector in vectors if vector is not None and len(vector))
    dimension = min((-count, length) for length, count in lengths.items())[1] if lengths else 0
    if not 0 < dimension <= MOST_DIMENSION:
        return None
    whole = [vector for vector in vectors if vector is not None and len(vector) == dimension]
    sample = np.array(whole[:: max(len(whole) // SAMPLE, 1)], dtype=np.float64)
    with np.errstate(all="ignore"):
        middle = np.median(sample, axis=0)
        away = np.sqrt(((sample - middle) ** 2).sum(axis=1))
        near = sample[away <= STRAY * (float(np.median(away)) or math.inf)]
        width = median_bandwidth(near) or float(np.sqrt((middle**2).sum())) or 1.0
        # Rounded, so that the same rows give the same reference on every machine.
        bandwidth = float(f"{width:.6g}")
        step = 2.0 ** math.floor(math.log2(bandwidth) - 6) if math.isfinite(bandwidth) else math.inf
        centre = np.rint(middle / step) * step
    if not 0 < bandwidth < math.inf or not np.isfinite(centre).all() or not math.isfinite(_COORDINATE / bandwidth):
        return None
    cut = EmbeddingCut(dimension, bandwidth, tuple(centre.tolist()), seed, FREQUENCIES)
    counted = cut.count(vectors)
    return EmbeddingReference(
        dimension=dimension,
        bandwidth=bandwidth,
        centre=centre.tolist(),
        seed=seed,
        frequencies=FREQUENCIES,
        sums=list(counted[EMBEDDING].values()),
        rows=list(counted[EMBEDDING_ROWS].values()),
        spectrum=_spectrum(cut, whole, counted),
    )


def _spectrum(
    cut: EmbeddingCut, vectors: Sequence[Sequence[float] | Floats], counted: Mapping[str, Mapping[int, int]]
) -> list[float]:
    """Give the eigenvalues of the covariance of features and kinds, the greatest first, to four digits."""
    wide = 2 * cut.frequencies
    products = np.zeros((wide, wide))
    for start in range(0, len(vectors), PIECE):
        near = cut.features(np.array(vectors[start : start + PIECE], dtype=np.float64))[0].astype(np.float64)
        products += near.T @ near
    unit = SCALE**2 * cut.frequencies
    total, n = stacked(counted[EMBEDDING], counted[EMBEDDING_ROWS], cut.frequencies)
    if n < 2:
        return []
    full = np.diag(total)
    full[:wide, :wide] = products / unit
    values = np.linalg.eigvalsh((full - np.outer(total, total) / n) / (n - 1))[::-1]
    return [float(f"{value:.4g}") for value in values.tolist() if value > 1e-6]


def stacked(sums: Mapping[int, int], rows: Mapping[int, int], frequencies: int) -> tuple[Floats, int]:
    """Give the sums of the features of all rows, and how many rows there are.

    A row's features are those of its vector, of length 1 but for rounding, or a 1 at the place of what it is instead:
    missing, of another length, too far. So two rows of different kinds have nothing in common (kernel 0).
    """
    found = np.zeros(2 * frequencies + KINDS - 1)
    for index, value in sums.items():
        found[index] = value / SCALE / math.sqrt(frequencies)
    for index, value in rows.items():
        if index != VECTORS_HELD:
            found[2 * frequencies + index - 1] = value
    return found, sum(rows.values())


def embedding_fault(given: EmbeddingReference) -> str:
    """Say what makes the embeddings of a reference unusable; empty when nothing does."""
    if not 1 <= given.dimension <= MOST_DIMENSION:
        return f"embeddings of {given.dimension} numbers: expected 1 to {MOST_DIMENSION}"
    if not 1 <= given.frequencies <= MOST_FREQUENCIES:
        return f"{given.frequencies} frequencies of embeddings: expected 1 to {MOST_FREQUENCIES}"
    if len(given.centre) != given.dimension or not all(map(math.isfinite, given.centre)):
        return f"the centre of embeddings: expected {given.dimension} finite numbers"
    if not 0 < given.bandwidth < math.inf or not math.isfinite(_COORDINATE / given.bandwidth):
        return f"a bandwidth of embeddings of {given.bandwidth}"
    if len(given.rows) != KINDS or min(given.rows) < 0:
        return f"rows of embeddings: expected {KINDS} numbers of at least 0"
    most = given.rows[VECTORS_HELD] * SCALE * longest() if given.rows else 0
    if len(given.sums) != 2 * given.frequencies or max(map(abs, given.sums)) > most:
        return f"sums of embeddings: expected {2 * given.frequencies} numbers of at most {SCALE} a vector"
    if not all(0 < value <= 2 for value in given.spectrum):
        return "the spectrum of embeddings: expected eigenvalues above 0"
    return ""
