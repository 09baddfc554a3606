"""From verdicts on a closed pane to `Drift` events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.measures import Drift
from schemas.verdict import Verdict
from streams.judge.figures import event_id
from streams.judge.panes import Closing, Key, Window


@dataclass(frozen=True)
class Told:
    """What all events about one closed pane of one deployment share."""

    closing: Closing
    key: Key
    reference: str
    window: Window
    at_ms: int

    def drift(
        self,
        stream: str,
        index: int,
        detector: str,
        verdict: Verdict,
        distances: dict[str, float],
        history: Mapping[str, int],
    ) -> Drift:
        """Tell what the detector at `index` says of a stream. A failing verdict is an alarm."""
        return self._event(stream, index, detector, verdict, verdict.outcome == "fail", distances, history)

    def control(self, name: str, verdict: Verdict) -> Drift:
        """Tell what a control says (`placebo:errors`, `injected:score`); it never alarms by itself."""
        return self._event(name, 0, name.partition(":")[0], verdict, False, {}, {})

    def _event(
        self,
        stream: str,
        index: int,
        detector: str,
        verdict: Verdict,
        alarmed: bool,
        distances: dict[str, float],
        history: Mapping[str, int],
    ) -> Drift:
        model, key = self.closing.model, self.key
        about = (model, key.version, key.deployment, stream, index, detector, self.closing.pane_ms)
        return Drift(
            id=event_id("drift", *about, *([key.slice] if key.slice else [])),
            model=model,
            version=key.version,
            deployment=key.deployment,
            slice=key.slice,
            stream=stream,
            detector=detector,
            from_ms=max(self.window.from_ms, 0),
            to_ms=self.window.to_ms,
            reference=self.reference,
            distances=distances,
            evidence=verdict,
            alarmed=alarmed,
            history=dict(history),
            at_ms=self.at_ms,
        )
