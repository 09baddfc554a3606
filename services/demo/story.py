"""What happens, told as it happens: one line per event that matters, and its wall time for the hops.

`Story` reads the namespace's decision topics from the beginning, outside any group, in a thread of its own. `line` is
pure: an event in, a sentence or nothing out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import TopicPartition

from schemas.event import decode
from schemas.lifecycle import Alert, Candidate, Promote, Retrain, RolloutStatus
from schemas.measures import Drift, Gate
from schemas.settings import Settings
from services.demo.stream import ORIGIN_MS, ROW_MS
from services.kafka import places_of
from streams.runtime.kafka import make_reader

KINDS: dict[str, type[Any]] = {
    "drift": Drift,
    "retrain": Retrain,
    "candidates": Candidate,
    "gates": Gate,
    "promote": Promote,
    "rollout-status": RolloutStatus,
    "alerts": Alert,
}


def row_of(at_ms: int) -> int:
    """Give the row that a virtual time falls on."""
    return (at_ms - ORIGIN_MS) // ROW_MS


def line(event: Any) -> str | None:
    """Give the sentence of an event, or None when it is not worth one.

    >>> line(Retrain(retrain_id="r", model="m", base_version="v1", reason="quality", from_ms=0, to_ms=1,
    ...              at_ms=ORIGIN_MS + 5_000))
    'row      5  retrain asked: quality'
    """
    text = _sentence(event)
    return None if text is None else f"row {row_of(event.at_ms):>6}  {text}"


def _sentence(event: Any) -> str | None:
    if isinstance(event, Drift):
        if not event.alarmed:
            return None
        first = "" if event.stream.startswith("quality") else " (its later alarms are only counted)"
        return f"drift alarm on {event.stream} of {event.version}: {event.evidence.sentence or event.detector}{first}"
    if isinstance(event, Retrain):
        return f"retrain asked: {event.reason}"
    if isinstance(event, Candidate):
        if event.error:
            return f"training gave no candidate: {event.error}"
        return f"candidate {event.version} trained on {event.rows} rows{_compared(event)}"
    if isinstance(event, Promote):
        weights = ", ".join(
            f"{d.deployment} {d.weight:.0%}" if d.role == "primary" else f"{d.deployment} in shadow"
            for d in event.deployments
        )
        return f"promote #{event.revision} {event.stage or 'full'}: {weights}" + (
            f" ({event.reason})" if event.reason else ""
        )
    return None


def _compared(event: Candidate) -> str:
    """Hold the candidate's hold-out accuracy against the champion's and the best baseline."""

    def accuracy(metrics: list[Any]) -> float | None:
        return next((m.value for m in metrics if m.metric == "accuracy"), None)

    own, champion = accuracy(event.metrics), accuracy(event.champion)
    parts = [
        f"accuracy {own:.3f}" if own is not None else "",
        f"champion {champion:.3f}" if champion is not None else "",
    ]
    parts += [f"{name} {value:.3f}" for name, value in sorted(event.baselines.items())]
    told = ", ".join(part for part in parts if part)
    return f"; hold-out: {told}" if told else ""


class Story:
    """Collects events with the wall time at which they could be read, and calls `tell` with each line."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self.events: list[tuple[float, str, Any]] = []
        self._settings, self._tell = settings, tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="story", daemon=True)
        self._lock = threading.Lock()
        self._alarmed: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; what was collected stays."""
        self._stop.set()
        self._thread.join(10)

    def of(self, kind: type[Any]) -> list[Any]:
        """Give the events of one kind in the order in which they were read."""
        with self._lock:
            return [event for _, _, event in self.events if isinstance(event, kind)]

    def read_at(self, event: Any) -> float:
        """Give the wall time (seconds, monotonic) at which an event could first be read."""
        with self._lock:
            return next(moment for moment, _, known in self.events if known is event)

    def _read(self) -> None:
        reader = make_reader(self._settings, "story")
        topics = {place: topic for topic in KINDS for place in places_of(self._settings, topic)}
        reader.assign([TopicPartition(*place, 0) for place in topics])
        try:
            while not self._stop.is_set():
                for message in reader.consume(500, timeout=0.1):
                    if message.error() is not None:
                        continue
                    topic = topics[str(message.topic()), int(message.partition() or 0)]
                    self._hear(topic, decode(message.value() or b"", KINDS[topic]))
        finally:
            reader.close()

    def _hear(self, topic: str, event: Any) -> None:
        with self._lock:
            self.events.append((time.monotonic(), topic, event))
        text = line(event)
        if text is not None and not self._told_before(event):
            self._tell(text)

    def _told_before(self, event: Any) -> bool:
        """Whether this stream of this version has alarmed before; alarms on quality are always told."""
        if not isinstance(event, Drift) or event.stream.startswith("quality"):
            return False
        key = (event.version, event.stream)
        again = key in self._alarmed
        self._alarmed.add(key)
        return again
