"""From changes of outcomes to signed cells: plus what counts now, minus what counted before.

A prediction's own cells (score, features, latency) and its outcome's (confusion, losses, buckets) are apart, because
most changes only bring a label: then nothing is binned again but the outcome. `cells` gives all of one outcome and is
the definition; `Deltas` sums changes by pane with the same two functions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from schemas.control import Reference
from schemas.event import encode
from schemas.inputs import Prediction, Role
from schemas.measures import PaneDelta
from streams.join.outcome import Change, Counted, Items, Named, Outcome, answer
from streams.measure.batch import EmbeddingBatch, FeatureBatch
from streams.measure.embedding import EmbeddingCut
from streams.measure.ledger import (
    BUCKET_ROWS,
    COUNT,
    EXPLICIT,
    FEATURE,
    IMPLICIT,
    KINDS,
    LABEL_DELAY,
    LABELLED,
    LATENCY,
    LOOKED,
    MISSING,
    NO_FEATURES,
    NO_SCORE,
    NO_SUBJECT,
    SCORE,
    SCORE_BINS,
    SCORE_CHOSEN,
    SCORE_UNDECIDED,
    SLICE_SCORE_BINS,
    TIMEOUT,
    WEIGHT,
    N,
    prefix_of,
)
from streams.measure.parity import ParityCut
from streams.measure.ranking import ranking_cells
from streams.measure.reading import agrees, binary, bucket_of, text
from streams.measure.reference import Cut, cuts
from streams.measure.scale import milli, score_edges, span_edges
from streams.measure.tasks import Classes, amounts, predicted_class, tasks

Target = defaultdict[str, dict[int, int]]
Targets = list[tuple[Target, bool]]
"""Where to add, and whether it is a slice."""
Key = tuple[str, str, str, Role, str, int]
"""(model, version, deployment, role, slice, pane_ms)."""
Cuts = Mapping[str, Cut]
Referenced = Callable[[Prediction], Cuts | None]
"""Gives the bins that a prediction's features are counted in, or None when they are not counted."""
Embedded = Callable[[Prediction], EmbeddingCut | None]
"""Gives how a prediction's embedding is counted, or None when it is not."""
Compared = Callable[[Prediction], ParityCut | None]
"""Gives the frozen rows that a prediction is compared with, or None where its version has none."""

_KIND = {"explicit": EXPLICIT, "implicit": IMPLICIT, "timeout": TIMEOUT}
_SLICE_FOLD = SCORE_BINS // SLICE_SCORE_BINS


def cells(counted: Counted, reference: Reference | None, *, sliced: bool = False) -> dict[str, dict[int, int]]:
    """Give all cells of one outcome: those of the whole, or (`sliced`) those that a slice carries.

    >>> prediction = Prediction(request_id="r", at_ms=0, model="m", score=0.75, subject="u")
    >>> found = cells(Counted(prediction, Outcome(label=1, kind="explicit")), None)
    >>> found["confusion"], found["measured"], found["score"]
    ({0: 1000}, {0: 1, 1: 1}, {1094: 1})
    """
    target = _target()
    add_prediction([(target, sliced)], counted.answer, cuts(reference) if reference else None, 1)
    if reference and reference.embedding and not sliced:
        for name, vector in EmbeddingCut.of(reference.embedding).count([counted.answer.embedding]).items():
            target[name] |= vector
    add_outcome([(target, sliced)], counted.answer, counted.outcome, 1)
    add_ranking([(target, sliced)], counted.prediction, counted.items, 1)
    for other in counted.others:
        add_other([(target, sliced)], counted.prediction, other, 1)
    full = {name: {index: delta for index, delta in vector.items() if delta} for name, vector in target.items()}
    return {name: vector for name, vector in full.items() if vector}


def add_prediction(targets: Targets, prediction: Prediction, known: Cuts | None, sign: int) -> None:
    """Add what a standing prediction counts, whatever becomes of it."""
    add_score(targets, prediction, sign)
    for target, sliced in targets:
        if sliced:
            continue
        if prediction.latency_ms is not None:
            _add(target[LATENCY], bisect_right(span_edges(), prediction.latency_ms), sign)
        _add(target[MISSING], LOOKED, sign)
        if prediction.score is None and prediction.prediction is None:
            _add(target[MISSING], NO_SCORE, sign)
        if not prediction.features:
            _add(target[MISSING], NO_FEATURES, sign)
        if not prediction.subject:
            _add(target[MISSING], NO_SUBJECT, sign)
        if known:
            given = prediction.features
            for name, cut in known.items():
                _add(target[FEATURE + name], cut.cell(given.get(name)), sign)


def add_parity(target: Target, prediction: Prediction, frozen: ParityCut, sign: int) -> None:
    """Add how a standing prediction compares with its frozen row, if it has one."""
    for name, index in frozen.cells(prediction):
        _add(target[name], index, sign)


def add_score(targets: Targets, prediction: Prediction, sign: int) -> None:
    """Add what a standing prediction counts for each of its label names: that it is there, and its score."""
    raw, score, bucket = prediction.score, score_cell(prediction.score), bucket_of(prediction)
    decided = predicted_class(prediction, raw) if score < SCORE_BINS and isinstance(raw, float | int) else 0
    for target, sliced in targets:
        _add(target[N], 0, sign)
        _add(target[BUCKET_ROWS], bucket, sign)
        _add(target[SCORE], slice_score_cell(score) if sliced else score, sign)
        if decided != 0 and not sliced:
            _add(target[SCORE_UNDECIDED if decided is None else SCORE_CHOSEN], score, sign)


def add_outcome(
    targets: Targets,
    prediction: Prediction,
    outcome: Outcome,
    sign: int,
    named: Classes | None = None,
    *,
    value: bool = False,
) -> None:
    """Add what a labelled outcome counts, as an amount (`value`) or held against the prediction; nothing without a
    label. `ledger` says what and why.
    """
    label = outcome.label
    if label is None:
        return
    weight = sign * milli(outcome.weight)
    told = amounts(prediction, label, sign, weight) if value else tasks(prediction, label, sign, weight, named)
    kind = _KIND[outcome.kind or "explicit"]
    told.cells.extend(((LABELLED, COUNT, sign), (LABELLED, WEIGHT, weight), (KINDS, kind, sign)))
    if outcome.labelled_at_ms is not None and outcome.kind != "timeout":
        delay = bisect_right(span_edges(), outcome.labelled_at_ms - prediction.at_ms)
        told.whole.append((LABEL_DELAY, delay, sign))
    for target, sliced in targets:
        for name, index, delta in told.cells if sliced else (*told.cells, *told.whole):
            vector = target[name]
            vector[index] = vector.get(index, 0) + delta
        if told.binned:
            name, place = told.binned
            _add(target[name], place // _SLICE_FOLD if sliced else place, weight)


def add_ranking(targets: Targets, prediction: Prediction, items: Items | None, sign: int) -> None:
    """Add what a ranking counts by the labels of its items; nothing where the prediction is none."""
    if items is not None:
        for name, index, amount in ranking_cells(prediction, items):
            for target, _ in targets:
                _add(target[name], index, sign * amount)


def add_other(targets: Targets, prediction: Prediction, other: Named, sign: int, named: Classes | None = None) -> None:
    """Add what a standing prediction and its outcome by another label name count, under that name."""
    mine, prefix = answer(prediction, other.name), prefix_of(other.name)
    for target, sliced in targets:
        alone = _target()
        if other.value:
            _add(alone[N], 0, sign)
            _add(alone[BUCKET_ROWS], bucket_of(mine), sign)
        else:
            add_score([(alone, sliced)], mine, sign)
        add_outcome([(alone, sliced)], mine, other.outcome, sign, named, value=other.value)
        add_ranking([(alone, sliced)], mine, other.items, sign)
        for name, vector in alone.items():
            into = target[prefix + name]
            for index, delta in vector.items():
                _add(into, index, delta)


def score_cell(score: float | list[float] | None) -> int:
    """Give the cell of `score` in the whole: a logit bin, or one of the three behind the bins."""
    if not isinstance(score, float | int) or score != score:
        return SCORE_BINS
    if score < 0.0:
        return SCORE_BINS + 1
    if score > 1.0:
        return SCORE_BINS + 2
    return bisect_right(score_edges(), score)


def slice_score_cell(cell: int) -> int:
    """Give the cell of `score` in a slice from that of the whole.

    >>> slice_score_cell(7), slice_score_cell(2047), slice_score_cell(2048), slice_score_cell(2050)
    (1, 511, 512, 514)
    """
    return cell // _SLICE_FOLD if cell < SCORE_BINS else cell - SCORE_BINS + SLICE_SCORE_BINS


def correct(counted: Counted) -> bool | None:
    """Say whether the outcome was predicted rightly; None without a label or where no task applies."""
    prediction, label = counted.answer, counted.outcome.label
    score, y = prediction.score, binary(label)
    if y is not None and isinstance(score, float | int) and 0.0 <= score <= 1.0:
        decided = predicted_class(prediction, score)
        return None if decided is None else decided == y
    return agrees(label, prediction.prediction)


class Deltas:
    """The signed sums of one step's changes, by pane.

    `slice_of` gives a prediction's slice (`dimension=value`) or the empty text when it is in none, `named` the name
    under which a class of a model is counted, `counts_name` whether another label name of a model is, `embedded` how a
    prediction's embedding is counted, `parity` the frozen rows that it is compared with.
    """

    def __init__(
        self,
        pane_ms: int,
        referenced: Referenced,
        slice_of: Callable[[Prediction], str],
        named: Classes | None = None,
        counts_name: Callable[[str, str], bool] | None = None,
        embedded: Embedded | None = None,
        parity: Compared | None = None,
    ) -> None:
        self.parity = parity
        self.embedded = embedded
        self.counts_name = counts_name
        self.pane_ms = pane_ms
        self.referenced = referenced
        self.slice_of = slice_of
        self.named = named
        self.panes: dict[Key, Target] = {}
        self.features = FeatureBatch()
        self.embeddings = EmbeddingBatch()

    def add(self, changes: Iterable[Change]) -> None:
        """Add changes in any order and any split."""
        for change in changes:
            before, after = change.before, change.after
            if before is not None and after is not None and _same(before, after):
                self._replace(before, after)
                continue
            if before is not None:
                self._add_all(before, -1)
            if after is not None:
                self._add_all(after, 1)
        self.features.flush()
        self.embeddings.flush()

    def _replace(self, before: Counted, after: Counted) -> None:
        """Put an outcome in the place of another of the same prediction."""
        targets = self._targets(after.prediction)
        if _says(before.outcome) != _says(after.outcome):
            add_outcome(targets, before.answer, before.outcome, -1, self.named)
            add_outcome(targets, after.answer, after.outcome, 1, self.named)
        if before.items != after.items:
            add_ranking(targets, before.prediction, before.items, -1)
            add_ranking(targets, after.prediction, after.items, 1)
        self._add_others(targets, before, -1, without=after.others)
        self._add_others(targets, after, 1, without=before.others)

    def _add_others(self, targets: Targets, counted: Counted, sign: int, without: Sequence[Named] = ()) -> None:
        same = [_heard(other) for other in without] if counted.others else []
        for other in counted.others:
            known = self.counts_name is None or self.counts_name(counted.prediction.model, other.name)
            if known and _heard(other) not in same:
                add_other(targets, counted.prediction, other, sign, self.named)

    def _add_all(self, counted: Counted, sign: int) -> None:
        prediction, targets = counted.answer, self._targets(counted.prediction)
        known = self.referenced(prediction)
        add_prediction(targets, prediction, None, sign)
        if known:
            self.features.add(targets[0][0], known, prediction.features, sign)
        cut = self.embedded(prediction) if self.embedded is not None else None
        if cut is not None:
            self.embeddings.add(targets[0][0], cut, prediction.embedding, sign)
        frozen = self.parity(prediction) if self.parity is not None else None
        if frozen is not None:
            add_parity(targets[0][0], counted.prediction, frozen, sign)
        add_outcome(targets, prediction, counted.outcome, sign, self.named)
        add_ranking(targets, counted.prediction, counted.items, sign)
        self._add_others(targets, counted, sign)

    def _targets(self, of: Prediction) -> Targets:
        pane_ms = of.at_ms // self.pane_ms * self.pane_ms
        found = [(self._pane((of.model, of.version, of.deployment, of.role, "", pane_ms)), False)]
        part = self.slice_of(of)
        if part:
            found.append((self._pane((of.model, of.version, of.deployment, of.role, part, pane_ms)), True))
        return found

    def _pane(self, key: Key) -> Target:
        target = self.panes.get(key)
        if target is None:
            target = self.panes[key] = _target()
        return target

    def pane_deltas(self) -> list[PaneDelta]:
        """Give what is not zero, keys, names and indices ascending."""
        found = []
        for key in sorted(self.panes):
            model, version, deployment, role, part, pane_ms = key
            target = self.panes[key]
            flat = {name: flatten(target[name]) for name in sorted(target)}
            filled = {name: pairs for name, pairs in flat.items() if pairs}
            if filled:
                found.append(
                    PaneDelta(
                        model=model,
                        version=version,
                        deployment=deployment,
                        role=role,
                        slice=part,
                        pane_ms=pane_ms,
                        pane_size_ms=self.pane_ms,
                        cells=filled,
                    )
                )
        return found


def flatten(vector: Mapping[int, int]) -> list[int]:
    """Give [index, delta, index, delta, …], indices ascending, without zeros.

    >>> flatten({3: 1, 1: -2, 2: 0})
    [1, -2, 3, 1]
    """
    return [n for index in sorted(vector) if vector[index] for n in (index, vector[index])]


def slice_text(dimension: str, prediction: Prediction) -> str:
    """Give `dimension=value`, or nothing when the prediction lacks the dimension or no dimension is measured."""
    value = prediction.slices.get(dimension) if dimension else None
    return "" if value is None else f"{dimension}={text(value)}"


def _target() -> Target:
    return defaultdict(dict)


def _add(vector: dict[int, int], index: int, delta: int) -> None:
    vector[index] = vector.get(index, 0) + delta


def _same(a: Counted, b: Counted) -> bool:
    if a.output != b.output:
        return False
    one, other = a.prediction, b.prediction
    return one is other or encode(one) == encode(other)  # bytes, because `true` == 1 in Python


def _heard(other: Named) -> tuple[object, ...]:
    return (other.name, _says(other.outcome), other.items, other.value)


def _says(outcome: Outcome) -> tuple[object, ...]:
    label = outcome.label
    return (type(label), label, outcome.kind, outcome.weight, outcome.labelled_at_ms)
