"""Sends the stream in blocks: predictions over HTTP, labels to Kafka, then the clock, behind a barrier.

Virtual time must not outrun the machine. So after each block of rows nobody is told that time has passed until
everything of the block has arrived: serving has handed its events to Kafka, the join has committed them. Then the clock
is advanced in every partition, and the next block waits until that, too, has gone through join, judge, decide, the
trainer and serving. A training run or a rollout therefore takes no virtual time, and a slow machine gives the same
history.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from schemas.control import ClockAdvanced
from schemas.errors import WeirError
from schemas.event import encode
from schemas.inputs import Label
from schemas.settings import Settings
from schemas.topics import INPUTS
from services.demo.stream import ROW_MS, TRAINED, Stream
from services.kafka import Sender
from streams.runtime.backlog import Backlog
from streams.runtime.kafka import ends, make_admin

BLOCK_ROWS = 480
PATIENCE_S = 120.0
STAGES = {
    "join": ("control", *INPUTS),
    "judge": ("control", "measures", "trials"),
    "train": ("retrain",),
}


@dataclass(slots=True)
class Served:
    """What the replay knows by itself, to hold the system's own figures against."""

    predictions: int = 0
    labels: int = 0
    failed: list[str] = field(default_factory=list)
    versions: dict[int, str] = field(default_factory=dict)


class Replay:
    """Drives one stream through a running system."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self.settings, self.stream = settings, stream
        self.served = Served()
        self._admin = make_admin(settings, "replay")
        self._backlogs = {stage: Backlog(settings, stage, inputs, self._admin) for stage, inputs in STAGES.items()}
        self._sender = Sender(settings, "replay")
        self._http = http.client.HTTPConnection(settings.serve.host, settings.serve.port, timeout=30)
        self._next_label = 0

    def ready(self) -> None:
        """Wait until serving serves what it was asked to, and `decide` reads. Raises `WeirError` when they do not."""
        self._wait("decide", self._decided)
        self._wait("serve", self._converged)

    def run(self) -> Iterator[int]:
        """Replay everything from the first untrained row on, and at the end the time that labels still need.

        Yields the number of rows done after each block. Raises `WeirError` when a stage does not drain in time.
        """
        rows = len(self.stream)
        for start in range(TRAINED, rows, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, rows)
            for row in range(start, end):
                self._predict(row)
            self.advance(Stream.at(end))
            yield end - TRAINED
        last_ms = self.stream.sendings[-1].sent_ms if self.stream.sendings else Stream.at(rows)
        moment_ms = Stream.at(rows)
        while moment_ms <= last_ms + 2 * BLOCK_ROWS * ROW_MS:
            moment_ms += BLOCK_ROWS * ROW_MS
            self.advance(moment_ms)

    def advance(self, now_ms: int) -> None:
        """Send the labels due before `now_ms`, let everything arrive, advance the clock, let that arrive too."""
        self._send_labels(now_ms)
        self._wait("serve", self._handed_over)
        self._wait("join", lambda: self._drained("join", *INPUTS))
        tick = encode(ClockAdvanced(now_ms=now_ms))
        for partition in range(self.settings.partitions):
            self._sender.send("control", tick, partition=partition, append_ms=now_ms)
        self._sender.flush()
        self._wait("join", lambda: self._drained("join", "control"))
        # What one stage decides may be work for the one before it (a promotion for serving, a reference for the join),
        # so the loop counts as quiet only when all of it is, twice in a row.
        quiet = 0
        while quiet < 2:
            self._wait("judge", lambda: self._drained("judge"))
            self._wait("train", lambda: self._drained("train"))
            self._wait("decide", self._decided)
            self._wait("serve", self._converged)
            self._wait("join", lambda: self._drained("join"))
            quiet = quiet + 1 if self._decided() and self._drained("judge") else 0

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._sender.close()
        for backlog in self._backlogs.values():
            backlog.close()

    def _predict(self, row: int) -> None:
        body = json.dumps(
            {
                "request_id": Stream.request_id(row),
                "features": self.stream.row_features(row),
                "subject": Stream.subject(row),
                "at_ms": Stream.at(row),
            }
        )
        status, answer = self._call("POST", "/v1/predict", body)
        if status != 200:
            self.served.failed.append(f"row {row}: {status} {answer[:200]!r}")
            return
        self.served.predictions += 1
        self.served.versions[row] = json.loads(answer)["version"]

    def _send_labels(self, until_ms: int) -> None:
        sendings = self.stream.sendings
        while self._next_label < len(sendings) and sendings[self._next_label].sent_ms < until_ms:
            sending = sendings[self._next_label]
            label = Label(
                request_id=Stream.request_id(sending.row),
                at_ms=sending.at_ms,
                label=sending.label,
                source="market",
                event_id=sending.event_id,
            )
            self._sender.send("labels", encode(label), key=label.request_id.encode(), append_ms=sending.sent_ms)
            self._next_label += 1
            self.served.labels += 1
        self._sender.flush()

    def _handed_over(self) -> bool:
        state = self._endpoint()
        return bool(state["outbox"]["pending"] == 0 and state["shadow"]["pending"] == 0)

    def _converged(self) -> bool:
        """Whether serving is up and serves the newest promotion."""
        try:
            state = self._endpoint()
        except OSError:
            return False
        return bool(state["converged"] and state["revision"] >= 1)

    def _decided(self) -> bool:
        """Whether `decide` has applied all that there is of what it reads (`streams.decide.progress`)."""
        try:
            port = json.loads((self.settings.data_dir / "run" / "decide.json").read_text())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                applied: dict[str, int] = json.load(answer)
        except (OSError, ValueError):
            return False
        places = {(name.rpartition("/")[0], int(name.rpartition("/")[2])): at for name, at in applied.items()}
        last = ends(self._admin, list(places))
        return bool(places) and all(at >= last[place][1] for place, at in places.items())

    def _endpoint(self) -> dict[str, Any]:
        status, answer = self._call("GET", "/v1/endpoint", None)
        if status != 200:
            raise WeirError(f"serving answers {status} to GET /v1/endpoint: {answer[:200]!r}")
        state: dict[str, Any] = json.loads(answer)
        return state

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        """Ask once more on a fresh connection when a kept one has been closed."""
        for fresh in (False, True):
            try:
                self._http.request(method, path, body, {"content-type": "application/json"})
                answer = self._http.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, ConnectionError):
                self._http.close()
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _drained(self, stage: str, *inputs: str) -> bool:
        return self._backlogs[stage].drained(*inputs)

    def _wait(self, stage: str, done: Callable[[], bool]) -> None:
        deadline, pause_s = time.monotonic() + PATIENCE_S, 0.005
        while not done():
            if time.monotonic() > deadline:
                raise WeirError(
                    f"the stage `{stage}` did not catch up within {PATIENCE_S:.0f} s",
                    fix=f"read {self.settings.data_dir / 'logs' / (stage + '.log')}",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
