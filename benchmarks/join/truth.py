"""Judging what a peer wrote: read with `read_committed` and compared, field by field, with what is true."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from benchmarks.join.history import DEPLOYMENT, FEATURES, MODEL, VERSION, History, Ints, country, subject
from schemas.envelope import ROWS, content_type

SILENCE_S = 30.0
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Flags = NDArray[np.bool_]


class Row(msgspec.Struct):
    """One row of feedback, as far as it is compared."""

    request_id: str
    label: int | float
    label_kind: str
    predicted_at_ms: int
    labelled_at_ms: int | None = None
    model: str = ""
    version: str = ""
    deployment: str = ""
    score: float | None = None
    subject: str = ""
    slices: dict[str, str] = {}
    features: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `correct + wrong + missing` = `expected`: the last row of each prediction counts.

    `differ` counts the fields of wrong rows; `more` are rows beyond one per prediction, `strange` those about requests
    that never were, or not JSON at all.
    """

    expected: int
    rows: int
    correct: int
    wrong: int
    missing: int
    more: int
    strange: int
    differ: Mapping[str, int] = field(default_factory=dict)
    example: str = ""


class Books:
    """What has been seen of each prediction."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._features = history.features(0, history.n)
        self._by_id = np.argsort(history.ids[:, 0])
        self._firsts = history.ids[self._by_id, 0]
        self._decoder = msgspec.json.Decoder(Row)
        self.seen, self.right = np.zeros(history.n, dtype=np.int32), np.zeros(history.n, dtype=np.bool_)
        self.strange, self.example = 0, ""
        self.differ: Counter[str] = Counter()

    def enter(self, bodies: list[bytes]) -> None:
        """Take note of some rows."""
        rows = []
        for body in bodies:
            try:
                row = self._decoder.decode(body)
            except msgspec.DecodeError as error:
                if b"tick" not in body:  # a tick has no features, so its row may be anything
                    self.strange += 1
                    self.example = self.example or f"{error}: {body[:600]!r}"
                continue
            if _UUID.fullmatch(row.request_id):
                rows.append(row)
            else:
                self.strange += not row.request_id.startswith("tick-")
        if not rows:
            return
        digits = "".join(row.request_id for row in rows).replace("-", "")
        halves = np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64).reshape(-1, 2)
        place = np.minimum(np.searchsorted(self._firsts, halves[:, 0]), self._history.n - 1)
        index = self._by_id[place]
        known = (self._history.ids[index] == halves).all(axis=1)
        self.strange += int(np.count_nonzero(~known))
        rows, index = [row for row, ours in zip(rows, known.tolist(), strict=True) if ours], index[known]
        good = self._good(rows, index)
        np.add.at(self.seen, index, 1)
        self.right[index] = good  # of several rows of one request the last one stays
        for bad in np.flatnonzero(~good).tolist():
            self._explain(rows[bad], int(index[bad]))

    def _explain(self, row: Row, index: int) -> None:
        """Count which fields of a wrong row differ, and keep one as an example."""
        history = self._history
        label = int(history.label[index])
        true: dict[str, object] = {
            "label": max(label, 0),
            "label_kind": "explicit" if label >= 0 else "timeout",
            "predicted_at_ms": int(history.at_ms[index]),
            "model": MODEL,
            "version": VERSION,
            "deployment": DEPLOYMENT,
            "score": float(history.scores[index]),
            "subject": subject(index).decode(),
            "slices": {"country": country(index).decode()},
            "features": dict(zip(FEATURES, self._features[index].tolist(), strict=True)),
        }
        if label >= 0:
            true["labelled_at_ms"] = int(history.labelled_at_ms[index])
        wrong = [name for name, value in true.items() if getattr(row, name) != value]
        self.differ.update(wrong)
        self.example = self.example or f"differs in {', '.join(wrong)}: {row!r}"

    def verdict(self) -> Verdict:
        """Sum up."""
        seen, right = self.seen, self.right
        return Verdict(
            expected=self._history.n,
            rows=int(seen.sum()),
            correct=int(np.count_nonzero(right)),
            wrong=int(np.count_nonzero((seen > 0) & ~right)),
            missing=int(np.count_nonzero(seen == 0)),
            more=int(np.maximum(seen - 1, 0).sum()),
            strange=self.strange,
            differ=dict(self.differ),
            example=self.example,
        )

    def _good(self, rows: list[Row], index: Ints) -> Flags:
        history, indices = self._history, index.tolist()
        explicit = history.label[index] >= 0
        columns = zip(rows, indices, explicit.tolist(), history.labelled_at_ms[index].tolist(), strict=True)
        told = [
            row.label_kind == ("explicit" if labelled else "timeout")
            and (not labelled or row.labelled_at_ms == labelled_at_ms)
            and (row.model, row.version, row.deployment) == (MODEL, VERSION, DEPLOYMENT)
            and row.subject == subject(i).decode()
            and row.slices == {"country": country(i).decode()}
            for row, i, labelled, labelled_at_ms in columns
        ]
        numbers = np.array([_numbers(row) for row in rows], dtype=np.float64).reshape(len(rows), len(FEATURES) + 3)
        true = np.column_stack(
            (np.maximum(history.label[index], 0), history.at_ms[index], history.scores[index], self._features[index])
        )
        good: Flags = np.array(told, dtype=np.bool_) & (numbers == true).all(axis=1)
        return good


def _numbers(row: Row) -> list[float]:
    features = row.features
    score = float("nan") if row.score is None else row.score
    return [row.label, row.predicted_at_ms, score, *(features.get(name, float("nan")) for name in FEATURES)]


def judge(history: History, bootstrap: str, topic: str, partitions: int) -> Verdict:
    """Read a topic to its end and compare it with the truth."""
    books = Books(history)
    for bodies in _read(bootstrap, topic, partitions):
        books.enter(bodies)
    return books.verdict()


def _read(bootstrap: str, topic: str, partitions: int) -> Iterator[list[bytes]]:
    """Yield the values of committed records, up to the last stable offset of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench.judge",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    left, heard = set(range(partitions)), time.monotonic()
    try:
        while left:
            bodies = []
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    body, headers = message.value() or b"", message.headers() or ()
                    of_rows = headers and content_type(headers) == ROWS  # type: ignore[arg-type]
                    bodies += body.split(b"\n") if of_rows else [body]
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE_S:
                raise TimeoutError(f"{topic}: nothing came for {SILENCE_S:g} s, before the end of {sorted(left)}")
            yield bodies
    finally:
        consumer.close()
