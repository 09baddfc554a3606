"""`measure`: the stage chained behind the join. It turns a step's changes into signed pane deltas and trials.

Between steps it keeps only what control said (references) and which slice values it has let in: no counts, so nothing
to lose. Every step writes at least one `Measures` to every partition of `measures`, if need be without panes, because
the judge closes panes by the least clock that it has heard of all sources.

**References and exactness.** A prediction's features and embedding are counted in its version's reference if `at_ms` ≥
the `ReferenceSet`'s `at_ms` (0: always). That depends on the prediction and the reference alone, so what was added can
be taken away with the same bins, provided the reference reached every partition before such predictions: send it before
the version's first traffic, or with an `at_ms` a minute ahead. The first reference of a version stands; a later one is
ignored, because edges that change would leave counts that nothing can take away.

**Slices.** The value of the one measured dimension makes the slice `dimension=value`. A model has at most `MOST_SLICES`
values in a source partition; those that come later share `dimension=~other`, for ever, so that retractions find them.
Classes have the same rule: at most `MOST_CLASSES` names of a model, then `class:~other`. So have other label names, of
which those beyond `MOST_NAMES` are not counted: what is of several names is of none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from schemas.control import Control, ParitySet, Reference, ReferenceSet
from schemas.event import encode
from schemas.inputs import Prediction
from schemas.measures import ArmDelta, Measures, PaneDelta
from streams.join.arrivals import Arm, Arrivals
from streams.join.outcome import Change
from streams.join.partition import partition_of
from streams.measure.ages import BIN_OF
from streams.measure.cells import Cuts, Deltas, slice_text
from streams.measure.embedding import EmbeddingCut
from streams.measure.ledger import OTHER, N
from streams.measure.parity import ParityCut, parity_fault
from streams.measure.reading import class_name
from streams.measure.reference import cuts, fault
from streams.measure.trials import trials
from streams.runtime.processor import Batch, Output

MOST_SLICES: Final = 256
MOST_CLASSES: Final = 64
MOST_NAMES: Final = 16
MOST_NAME_BYTES: Final = 64
MOST_SOURCES: Final = 256
MAX_BYTES: Final = 800_000
_FORMAT: Final = b"measure/1\n"


class Frozen(msgspec.Struct, frozen=True):
    """A reference and from when on it counts."""

    since_ms: int
    reference: Reference


class Kept(msgspec.Struct):
    """What a snapshot holds: references and parity rows in the order heard; slices, classes and other label names let
    in, by model in the order met.
    """

    references: list[Frozen]
    slices: dict[str, list[str]]
    sources: list[str] = []
    classes: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    parities: list[ParitySet] = []


@dataclass(slots=True)
class MeasureState:
    """What one partition keeps between steps."""

    partition: int
    references: dict[tuple[str, str], Frozen] = field(default_factory=dict)
    bins: dict[tuple[str, str], Cuts] = field(default_factory=dict)
    embeddings: dict[tuple[str, str], EmbeddingCut] = field(default_factory=dict)
    parities: dict[tuple[str, str], ParityCut] = field(default_factory=dict)
    slices: dict[str, dict[str, None]] = field(default_factory=dict)
    sources: dict[str, None] = field(default_factory=dict)
    classes: dict[str, dict[str, None]] = field(default_factory=dict)
    names: dict[str, dict[str, None]] = field(default_factory=dict)

    def hear(self, frozen: Frozen) -> None:
        """Take a reference unless its version has one. One that has a `fault` is not taken."""
        key = (frozen.reference.model, frozen.reference.version)
        if key not in self.references and not fault(frozen.reference):
            self.bins[key] = cuts(frozen.reference)
            if frozen.reference.embedding is not None:
                self.embeddings[key] = EmbeddingCut.of(frozen.reference.embedding)
            self.references[key] = frozen

    def cuts_of(self, prediction: Prediction) -> Cuts | None:
        """Give the bins that count this prediction's features."""
        key = (prediction.model, prediction.version)
        frozen = self.references.get(key)
        return None if frozen is None or prediction.at_ms < frozen.since_ms else self.bins[key]

    def embedding_of(self, prediction: Prediction) -> EmbeddingCut | None:
        """Give how this prediction's embedding is counted; None where its reference has none."""
        key = (prediction.model, prediction.version)
        cut = self.embeddings.get(key)
        return None if cut is None or prediction.at_ms < self.references[key].since_ms else cut

    def freeze(self, given: ParitySet) -> None:
        """Take parity rows unless their version has some. Those with a fault are not taken."""
        key = (given.model, given.version)
        if key not in self.parities and not parity_fault(given):
            self.parities[key] = ParityCut(given)

    def parity_of(self, prediction: Prediction) -> ParityCut | None:
        """Give the frozen rows of this prediction's version; None where it has none."""
        return self.parities.get((prediction.model, prediction.version)) if self.parities else None

    def source_of(self, source: str) -> str:
        """Give the name by which a label source is told; it lets new ones in while there is room."""
        if source not in self.sources:
            if len(self.sources) >= MOST_SOURCES:
                return OTHER
            self.sources[source] = None
        return source

    def class_of(self, model: str, label: str) -> str:
        """Give the name under which a class is counted; it lets new ones in while there is room."""
        name = class_name(label)
        known = self.classes.setdefault(model, {})
        if name not in known and name != OTHER:
            if len(known) >= MOST_CLASSES:
                return OTHER
            known[name] = None
        return name

    def counts_name(self, model: str, name: str) -> bool:
        """Say whether another label name of a model is counted; it lets new ones in while there is room."""
        known = self.names.setdefault(model, {})
        if name not in known:
            if len(known) >= MOST_NAMES or len(name.encode()) > MOST_NAME_BYTES:
                return False
            known[name] = None
        return True

    def slice_of(self, dimension: str) -> Callable[[Prediction], str]:
        """Give the function from a prediction to its slice; it lets new values in while there is room."""

        def of(prediction: Prediction) -> str:
            part = slice_text(dimension, prediction)
            if not part:
                return part
            known = self.slices.setdefault(prediction.model, {})
            if part not in known:
                if len(known) >= MOST_SLICES:
                    return f"{dimension}={OTHER}"
                known[part] = None
            return part

        return of


class Measure:
    """The chained stage: one per worker, with one state per source partition.

    `partitions` is the number of source partitions, `measures_partitions` that of the topic `measures`.
    """

    version = "measure-5"

    def __init__(
        self,
        *,
        partitions: int,
        measures_partitions: int = 1,
        pane_ms: int = 60_000,
        slice_dimension: str = "",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.partitions = partitions
        self.measures_partitions = measures_partitions
        self.pane_ms = pane_ms
        self.slice_dimension = slice_dimension
        self.max_bytes = max_bytes

    def empty(self, partition: int) -> MeasureState:
        """Give the state of a partition that has read nothing."""
        return MeasureState(partition)

    def step(
        self,
        state: MeasureState,
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals | None = None,
        timers_ms: int | None = None,
    ) -> list[Output]:
        """Count a step: one or more `Measures` for each partition of `measures`, then trials."""
        for event in control:
            if isinstance(event, ReferenceSet):
                state.hear(Frozen(event.at_ms, event.reference))
            elif isinstance(event, ParitySet):
                state.freeze(event)
        part_of = state.slice_of(self.slice_dimension)
        deltas = Deltas(
            self.pane_ms,
            state.cuts_of,
            part_of,
            state.class_of,
            state.counts_name,
            embedded=state.embedding_of,
            parity=state.parity_of,
        )
        deltas.add(changes)
        by_target: list[list[PaneDelta]] = [[] for _ in range(self.measures_partitions)]
        found = deltas.pane_deltas()
        arms = arm_deltas(found, arrivals or Arrivals(), state.source_of, self.pane_ms)
        for pane in found:
            by_target[partition_of(pane.model.encode(), self.measures_partitions)].append(pane)
        key = str(state.partition).encode()
        outputs = []
        for target, panes in enumerate(by_target):
            whole = Measures(
                source=state.partition,
                sources=self.partitions,
                step=batch.step,
                clock_ms=clock_ms,
                panes=panes,
                timers_ms=timers_ms if timers_ms is not None and timers_ms < clock_ms else None,
                arms=[] if target else arms,
            )
            outputs += [Output("measures", key, value, partition=target) for value in split(whole, self.max_bytes)]
        for trial in trials(changes, source=state.partition, step=batch.step):
            outputs.append(Output("trials", trial.model.encode(), encode(trial)))
        return outputs

    def dump(self, state: MeasureState) -> bytes:
        """Give the state as bytes that begin with a format version."""
        slices = {model: list(known) for model, known in state.slices.items()}
        classes = {model: list(known) for model, known in state.classes.items()}
        names = {model: list(known) for model, known in state.names.items()}
        parities = [cut.given for cut in state.parities.values()]
        references, sources = list(state.references.values()), list(state.sources)
        return _FORMAT + encode(Kept(references, slices, sources, classes, names, parities))

    def load(self, partition: int, body: bytes) -> MeasureState:
        """Read `dump`'s bytes. Raises `ValueError` for a format it does not know."""
        if not body.startswith(_FORMAT):
            raise ValueError(f"expected a snapshot of format {_FORMAT.decode().strip()!r}, got {body[:16]!r}")
        kept = msgspec.json.decode(body[len(_FORMAT) :], type=Kept)
        state = MeasureState(partition)
        for frozen in kept.references:
            state.hear(frozen)
        for given in kept.parities:
            state.freeze(given)
        state.slices = {model: dict.fromkeys(known) for model, known in kept.slices.items()}
        state.sources = dict.fromkeys(kept.sources)
        state.classes = {model: dict.fromkeys(known) for model, known in kept.classes.items()}
        state.names = {model: dict.fromkeys(known) for model, known in kept.names.items()}
        return state


def split(whole: Measures, max_bytes: int) -> list[bytes]:
    """Encode a `Measures`, as several of at most about `max_bytes` when it is too large; only the last has the clock.

    Panes are cut between vectors, never inside one: a single vector larger than the bound is sent alone, whole.
    """
    body = encode(whole)
    if len(body) <= max_bytes:
        return [body]
    groups: list[list[PaneDelta]] = [[]]
    used = 0
    for piece in _pieces(whole.panes):
        size = len(encode(piece))
        if used + size > max_bytes - 300 and groups[-1]:
            groups.append([])
            used = 0
        groups[-1].append(piece)
        used += size + 1
    arms: list[list[ArmDelta]] = [[]]
    used = 0
    for arm in whole.arms:
        size = len(encode(arm))
        if used + size > max_bytes - 300 and arms[-1]:
            arms.append([])
            used = 0
        arms[-1].append(arm)
        used += size + 1
    parts = [
        *(msgspec.structs.replace(whole, panes=group, arms=[]) for group in groups if group),
        *(msgspec.structs.replace(whole, panes=[], arms=group) for group in arms if group),
    ]
    last = len(parts) - 1
    return [encode(part if i == last else msgspec.structs.replace(part, clock_ms=0)) for i, part in enumerate(parts)]


def arm_deltas(
    panes: Sequence[PaneDelta], arrivals: Arrivals, source_of: Callable[[str], str], pane_ms: int
) -> list[ArmDelta]:
    """Give what a step's predictions and labels say of each arm; arms, panes and bins ascending."""
    predictions: dict[Arm, Counter[int]] = {}
    for pane in panes:
        if not pane.slice and N in pane.cells:
            counts = predictions.setdefault(Arm(pane.model, pane.version, pane.deployment), Counter())
            counts[pane.pane_ms // pane_ms] += pane.cells[N][1]
    labels: dict[Arm, dict[str, Counter[tuple[int, int]]]] = {}
    for whose, cells in arrivals.counted(pane_ms, BIN_OF).items():
        of_source = labels.setdefault(whose.arm, {}).setdefault(source_of(whose.source), Counter())
        for at, age, count in cells:
            of_source[at, age] += count
    return [
        ArmDelta(
            model=arm.model,
            version=arm.version,
            deployment=arm.deployment,
            pane_size_ms=pane_ms,
            predictions=[n for pair in sorted(predictions.get(arm, {}).items()) if pair[1] for n in pair],
            labels={
                source: [n for (at, age), count in sorted(cells_.items()) for n in (at, age, count)]
                for source, cells_ in sorted(labels.get(arm, {}).items())
            },
        )
        for arm in sorted({*predictions, *labels})
    ]


def _pieces(panes: Sequence[PaneDelta]) -> Iterator[PaneDelta]:
    """Give each pane in pieces of about 8,192 numbers (some 60 kB), so that they pack well."""
    for pane in panes:
        piece: dict[str, list[int]] = {}
        numbers = 0
        for name, flat in pane.cells.items():
            if piece and numbers + len(flat) > 8_192:
                yield msgspec.structs.replace(pane, cells=piece)
                piece, numbers = {}, 0
            piece[name] = flat
            numbers += len(flat)
        yield msgspec.structs.replace(pane, cells=piece)
