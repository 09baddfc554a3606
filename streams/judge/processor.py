"""The judge as a processor: a pure function of the records it is given, in their order.

Of a step it reads control first, then trials, then measures, one record after the other; only a `Measures` moves a
clock, and each is taken up whole before anything closes. So closed figures, drift and alarms depend on the sequence of
measures alone, not on how it was cut into steps. Figures of open panes and corrections leave when the least clock
passes a multiple of `live_ms`, which is a place in the sequence too. A gate depends besides on which trials had been
read when its subjects closed; `settle_ms` keeps that from mattering. What waits for silence (label panes, trials) waits
for the clock of the join's timers, which a freeze holds: no pane is judged whose negatives are withheld.

What leaves: `metrics` (each closed pane; the rolling window of closed panes; the live window up to now, not closed;
corrections; what a window's figures will be, told when its traffic closes), `drift` (each closed pane and stream),
`gates` (each look with a new subject), `reviews` (decisions whose ground was corrected), dead letters. Partition 0,
which is told of every source and model, has the outage guard: it also gives `forecasts`, and freezes and thaws into
every partition of `control`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from schemas.control import AllocationSet, Control, DecidePolicySet, Frozen, ParitySet, PolicySet, ReferenceSet, Thawed
from schemas.event import decode, encode
from schemas.lifecycle import DecidePolicy, Limits
from schemas.measures import Measures, Trial
from schemas.records import DeadLetter
from schemas.settings import Guard as GuardBounds
from streams.join.policies import PolicyBook, too_late
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.controls import Controls
from streams.judge.drifts import Told
from streams.judge.figures import figures
from streams.judge.gates import Layer
from streams.judge.guard import Guard
from streams.judge.outlooks import ModelOutlook
from streams.judge.panes import Closing, Key, ModelPanes, Pane, Panes, Window
from streams.judge.reviews import Reviews
from streams.judge.shares import ALWAYS, NOTICE_MS, model_share
from streams.judge.state import JudgeState, packed, unpacked
from streams.judge.surge import Surges
from streams.judge.watch import Judged, Watch
from streams.judge.watched import QUALITY
from streams.measure.ledger import Ledger
from streams.measure.parity import parity_fault
from streams.measure.reference import fault
from streams.runtime.processor import Batch, Dump, Output, Stepped, only
from streams.runtime.records import Records

USUAL = "usual traffic"
"""What stands for a reference where a stream is compared with its own past."""


class Judge:
    """See `streams.runtime.processor.Processor`. Delivery: as the loop's, exactly once.

    In a `virtual` namespace policies may come at any time, as in the join. `partitions` is the number of `control`'s.
    `measures_partitions` is the number of those that share the budget (`shares`). Without `figures` it tells drift
    alone.
    """

    stage = "judge"
    version = "judge-4"
    inputs: tuple[str, ...] = ("control", "measures", "trials")

    def __init__(
        self,
        bounds: JudgeBounds | None = None,
        *,
        virtual: bool = False,
        guard: GuardBounds | None = None,
        partitions: int = 1,
        measures_partitions: int = 1,
        figures: bool = True,
    ) -> None:
        self.bounds = bounds or JudgeBounds()
        self.virtual = virtual
        self.guard = guard
        self.partitions = partitions
        self.measures_partitions = measures_partitions
        self.figures = figures

    def empty(self, partition: int) -> JudgeState:
        """Give the state of a partition that has read nothing."""
        policies = PolicyBook()
        bounds = self.bounds
        panes = Panes(policies, bounds.window_panes, bounds.grace_ms, max(bounds.keep_panes, 2 * bounds.window_panes))
        guard = Guard(self.guard, leaps=self.virtual) if self.guard is not None and partition == 0 else None
        return JudgeState(partition, panes, policies=policies, guard=guard, spread=self.measures_partitions)

    def step(self, state: JudgeState, batch: Batch, clock_ms: int) -> Stepped:
        """Advance `state`. Needs no timer: the sources' clocks come with their measures."""
        outputs: list[Output] = []
        for reason, topic in (("control", "control"), ("trial", "trials"), ("measures", "measures")):
            records = batch.inputs.get(topic, Records())
            for index, value in enumerate(records.values):
                try:
                    if topic == "control":
                        self._control(state, msgspec.json.decode(value or b"", type=Control), records.append_ms[index])
                    elif topic == "trials":
                        self._trial(state, decode(value or b"", Trial))
                    else:
                        outputs += self.measures(state, decode(value or b"", Measures))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    state.count(f"unreadable_{topic}")
                    # The join makes the dead letter of a control record: it reads the same ones.
                    if topic != "control":
                        detail = f"expected a {reason}: {error}"
                        outputs.append(_dead_letter(topic, batch.partition, records, index, detail, clock_ms))
        state.counters["late_deltas"] = state.panes.late_deltas
        state.counters["lost_deltas"] = state.panes.lost_deltas
        state.counters["late_trials"] = sum(layer.counts.late for layer in state.layers.values())
        return Stepped(outputs, dict(state.counters), None)

    def _control(self, state: JudgeState, event: Control, append_ms: int) -> None:
        if isinstance(event, PolicySet):
            # The same rule as the join's: what comes too late to be heard everywhere in time is not taken.
            refused = not self.virtual and too_late(event.policy, append_ms)
            if not refused and state.policies.add(event.policy):
                state.panes.replan()
        elif isinstance(event, DecidePolicySet):
            state.decide[event.policy.model] = event.policy
        elif isinstance(event, ReferenceSet):
            if fault(event.reference):
                state.count("refused_references")
            else:
                state.references.setdefault((event.reference.model, event.reference.version), event.reference)
                since = ALWAYS if self.virtual else append_ms + NOTICE_MS
                state.since[event.reference.model] = min(state.since.get(event.reference.model, since), since)
        elif isinstance(event, ParitySet):
            if parity_fault(event):
                state.count("refused_parities")
            else:
                state.freeze(event, self.bounds)
        elif isinstance(event, AllocationSet):
            self._layer(state, event.model, event.layer).allocate(event)
        elif isinstance(event, (Frozen, Thawed)) and state.guard is not None:
            state.guard.hear(event)

    def _layer(self, state: JudgeState, model: str, name: str) -> Layer:
        layer = state.layers.get((model, name))
        if layer is None:
            kept = self.bounds.review_subjects if self.bounds.reviews else 0
            layer = state.layers[model, name] = Layer(model, name, self.bounds.trial_window_ms, kept)
        return layer

    def _reviews(self, state: JudgeState, model: str) -> Reviews:
        if model not in state.reviews:
            state.reviews[model] = Reviews(model, self.bounds)
        return state.reviews[model]

    def _trial(self, state: JudgeState, trial: Trial) -> None:
        self._layer(state, trial.model, trial.layer).take(trial, state.wait(trial.model))

    def measures(self, state: JudgeState, event: Measures) -> list[Output]:
        """Take up one record of measures and give what follows from it."""
        before_ms, silent_before_ms = state.least_ms(), state.silent_ms()
        state.source_count = max(state.source_count, event.sources)
        for delta in event.panes:
            state.panes.add(delta, before_ms, silent_before_ms)
            if delta.model in state.reviews:
                state.reviews[delta.model].correct(delta)
        if state.guard is not None:
            for arm in event.arms:
                state.guard.take(arm)
        state.sources[event.source] = max(state.sources.get(event.source, -1), event.clock_ms)
        if event.timers_ms is not None:
            state.held[event.source] = event.timers_ms
        elif event.clock_ms:
            state.held.pop(event.source, None)
        least_ms, silent_ms = state.least_ms(), state.silent_ms()
        if least_ms <= before_ms and silent_ms <= silent_before_ms:
            return []
        outputs = self._guarded(state, least_ms)

        def closed(closing: Closing, at_start: dict[Key, Pane]) -> None:
            state.count(f"closed_{closing.kind}")
            if closing.kind == "labels" and self.figures:
                outputs.extend(self._closed_figures(state, closing, at_start, least_ms))
            outputs.extend(self._drift(state, closing, at_start, least_ms))
            if closing.kind == "traffic":
                outputs.extend(self._surges(state, closing, at_start, least_ms))
            if self.figures:
                outputs.extend(self._ahead(state, closing, at_start, least_ms))

        state.panes.close(least_ms, silent_ms, closed)
        if least_ms // self.bounds.live_ms > state.told_ms // self.bounds.live_ms:
            state.told_ms = least_ms
            if self.figures:
                outputs += self._tell(state, least_ms, silent_ms)
            else:
                state.panes.pass_over()
            state.panes.forget(least_ms)
        return outputs

    def _guarded(self, state: JudgeState, at_ms: int) -> list[Output]:
        """Let the outage guard look."""
        if state.guard is None:
            return []
        said, forecasts = state.guard.look(at_ms)
        outputs = [
            Output("control", None, encode(event), partition=partition)
            for event in said
            for partition in range(self.partitions)
        ]
        outputs += [Output("forecasts", one.source.encode(), encode(one)) for one in forecasts]
        state.counters["guard.frozen"] = sum(source.since_ms >= 0 for source in state.guard.sources.values())
        state.counters["guard.unwatched"] = state.guard.unwatched
        return outputs

    def _closed_figures(
        self, state: JudgeState, closing: Closing, at_start: dict[Key, Pane], at_ms: int
    ) -> list[Output]:
        found = []
        limits = self._limits(state, closing.model)
        for key, pane in sorted(at_start.items()):
            end = closing.pane_ms + pane.size_ms
            of_pane = list(figures(closing.model, key, pane.open(), closing.pane_ms, end, at_ms, closed=True))
            window = state.panes.models[closing.model].windows["labels"][key]
            of_window = self._window_figures(closing.model, key, window, at_ms, correction=False)
            found += of_pane + of_window
            if limits:
                self._reviews(state, closing.model).figured(of_pane, limits, pane.open(), "pane")
                self._reviews(state, closing.model).figured(of_window, limits, window.ledger, "window")
        state.count("metrics", len(found))
        return [Output("metrics", closing.model.encode(), encode(metric)) for metric in found]

    def _limits(self, state: JudgeState, model: str) -> dict[str, Limits]:
        policy = state.decide.get(model)
        return policy.limits if policy is not None and self.bounds.reviews else {}

    def _ahead(self, state: JudgeState, closing: Closing, at_start: dict[Key, Pane], at_ms: int) -> list[Output]:
        """Tell what the figures of a window will be, once its traffic has closed; score it once its labels have."""
        outlook = state.outlooks.setdefault(closing.model, ModelOutlook())
        panes = state.panes.models[closing.model]
        if closing.kind == "labels":
            outlook.close(closing, at_start, panes)
            return []
        found = outlook.tell(closing, at_start, panes, state.references, at_ms)
        state.count("metrics", len(found))
        return [Output("metrics", closing.model.encode(), encode(metric)) for metric in found]

    def _window_figures(self, model: str, key: Key, window: Window, at_ms: int, *, correction: bool) -> list[Any]:
        span = (window.ledger, window.from_ms if window.from_ms > 0 else 0, window.to_ms)
        return list(figures(model, key, *span, at_ms, closed=True, correction=correction))

    def _tell(self, state: JudgeState, at_ms: int, silent_ms: int) -> list[Output]:
        """Give live figures of what changed, corrections, and the gates' looks."""
        outputs = []
        for name, model in sorted(state.panes.models.items()):
            found: list[Any] = []
            for key in sorted(model.fresh):
                live = model.live.get(key)
                if live is not None and live.starts:
                    span = (live.ledger, max(live.from_ms, 0), live.to_ms)
                    found += list(figures(name, key, *span, at_ms, closed=False))
            model.fresh.clear()
            windows: set[Key] = set()
            for start, key in sorted(model.corrected):
                pane = model.panes[start][key]
                packed = pane.ledger is None
                end = start + pane.size_ms
                found += list(figures(name, key, pane.open(), start, end, at_ms, closed=True, correction=True))
                window = model.windows["labels"].get(key)
                if window is not None and start in window.starts:
                    windows.add(key)
                elif not packed:
                    pane.pack()
                state.count("corrections")
            limits = self._limits(state, name)
            for key in sorted(windows):
                window = model.windows["labels"][key]
                of_window = self._window_figures(name, key, window, at_ms, correction=True)
                found += of_window
                if limits:
                    self._reviews(state, name).figured(of_window, limits, window.ledger, "window")
            model.corrected.clear()
            outputs += [Output("metrics", name.encode(), encode(metric)) for metric in found]
            state.count("metrics", len(found))
        for (name, _), layer in sorted(state.layers.items()):
            if name in state.reviews:
                state.reviews[name].recounted(layer)
        for name, reviews in sorted(state.reviews.items()):
            said = list(reviews.tell(state.watches, state.layers, at_ms))
            outputs += [Output("reviews", name.encode(), encode(review)) for review in said]
            if said:
                state.count("reviews", len(said))
        for (name, _), layer in sorted(state.layers.items()):
            layer.close(silent_ms, self.bounds.settle_ms, state.wait(name), state.reach(name))
            policy = state.decide.get(name, DecidePolicy(model=name))
            gate = layer.look(policy, at_ms)
            if gate is not None:
                outputs.append(Output("gates", name.encode(), encode(gate)))
                state.count("gates")
                if layer.keep:
                    self._reviews(state, name).concluded(gate, layer, policy)
        return outputs

    def _drift(self, state: JudgeState, closing: Closing, at_start: dict[Key, Pane], at_ms: int) -> list[Output]:
        watched = []
        span = closing.pane_ms, closing.pane_ms + max(pane.size_ms for pane in at_start.values())
        share = model_share(closing.model, *span, state.since, self.bounds.weights)
        if self.bounds.weights.get(closing.model, 1.0) <= 0:
            return []
        for key, pane in sorted(at_start.items()):
            watch = self._watch(state, closing.model, key) if key.role == "primary" and not key.slice else None
            if watch is not None and pane.size_ms > 0:
                watched.append((key, pane, watch))
        outputs = []
        for key, pane, watch in watched:
            end = closing.pane_ms + pane.size_ms
            # The pane's budget is split over models, and over the deployments that have rows in it, which is known
            # before their outcomes.
            days = share * pane.size_ms / DAY_MS / len(watched)
            reviews = self._reviews(state, closing.model) if self.figures and closing.kind == "labels" else None
            if reviews is not None:
                reviews.look(watch, key, closing.pane_ms, end, days)
            judged = watch.judge(closing.kind, pane.open(), closing.pane_ms, end, days)
            window = state.panes.models[closing.model].windows[closing.kind][key]
            controls = self._controls(state, closing.model, key, watch)
            if closing.kind == "labels":
                controls.look(window.ledger, window.from_ms)
            far = watch.distances(closing.kind, window.ledger) if self.bounds.distances and judged else {}
            told = Told(closing, key, watch.reference.id, window, at_ms)
            found = []
            for place, index, verdict in Judged.in_order(judged):
                stream, detector = watch.streams[place], self.bounds.detectors[index]
                verdict = watch.noted(place, index, verdict, closing.pane_ms)
                verdict = watch.exampled(place, verdict, window.ledger)
                if verdict.outcome == "fail" and detector.budgeted:
                    controls.raised(stream, end)
                away = far.get(place, {}) if index == 0 else {}
                event = told.drift(stream.name, index, detector.kind, verdict, away, controls.told(stream.name))
                found.append(event)
                if reviews is not None and event.alarmed and detector.budgeted and stream.name == QUALITY:
                    counts = _counts_of(state.panes.models[closing.model], key)
                    reviews.alarmed(event.id, key, index, verdict, counts, at_ms)
            said = controls.take(watch, closing.kind, pane.open(), closing.pane_ms, end, days)
            found += [told.control(name, verdict) for name, verdict in said]
            state.count("drift", len(found))
            state.count("alarms", sum(drift.alarmed for drift in found))
            outputs += [Output("drift", closing.model.encode(), encode(drift)) for drift in found]
        return outputs

    def _surges(self, state: JudgeState, closing: Closing, at_start: dict[Key, Pane], at_ms: int) -> list[Output]:
        """Look for jumps of the traffic. Of slices only the alarms leave: there may be hundreds."""
        bounds, found = self.bounds, []
        surges = state.surges.setdefault(closing.model, Surges())
        law = (bounds.surge_budget, bounds.surge_factor, bounds.surge_warm_up_ms)
        windows = state.panes.models[closing.model].windows["traffic"]
        for key, stream, verdict in surges.take(at_start, closing.pane_ms, *law):
            if not key.slice or verdict.outcome == "fail":
                told = Told(closing, key, USUAL, windows[key], at_ms)
                found.append(told.drift(stream, 0, "surge", verdict, {}, {}))
        state.count("drift", len(found))
        state.count("alarms", sum(drift.alarmed for drift in found))
        return [Output("drift", closing.model.encode(), encode(drift)) for drift in found]

    def _watch(self, state: JudgeState, model: str, key: Key) -> Watch | None:
        at = (model, key.version, key.deployment)
        if at not in state.watches:
            if (model, key.version) not in state.references:
                return None
            state.watches[at] = state.watch(model, key.version, self.bounds)
        return state.watches[at]

    def _controls(self, state: JudgeState, model: str, key: Key, watch: Watch) -> Controls:
        at = (model, key.version, key.deployment)
        if at not in state.controls:
            state.controls[at] = Controls(watch, "|".join(at))
        return state.controls[at]

    def dump(self, state: JudgeState, *, whole: bool) -> Dump:
        """Give the whole state in one part that begins with a format version."""
        return Dump.of(packed(state))

    def load(self, partition: int, parts: Mapping[str, bytes]) -> JudgeState:
        """Read `dump`'s part. Raises `ValueError` for a format it does not know."""
        return unpacked(only(parts), self.empty(partition), self.bounds)


def _counts_of(model: ModelPanes, key: Key) -> Callable[[int], Ledger | None]:
    """Give the function from a pane's start to its counts of one key, as long as it is kept."""

    def of(start: int) -> Ledger | None:
        pane = model.panes.get(start, {}).get(key)
        return None if pane is None else pane.read()

    return of


def _dead_letter(topic: str, partition: int, records: Records, index: int, detail: str, clock_ms: int) -> Output:
    key, value, offset = records.keys[index], records.values[index], records.offsets[index]
    headers: Sequence[tuple[str, bytes | None]] = records.headers.get(index, ())
    letter = DeadLetter(
        reason="unreadable",
        detail=detail,
        stage="judge",
        topic=topic,
        partition=partition,
        offset=offset,
        append_ms=records.append_ms[index],
        key=_base64(key),
        value=_base64(value),
        headers=[(name, _base64(body)) for name, body in headers],
        at_ms=clock_ms,
    )
    return Output("dead-letters", f"{topic}/{partition}/{offset}".encode(), encode(letter))


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")
