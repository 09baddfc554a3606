"""The vocabulary of ledgers: which vectors there are, what each index of each means, in which unit.

A ledger maps a vector's name to sparse integer cells. It is kept per (model, version, deployment, role, slice, pane);
the pane of an outcome is `prediction.at_ms // pane_ms * pane_ms`. Everything is a sum of integers over the standing
predictions, so ledgers merge by addition and retract by subtraction: any order and any split give the same bits.

**Weights** are milli-weights, `floor(weight * 1000 + 0.5)`. **Losses** are integers per outcome times the
milli-weight: micro-nats for log loss, 1e-6 for Brier, hence sums in units of 1e-9. **Nothing depends on an outcome's
status** (provisional or final) or `p_fake_negative`, because a change of these alone is no revision: what is counted
can be computed again from the raw predictions and the last revision of each outcome in `feedback`.

**What one labelled outcome contributes** (a label that is not null; weight 0 included):

- `y` is its label read as binary: 1 for `1`, `1.0`, `true`, `"1"`; 0 for `0`, `0.0`, `false`, `"0"`; else none.
  `p` is its `score` when that is a number in [0, 1], else none.
- *binary task*, when `y` and `p` exist: `score.pos` or `score.neg`, `log_loss`, `brier`, `calibration`,
  `spiegelhalter`. The predicted class is
  `prediction` read as binary, or, without a `prediction`, whether `p ≥ threshold` (0.5 when none is given):
  `confusion`. A `prediction` that is not binary leaves `confusion` alone and counts in `measured[UNREADABLE]`.
- *agreement task*, else, when `prediction` is comparable with the label (both strings, both booleans, both whole
  numbers of at most 2⁵³ in size, or both lists, whose order and repetitions do not matter): `agreement`. It feeds
  accuracy. Two strings are classes as well and count in `class:NAME` under the names of both: send classes as strings.
  Two lists are sets of labels as well: `jaccard`.
- *regression task*, when it is not a binary task and label and answer are plain numbers (no booleans) of at most 2¹⁰⁰
  in size: `regression`, `error.*`, `label.*`. The answer is `prediction`, or `score` where there is no `prediction`.
  Two whole numbers count in both tasks, because nothing tells a class from a count; 0 and 1 among them too, because
  errors of a count that is often 0 must not be left out. So a model of counts sends `prediction`, no score in [0, 1].
  A fraction counts in this task alone: an error of a regression is never turned into "correct".
- what is in no task counts in `measured[UNMEASURABLE]`.

**What one ranking contributes**, by the labels of all its items (`streams.measure.ranking` defines it): `ranking`, in
slices too. Each list counts alike; a list in which nothing is relevant has no value and counts in [JUDGED] alone.

Slices carry everything but `feature:*`, `embedding*`, `missing`, `latency`, `label_delay`, `score.chosen`,
`score.undecided`, `error.size` and `label.*`, with 512 score bins in place of 2,048.

**Classes.** A model has at most 64 names of classes in a source partition (`measure.MOST_CLASSES`), the first that
come, each of at most 64 bytes. All others count as `class:~other`, for ever, so that retractions find them.

**Label names and outputs.** A model's first label name (`label_name` of its policy) has the names above. What another
label name contributes has the same names behind `label:NAME:`, in which `%` is written `%25` and `:` is `%3A`:
`label:refund:confusion`. That is everything of outcomes and rankings and, of predictions, `n`, `bucket.rows`, `score`,
`score.chosen` and `score.undecided`. An outcome is held against the output of its name where the prediction has one,
else against `score`. A model has at most 16 other names in a source partition (`measure.MOST_NAMES`), the first that
come, each of at most 64 bytes; what comes beyond is not counted, for ever.

**Amounts.** The labels of a name that the policy calls a `value` (revenue, seconds) are in no task: they count `n`,
`bucket.rows`, `labelled`, `kinds`, `label_delay` and, where the label is a plain number of at most 2¹⁰⁰ in size,
`value`, `value.sum`, `bucket.value` and `bucket.value.sum`; any other label is unmeasurable. Items are left out.

**Split records.** A step whose deltas exceed the size bound becomes several `Measures` of the same (source, step). All
but the last have `clock_ms` 0, so that no pane closes on half a step: a source's clock is the greatest it has told.

**Errors of a regression have no scale** that is known beforehand: micro-units of a squared error around 10⁵ pass int64
after 922 outcomes, and of one around 10⁻⁴ nothing would be left. So a number is split by its own magnitude
(`scale.split`): the cell's index is the level, four powers of two wide, and what is added is a mantissa of at most 2²⁴
in the unit of that level, 2^(4 · level − 1043). The relative error of one number is at most 2⁻²¹ and has no sign on the
average. A square is the exact square of the split number, in two limbs of 24 bits. Sums over levels are taken in
integers without bound, once, when a metric is read. By bucket, where only intervals come from, levels are sixteen
powers of two wide (`scale.split_wide`), which saves cells: errors of one model mostly share a level or two.

**Overflow.** Python's integers have none. In ClickHouse's Int64 (9.2e18) an outcome adds at most 1.6e10 to a
`log_loss` cell, 2.1e9 to `calibration`, 1e9 to `brier`, 1,000 to weights: 5.7e8 outcomes of the worst kind in one sum
of log loss, 4.4e9 of calibration, 9e9 of Brier. To a level of a regression an outcome adds at most 2²⁴ · 1,000 =
1.7e10: 5.4e8 outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

SCORE_BINS: Final = 2_048
"""Score bins of the whole: uniform in logit over [−16, 16], by comparison with `scale.score_edges()`."""
SLICE_SCORE_BINS: Final = 512
"""Score bins of a slice: bin of the whole // 4."""
BUCKETS: Final = 64
"""Subject buckets: xxh3_64 (seed 0) of the UTF-8 bytes of `subject`, or of `request_id` without one, modulo 64."""
OTHER: Final = "~other"
"""The value of a slice, and the name of a class, that stands for those beyond the budget."""
BUCKET_SCORE_BINS: Final = 64
"""Score bins inside a bucket (half a logit wide): bin of the whole // 32."""
CALIBRATION_BINS: Final = 15
"""Uniform bins of p in [0, 1] for calibration: a p on an edge belongs to the bin above it."""
LEVELS: Final = 512
"""Levels of `scale.split`: four powers of two each, over all doubles."""
CUTS: Final = (5, 10)
"""The cuts k of NDCG@k; the whole list comes third."""
HIT_CUTS: Final = (1, 5, 10)
"""The cuts k of hit@k."""
RANKING_CELLS: Final = 10
"""Cells of `ranking`."""
WIDE_LEVELS: Final = 128
"""Levels of `scale.split_wide`: sixteen powers of two each."""
SIZE_BINS: Final = 32_768
"""Bins of the size of an error: sixteen to the power of two, over all doubles (`scale.size_bin`)."""

N: Final = "n"
LABELLED: Final = "labelled"
KINDS: Final = "kinds"
MEASURED: Final = "measured"
SCORE: Final = "score"
SCORE_CHOSEN: Final = "score.chosen"
SCORE_UNDECIDED: Final = "score.undecided"
SCORE_POS: Final = "score.pos"
SCORE_NEG: Final = "score.neg"
CONFUSION: Final = "confusion"
AGREEMENT: Final = "agreement"
CLASS: Final = "class:"
JACCARD: Final = "jaccard"
LOG_LOSS: Final = "log_loss"
BRIER: Final = "brier"
CALIBRATION: Final = "calibration"
SPIEGELHALTER: Final = "spiegelhalter"
RANKING: Final = "ranking"
REGRESSION: Final = "regression"
ERROR_OVER: Final = "error.over"
ERROR_UNDER: Final = "error.under"
ERROR_SQUARE: Final = "error.square"
ERROR_SIZE: Final = "error.size"
LABEL_SUM: Final = "label.sum"
LABEL_SQUARE: Final = "label.square"
VALUE: Final = "value"
VALUE_SUM: Final = "value.sum"
BUCKET_ROWS: Final = "bucket.rows"
BUCKET_N: Final = "bucket.n"
BUCKET_CONFUSION: Final = "bucket.confusion"
BUCKET_AGREEMENT: Final = "bucket.agreement"
BUCKET_JACCARD: Final = "bucket.jaccard"
BUCKET_LOG_LOSS: Final = "bucket.log_loss"
BUCKET_BRIER: Final = "bucket.brier"
BUCKET_SCORE_POS: Final = "bucket.score.pos"
BUCKET_SCORE_NEG: Final = "bucket.score.neg"
BUCKET_RANKING: Final = "bucket.ranking"
BUCKET_REGRESSION: Final = "bucket.regression"
BUCKET_ERROR_OVER: Final = "bucket.error.over"
BUCKET_ERROR_UNDER: Final = "bucket.error.under"
BUCKET_ERROR_SQUARE: Final = "bucket.error.square"
BUCKET_VALUE: Final = "bucket.value"
BUCKET_VALUE_SUM: Final = "bucket.value.sum"
MISSING: Final = "missing"
LATENCY: Final = "latency"
LABEL_DELAY: Final = "label_delay"
FEATURE: Final = "feature:"
EMBEDDING: Final = "embedding"
EMBEDDING_ROWS: Final = "embedding.rows"
PARITY: Final = "parity:"
LABEL: Final = "label:"

# labelled
COUNT, WEIGHT = 0, 1
# kinds
EXPLICIT, IMPLICIT, TIMEOUT = 0, 1, 2
# measured
SCORED, RIGHT, WRONG, UNMEASURABLE, UNREADABLE, REGRESSED, NAMED, LISTED = 0, 1, 2, 3, 4, 5, 6, 7
# confusion, bucket.confusion (bucket * 4 + cell); class:NAME without the last
TP, FP, FN, TN = 0, 1, 2, 3
# calibration (bin * 4 + cell)
HELD, EXPECTED, OBSERVED, SPREAD = 0, 1, 2, 3
# agreement, bucket.agreement (bucket * 2 + cell)
AGREES, DIFFERS = 0, 1
# jaccard, bucket.jaccard (bucket * 2 + cell)
SHARED, SETS = 0, 1
# ranking, bucket.ranking (bucket * 10 + cell)
LISTS, JUDGED, RELEVANT, NDCG, RECIPROCAL, HITS = 0, 1, 2, 3, 6, 7
# missing
NO_SCORE, NO_FEATURES, NO_SUBJECT, LOOKED = 0, 1, 2, 3
# embedding.rows
VECTORS_HELD, NO_VECTOR, OTHER_LENGTH, TOO_FAR = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Vector:
    """What a name means: number of cells (0: as the reference says), unit, index meaning, whether slices carry it."""

    name: str
    size: int
    unit: str
    about: str
    sliced: bool = True


_SPAN = "span bin of `scale.span_edges()`: [0] up to 0.01 ms and less, then 2 % wide, the last above 1e11 ms"
_SPLIT = "2^(4 · level − 1043) × milli-weight"
_SQUARED = "2^(8 · level − 2086) × milli-weight, the high limb 2²⁴ times that"
_WIDE = "2^(16 · level − 1031) × milli-weight"

VECTORS: Final[dict[str, Vector]] = {
    vector.name: vector
    for vector in (
        Vector(N, 1, "count", "[0] standing predictions"),
        Vector(LABELLED, 2, "count, milli-weight", "[COUNT] outcomes with a label, [WEIGHT] their weight"),
        Vector(KINDS, 3, "count", "labelled outcomes by label kind: [EXPLICIT], [IMPLICIT], [TIMEOUT]"),
        Vector(
            MEASURED,
            8,
            "count",
            "[SCORED] binary tasks; [RIGHT], [WRONG] outcomes in `confusion` or `agreement`, unweighted; "
            "[UNMEASURABLE] labelled, yet in no task; [UNREADABLE] binary, but the `prediction` is not 0 or 1; "
            "[REGRESSED] regression tasks; of `agreement`, [NAMED] pairs of strings and [LISTED] pairs of lists",
        ),
        Vector(
            SCORE,
            SCORE_BINS + 3,
            "count",
            "all standing predictions: logit bins 0…B−1, then [B] no number, [B+1] below 0, [B+2] above 1",
        ),
        Vector(
            SCORE_CHOSEN,
            SCORE_BINS,
            "count",
            "of the predictions in logit bins of `score`, those whose predicted class is 1, labelled or not",
            sliced=False,
        ),
        Vector(
            SCORE_UNDECIDED,
            SCORE_BINS,
            "count",
            "of the predictions in logit bins of `score`, those whose `prediction` is neither 0 nor 1, labelled or not",
            sliced=False,
        ),
        Vector(SCORE_POS, SCORE_BINS, "milli-weight", "binary tasks with y = 1 by logit bin"),
        Vector(SCORE_NEG, SCORE_BINS, "milli-weight", "binary tasks with y = 0 by logit bin"),
        Vector(CONFUSION, 4, "milli-weight", "[TP], [FP], [FN], [TN]"),
        Vector(AGREEMENT, 2, "milli-weight", "[AGREES], [DIFFERS]: labels that are not binary"),
        Vector(
            CLASS,
            3,
            "milli-weight",
            "`class:NAME`, pairs of strings: [TP] both are NAME, [FP] the prediction alone, [FN] the label alone",
        ),
        Vector(
            JACCARD,
            2,
            "(1e-6, 1) × milli-weight",
            "pairs of lists: [SHARED] sum of `reading.jaccard`, common labels over all labels of both; [SETS] weight",
        ),
        Vector(LOG_LOSS, 1, "1e-9 nat × weight", "[0] sum of `scale.log_loss(p, y)` × milli-weight"),
        Vector(BRIER, 1, "1e-9 × weight", "[0] sum of `scale.brier(p, y)` × milli-weight"),
        Vector(
            CALIBRATION,
            CALIBRATION_BINS * 4,
            "milli-weight × (1, 2⁻²¹, 1, 1e-6)",
            "binary tasks by uniform bin of p, [bin × 4 + cell]: [HELD] weight, [EXPECTED] sum of p, [OBSERVED] weight "
            "of y = 1, [SPREAD] sum of p(1 − p), with `scale.grain` and `scale.spread`",
        ),
        Vector(SPIEGELHALTER, 1, "1e-9 × weight", "[0] sum of `scale.twist(p)` ≈ (1 − 2p)² p(1 − p) × milli-weight"),
        Vector(
            RANKING,
            RANKING_CELLS,
            "count, from [NDCG] on 1e-6, from [HITS] on count",
            "[LISTS] standing predictions with items, [JUDGED] those of which an item has a label, [RELEVANT] those of "
            "which an item has a gain; of these the sums [NDCG] @5, @10, of the whole list, [RECIPROCAL] rank, and how "
            "many have a relevant item among the first [HITS] 1, 5, 10",
        ),
        Vector(REGRESSION, 1, "milli-weight", "[0] regression tasks"),
        Vector(ERROR_OVER, LEVELS, _SPLIT, "answer − label by [level], where the answer is greater"),
        Vector(ERROR_UNDER, LEVELS, _SPLIT, "label − answer by [level], where the label is greater"),
        Vector(ERROR_SQUARE, LEVELS * 2, _SQUARED, "squared error, [level × 2] low and [level × 2 + 1] high 24 bits"),
        Vector(
            ERROR_SIZE,
            SIZE_BINS,
            "milli-weight",
            "absolute error by `scale.size_bin`: [0] none, then sixteen bins to the power of two",
            sliced=False,
        ),
        Vector(LABEL_SUM, LEVELS, _SPLIT, "labels of regression tasks by [level] of their size, signed", sliced=False),
        Vector(
            LABEL_SQUARE,
            LEVELS * 2,
            _SQUARED,
            "squared labels of regression tasks, [level × 2] low and [level × 2 + 1] high 24 bits",
            sliced=False,
        ),
        Vector(VALUE, 2, "count, milli-weight", "[COUNT] amounts, [WEIGHT] their weight"),
        Vector(VALUE_SUM, LEVELS, _SPLIT, "amounts by [level] of their size, signed"),
        Vector(BUCKET_ROWS, BUCKETS, "count", "by subject bucket: standing predictions, labelled or not"),
        Vector(BUCKET_N, BUCKETS, "count", "by subject bucket: outcomes in any task"),
        Vector(BUCKET_CONFUSION, BUCKETS * 4, "milli-weight", "[bucket × 4 + cell of `confusion`]"),
        Vector(BUCKET_AGREEMENT, BUCKETS * 2, "milli-weight", "[bucket × 2 + cell of `agreement`]"),
        Vector(BUCKET_JACCARD, BUCKETS * 2, "(1e-6, 1) × milli-weight", "[bucket × 2 + cell of `jaccard`]"),
        Vector(BUCKET_LOG_LOSS, BUCKETS, "1e-9 nat × weight", "`log_loss` by bucket"),
        Vector(BUCKET_BRIER, BUCKETS, "1e-9 × weight", "`brier` by bucket"),
        Vector(BUCKET_SCORE_POS, BUCKETS * BUCKET_SCORE_BINS, "milli-weight", "[bucket × 64 + logit bin // 32], y = 1"),
        Vector(BUCKET_SCORE_NEG, BUCKETS * BUCKET_SCORE_BINS, "milli-weight", "[bucket × 64 + logit bin // 32], y = 0"),
        Vector(BUCKET_RANKING, BUCKETS * RANKING_CELLS, "as `ranking`", "[bucket × 10 + cell of `ranking`]"),
        Vector(BUCKET_REGRESSION, BUCKETS, "milli-weight", "`regression` by bucket"),
        Vector(BUCKET_ERROR_OVER, BUCKETS * WIDE_LEVELS, _WIDE, "[bucket × 128 + wide level], as `error.over`"),
        Vector(BUCKET_ERROR_UNDER, BUCKETS * WIDE_LEVELS, _WIDE, "[bucket × 128 + wide level], as `error.under`"),
        Vector(BUCKET_ERROR_SQUARE, BUCKETS * WIDE_LEVELS, _WIDE, "[bucket × 128 + wide level] of the squared error"),
        Vector(BUCKET_VALUE, BUCKETS, "milli-weight", "weight of the amounts by bucket"),
        Vector(BUCKET_VALUE_SUM, BUCKETS * WIDE_LEVELS, _WIDE, "[bucket × 128 + wide level], as `value.sum`"),
        Vector(
            MISSING,
            4,
            "count",
            "predictions [NO_SCORE] with neither score nor prediction, [NO_FEATURES] without features, "
            "[NO_SUBJECT] without subject (bucketed by request id), [LOOKED] all of them",
            sliced=False,
        ),
        Vector(LATENCY, 0, "count", f"predictions with `latency_ms`, by {_SPAN}", sliced=False),
        Vector(
            LABEL_DELAY,
            0,
            "count",
            f"explicit and implicit labels: `labelled_at_ms` (of the last revision) − `at_ms` by {_SPAN}",
            sliced=False,
        ),
        Vector(
            FEATURE,
            0,
            "count",
            "`feature:NAME`, only when the version's reference is known. Numeric with E edges: bins 0…E (a value equal "
            "to an edge goes right), then [E+1] missing, [E+2] below the reference's range, [E+3] above it. "
            "Categorical with K categories: 0…K−1, then [K] missing, [K+1] unseen",
            sliced=False,
        ),
        Vector(
            EMBEDDING,
            0,
            "2⁻¹⁰, signed",
            "only when the version's reference has embeddings: sums of the cosines [j] and sines [F + j] of its F "
            "random frequencies (`embedding.EmbeddingCut`)",
            sliced=False,
        ),
        Vector(
            PARITY,
            0,
            "count",
            "`parity:rows`, `parity:score` and `parity:feature:NAME`, of predictions with the key of a frozen row: "
            "compared, differ, missing live, missing at training, then by frozen row how often it differed "
            "(`streams.measure.parity`)",
            sliced=False,
        ),
        Vector(
            EMBEDDING_ROWS,
            4,
            "count",
            "with `embedding`: predictions whose `embedding` is [VECTORS_HELD] counted there, [NO_VECTOR] absent or "
            "empty, [OTHER_LENGTH] of another length, [TOO_FAR] away from the reference",
            sliced=False,
        ),
    )
}


def vector_of(name: str) -> Vector:
    """Give what a vector's name means, `feature:NAME`, `class:NAME` and `label:NAME:…` included.

    >>> vector_of("class:a:b").size, vector_of("confusion").size, vector_of("label:refund:class:a").size
    (3, 4, 3)
    """
    kind, colon, _ = apart(name)[1].partition(":")
    return VECTORS[kind + colon]


def prefix_of(label_name: str) -> str:
    """Give what stands before the names of another label name's vectors.

    >>> prefix_of("a:b%")
    'label:a%3Ab%25:'
    """
    return f"{LABEL}{label_name.replace('%', '%25').replace(':', '%3A')}:"


def apart(name: str) -> tuple[str, str]:
    """Give the label name that a vector is of, empty for the first, and the vector's own name.

    >>> apart("label:a%3Ab%25:class:x:y"), apart("class:x:y"), apart("label.sum")
    (('a:b%', 'class:x:y'), ('', 'class:x:y'), ('', 'label.sum'))
    """
    if not name.startswith(LABEL):
        return "", name
    quoted, _, own = name.removeprefix(LABEL).partition(":")
    return quoted.replace("%3A", ":").replace("%25", "%"), own


_SIGNED: Final = (LABEL_SUM, VALUE_SUM, BUCKET_VALUE_SUM, EMBEDDING)


class Ledger:
    """Sparse integer cells by vector: an abelian group under `add`. Cells that are zero vanish.

    >>> a, b = Ledger({"n": {0: 2}}), Ledger({"n": {0: 2}, "confusion": {TP: 1000}})
    >>> (b - a).cells
    {'confusion': {0: 1000}}
    >>> (a - a).cells
    {}
    """

    __slots__ = ("cells",)

    def __init__(self, cells: Mapping[str, Mapping[int, int]] | None = None) -> None:
        self.cells: dict[str, dict[int, int]] = {}
        if cells:
            self.add(cells)

    def add(self, cells: Mapping[str, Mapping[int, int]], sign: int = 1) -> None:
        """Add (`sign` 1) or take away (−1) cells."""
        for name, vector in cells.items():
            self.add_pairs(name, vector.items(), sign)

    def add_flat(self, cells: Mapping[str, list[int]], sign: int = 1) -> None:
        """Add cells as `PaneDelta` carries them: name → [index, delta, index, delta, …]."""
        for name, flat in cells.items():
            self.add_pairs(name, zip(flat[::2], flat[1::2], strict=True), sign)

    def add_pairs(self, name: str, pairs: Iterable[tuple[int, int]], sign: int = 1) -> None:
        """Add (index, delta) pairs to one vector."""
        mine = self.cells.setdefault(name, {})
        for index, delta in pairs:
            total = mine.get(index, 0) + sign * delta
            if total:
                mine[index] = total
            else:
                mine.pop(index, None)
        if not mine:
            del self.cells[name]

    def flat(self) -> dict[str, list[int]]:
        """Give the cells as `PaneDelta` carries them, names and indices ascending."""
        return {name: [n for pair in sorted(self.cells[name].items()) for n in pair] for name in sorted(self.cells)}

    def get(self, name: str, index: int = 0) -> int:
        """Give one cell (0 when absent)."""
        vector = self.cells.get(name)
        return vector.get(index, 0) if vector else 0

    def total(self, name: str) -> int:
        """Give the sum over a vector."""
        return sum(self.cells.get(name, {}).values())

    def dense(self, name: str, size: int) -> list[int]:
        """Give a vector in full. Raises `IndexError` when it has a cell beyond `size`."""
        full = [0] * size
        for index, value in self.cells.get(name, {}).items():
            full[index] = value
        return full

    def parts(self) -> dict[str, Ledger]:
        """Give the counts of each other label name by itself, names ascending.

        >>> Ledger({"n": {0: 2}, "label:refund:n": {0: 1}}).parts()
        {'refund': Ledger({'n': {0: 1}})}
        """
        found: dict[str, Ledger] = {}
        for name in sorted(one for one in self.cells if one.startswith(LABEL)):
            label_name, own = apart(name)
            found.setdefault(label_name, Ledger()).cells[own] = self.cells[name]
        return found

    def possible(self) -> bool:
        """Say whether it can be a count of outcomes: nothing is below 0 but what is signed.

        It is not where deltas are missing, as for whoever began to read in the middle of them.

        >>> Ledger({"n": {0: 2}}).possible(), Ledger({"confusion": {TP: -1000}}).possible()
        (True, False)
        """
        return all(min(vector.values()) >= 0 for name, vector in self.cells.items() if apart(name)[1] not in _SIGNED)

    def __add__(self, other: Ledger) -> Ledger:
        total = Ledger(self.cells)
        total.add(other.cells)
        return total

    def __sub__(self, other: Ledger) -> Ledger:
        total = Ledger(self.cells)
        total.add(other.cells, -1)
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.cells == other.cells

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self.cells)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __repr__(self) -> str:
        return f"Ledger({self.cells})"
