"""The forecasts of all arms of a model: from its panes to `Metric` events. `outlook` does the thinking.

Slices have none: they share their whole's law of delay, but seldom its calibration, and would cost a law each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas import measures
from schemas.control import Reference
from streams.judge.cbpe import Floats, calibration
from streams.judge.conformal import LEVEL
from streams.judge.development import Development, counted
from streams.judge.figures import event_id
from streams.judge.outlook import NOTED, Outlook, Part
from streams.judge.panes import Closing, Key, ModelPanes, Pane
from streams.measure.ledger import Ledger, N


@dataclass(slots=True)
class ModelOutlook:
    """`pooled` is the law over all arms, for those that have none of their own yet."""

    pooled: Development = field(default_factory=Development)
    arms: dict[Key, Outlook] = field(default_factory=dict)
    chances: dict[str, Floats | None] = field(default_factory=dict)
    """By version, from its reference. Not kept in snapshots: a reference never changes."""

    def tell(
        self,
        closing: Closing,
        at_start: Mapping[Key, Pane],
        panes: ModelPanes,
        references: Mapping[tuple[str, str], Reference],
        at_ms: int,
    ) -> list[measures.Metric]:
        """Tell the figures of each arm's window that ends with a pane whose traffic has closed, keys ascending."""
        start = closing.pane_ms
        size_ms = max(pane.size_ms for pane in at_start.values())
        waiting = panes.waiting["labels"]
        found: list[measures.Metric] = []
        for key, outlook in sorted(self.arms.items()):
            outlook.look(start, size_ms, lambda at, key=key: _ledger(panes, at, key))  # type: ignore[misc]
        for key in sorted(at_start):
            if key.slice:
                continue
            outlook = self.arms.setdefault(key, Outlook())
            # Long waits: of tens of thousands of panes not each needs to be followed.
            if start in waiting and start // size_ms % (1 + len(waiting) // NOTED) == 0:
                outlook.looks[start] = [(0, list(counted(at_start[key].open())))]
            window = panes.windows["traffic"][key]
            parts = [Part(at, ledger) for at in window.starts if (ledger := _ledger(panes, at, key)) is not None]
            chances = self._chances(closing.model, key.version, references)
            for one in outlook.tell(parts, size_ms, self.pooled, window.ledger, chances, waiting):
                about = (closing.model, *key, one.metric, one.estimator, window.to_ms)
                found.append(
                    measures.Metric(
                        id=event_id("metric", *about),
                        model=closing.model,
                        version=key.version,
                        deployment=key.deployment,
                        role=key.role,
                        metric=one.metric,
                        estimator=one.estimator,
                        from_ms=max(window.from_ms, 0),
                        to_ms=window.to_ms,
                        value=one.told.value,
                        low=one.told.low,
                        high=one.told.high,
                        n=one.n,
                        maturity=one.maturity,
                        at_ms=at_ms,
                        level=LEVEL,
                        coverage=one.tally.coverage,
                        scored=one.tally.scored,
                        windows=one.tally.scored * size_ms / (window.to_ms - window.from_ms),
                        slack=one.tally.bound,
                    )
                )
        return found

    def close(self, closing: Closing, at_start: Mapping[Key, Pane], panes: ModelPanes) -> None:
        """Learn from a pane that has closed for labels, and score what was told of its windows."""
        for key, pane in sorted(at_start.items()):
            if key.slice:
                continue
            outlook = self.arms.setdefault(key, Outlook())
            ledger = pane.open()
            rows, final = ledger.get(N), counted(ledger)
            self.pooled.learn(rows, outlook.looks.get(closing.pane_ms, []), final)
            outlook.close(closing.pane_ms, rows, ledger, panes.windows["labels"][key].ledger)

    def _chances(self, model: str, version: str, references: Mapping[tuple[str, str], Reference]) -> Floats | None:
        if version not in self.chances:
            reference = references.get((model, version))
            if reference is None:
                return None
            self.chances[version] = calibration(reference)
        return self.chances[version]

    def dump(self) -> dict[str, Any]:
        """Give it as plain data."""
        arms = [[list(key), outlook.dump()] for key, outlook in sorted(self.arms.items())]
        return {"pooled": self.pooled.dump(), "arms": arms}

    @classmethod
    def load(cls, plain: Mapping[str, Any]) -> ModelOutlook:
        """Take up what `dump` gave."""
        arms = {Key.of(key): Outlook.load(outlook) for key, outlook in plain["arms"]}
        return cls(Development.load(plain["pooled"]), arms)


def _ledger(panes: ModelPanes, start: int, key: Key) -> Ledger | None:
    pane = panes.panes.get(start, {}).get(key)
    return None if pane is None else pane.open()
