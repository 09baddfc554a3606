"""One turn of the reducer: the state as it becomes, the commands that leave, the alerts that fire and resolve.

Ids are hashes of the evidence and never of when or in which turn it was read, so that an event read twice, or in
another order beside other topics, gives commands with the same ids.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec.structs import replace
from xxhash import xxh3_128_hexdigest

from schemas.control import AllocationSet
from schemas.lifecycle import Alert, Promote, Retrain
from schemas.verdict import Verdict
from streams.decide.state import NAMESPACE, REMEMBERED, Firing, ModelState

Command = Retrain | Promote | Alert | AllocationSet
Severity = Literal["critical", "error", "warning", "info"]

MOST_TEXT = 4_000


def shortened(text: str) -> str:
    """Cut what others wrote to a length that people read and every topic takes."""
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def hashed(kind: str, *content: object) -> str:
    """Give an id made from what it stands for.

    >>> hashed("retrain", "m", "v1") == hashed("retrain", "m", "v1") != hashed("retrain", "m", "v2")
    True
    """
    return f"{kind}-{xxh3_128_hexdigest(repr(content).encode())}"


def fingerprint(rule: str, model: str, slice_: str = "") -> str:
    """Give what groups firing and resolved."""
    return hashed("alert", rule, model, slice_)


def command_id(command: Command) -> str:
    """Give what tells a command from every other: two with one id are the same command, sent twice."""
    if isinstance(command, Retrain):
        return command.retrain_id
    if isinstance(command, Alert):
        return command.id
    if isinstance(command, Promote):
        return f"promote-{command.endpoint}-{command.revision}"
    return f"allocation-{command.layer}-{command.from_ms}"


class Turn:
    """What one event does to one model."""

    def __init__(self, state: ModelState, now_ms: int) -> None:
        self.state, self.now_ms = state, now_ms
        self.commands: list[Command] = []

    @property
    def model(self) -> str:
        """What an alert says it is about: the model, or nothing where it concerns all."""
        return "" if self.state.model == NAMESPACE else self.state.model

    def update(self, **changes: Any) -> None:
        """Go on with a state in which these fields are replaced."""
        self.state = replace(self.state, **changes)

    def first_time(self, evidence_id: str) -> bool:
        """Say whether this evidence is new, and remember it."""
        if evidence_id in self.state.seen:
            return False
        self.update(seen=[*self.state.seen, evidence_id][-REMEMBERED:])
        return True

    def fire(
        self,
        rule: str,
        key: str,
        summary: str,
        *,
        severity: Severity = "warning",
        version: str = "",
        slice_: str = "",
        evidence: list[Verdict] | None = None,
        last_ms: int | None = None,
        span_ms: int = 0,
    ) -> None:
        """Tell of something, once until it is resolved; later evidence only keeps it alive. `key` names the first."""
        state = self.state
        mark = fingerprint(rule, state.model, slice_)
        moment_ms = self.now_ms if last_ms is None else last_ms
        known = state.alerts.get(mark)
        if known is not None:
            kept = replace(known, last_ms=max(known.last_ms, moment_ms), span_ms=max(known.span_ms, span_ms))
            self.update(alerts={**state.alerts, mark: kept})
            return
        alert = Alert(
            id=hashed("alert", mark, "firing", key),
            fingerprint=mark,
            rule=rule[:128],
            severity=severity,
            model=self.model,
            version=version,
            slice=slice_,
            summary=shortened(summary),
            evidence=evidence or [],
            at_ms=self.now_ms,
        )
        self.commands.append(alert)
        firing = Firing(
            id=alert.id, rule=alert.rule, slice=slice_, severity=severity, last_ms=moment_ms, span_ms=span_ms
        )
        self.update(alerts={**state.alerts, mark: firing})

    def firing(self, rule: str, slice_: str = "") -> Firing | None:
        """Give what fires under a rule."""
        return self.state.alerts.get(fingerprint(rule, self.state.model, slice_))

    def resolve(
        self, rule: str, summary: str, *, version: str = "", slice_: str = "", evidence: list[Verdict] | None = None
    ) -> None:
        """Tell that it is over, if it fires."""
        mark = fingerprint(rule, self.state.model, slice_)
        known = self.state.alerts.get(mark)
        if known is None:
            return
        self.commands.append(
            Alert(
                id=hashed("alert", mark, "resolved", known.id),
                fingerprint=mark,
                rule=known.rule,
                status="resolved",
                severity=known.severity,
                model=self.model,
                version=version,
                slice=slice_,
                summary=shortened(summary),
                evidence=evidence or [],
                at_ms=self.now_ms,
            )
        )
        self.update(alerts={key: one for key, one in self.state.alerts.items() if key != mark})
