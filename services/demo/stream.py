"""What the demo sends: Elec2 row by row, labels that come late, some wrong at first, twice, or never.

Elec2 (Harries 1999; New South Wales, 1996–1998) has a row per half hour: did the price go up against the last day's
average? Here a row takes one second of virtual time and a subject is the row's day of 48 rows. The first `TRAINED` rows
train version 1 and are left out of every figure.

A drift of size s is planted by mirroring the price columns from one row on, as a feature pipeline does that confuses a
sign: x becomes (1 - s)·x + s·(1 - x). The labels stay true. Elec2 drifts by itself too; those alarms are real.

Everything is a function of the seed, so that five seeds are five different histories of one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = ("period", "nsw_price", "nsw_demand", "vic_price", "vic_demand", "transfer")
MIRRORED = ("nsw_price", "vic_price")
TRAINED = 6_000
DRIFT_AT = 10_000
DRIFT_SIZE = 1.0
DAY_ROWS = 48
ROW_MS = 1_000
ORIGIN_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z, a whole number of days of 48 rows since the epoch: panes and subjects have common borders."""

LATE_ROWS = 48
TAIL_SHARE, TAIL_MEDIAN_ROWS, TAIL_SIGMA = 0.25, 15.0, 1.2
WRONG_SHARE, TWICE_SHARE, NEVER_SHARE = 0.02, 0.02, 0.02

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sending:
    """One label event: which row it is about, what it says, when it became true and when it reaches Kafka."""

    row: int
    label: int
    at_ms: int
    sent_ms: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Stream:
    """The rows in the order of the replay. `features` is what the app sends (drift included), `labels` the truth.

    Row i has `at_ms` `at(i)`; `sendings` are sorted by `sent_ms`.
    """

    features: Floats
    labels: Ints
    sendings: list[Sending]
    drift_at: int | None

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def at(row: int) -> int:
        """Give the virtual time of a row."""
        return ORIGIN_MS + row * ROW_MS

    @staticmethod
    def subject(row: int) -> str:
        """Give the day that a row belongs to."""
        return f"day-{row // DAY_ROWS}"

    @staticmethod
    def request_id(row: int) -> str:
        """Give the request id of a row."""
        return f"elec-{row}"

    def row_features(self, row: int) -> dict[str, float]:
        """Give the features of one row by name."""
        return dict(zip(FEATURES, self.features[row].tolist(), strict=True))


def read_elec2(path: Path) -> tuple[Floats, Ints]:
    """Read elec.csv: six features in [0, 1] and the label. Raises `ValueError` when it is not that file."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    if table.ndim != 2 or table.shape[1] != len(FEATURES) + 1:
        raise ValueError(f"{path}: expected {len(FEATURES) + 1} columns, found {table.shape}")
    return table[:, :-1], table[:, -1].astype(np.int64)


def make_stream(
    features: Floats,
    labels: Ints,
    *,
    seed: int,
    drift_at: int = DRIFT_AT,
    drift_size: float = DRIFT_SIZE,
    shuffle: bool = False,
    rows: int | None = None,
) -> Stream:
    """Lay out a replay. `shuffle` permutes all rows first (no drift is left, none is planted); `rows` shortens it."""
    random = np.random.default_rng(seed)
    if shuffle:
        order = random.permutation(len(labels))
        features, labels = features[order], labels[order]
    count = len(labels) if rows is None else min(len(labels), rows)
    features, labels = features[:count].copy(), labels[:count].copy()
    planted = None if shuffle or drift_size == 0 or drift_at >= count else drift_at
    if planted is not None:
        columns = [FEATURES.index(name) for name in MIRRORED]
        part = features[planted:, columns]
        features[planted:, columns] = (1 - drift_size) * part + drift_size * (1 - part)
    return Stream(features, labels, plan_labels(labels, TRAINED, random), planted)


def plan_labels(labels: Ints, start: int, random: np.random.Generator) -> list[Sending]:
    """Plan every label event of rows `start` and later, sorted by when it reaches Kafka.

    A label becomes true 48 rows after its prediction and is sent then; a quarter of them are slower by a log-normal
    number of rows. Of 100 labels 2 are never sent, 2 are wrong at first and corrected later, 2 are sent twice.
    """
    count = len(labels) - start
    tails = np.where(
        random.random(count) < TAIL_SHARE, random.lognormal(np.log(TAIL_MEDIAN_ROWS), TAIL_SIGMA, count), 0.0
    )
    fates, extras = random.random(count), random.integers(5, 120, count)
    never, wrong, twice = np.cumsum([NEVER_SHARE, WRONG_SHARE, TWICE_SHARE])
    sendings: list[Sending] = []
    for index in range(count):
        row = start + index
        if fates[index] < never:
            continue
        true_ms = Stream.at(row + LATE_ROWS)
        sent_ms = true_ms + int(tails[index] * ROW_MS)
        later_ms = sent_ms + int(extras[index]) * ROW_MS
        label = int(labels[row])
        if fates[index] < wrong:
            sendings.append(Sending(row, 1 - label, true_ms, sent_ms, f"l-{row}-0"))
            sendings.append(Sending(row, label, true_ms + 1, later_ms, f"l-{row}-1"))
        elif fates[index] < twice:
            sendings += [Sending(row, label, true_ms, ms, f"l-{row}-0") for ms in (sent_ms, later_ms)]
        else:
            sendings.append(Sending(row, label, true_ms, sent_ms, f"l-{row}-0"))
    return sorted(sendings, key=lambda sending: (sending.sent_ms, sending.row))


def no_change_lagged(stream: Stream, start: int = TRAINED) -> Ints:
    """Predict for each row from `start` on the label that had reached us last by then: no-change at the true lag.

    Rows before the first label is there get 0.
    """
    guesses = np.zeros(len(stream) - start, dtype=np.int64)
    known, upcoming = 0, 0
    newest_row = -1
    for row in range(start, len(stream)):
        while upcoming < len(stream.sendings) and stream.sendings[upcoming].sent_ms <= Stream.at(row):
            sending = stream.sendings[upcoming]
            if sending.row >= newest_row:
                newest_row, known = sending.row, sending.label
            upcoming += 1
        guesses[row - start] = known
    return guesses


def no_change_yesterday(stream: Stream, start: int = TRAINED) -> Ints:
    """Predict for each row from `start` on the true label of the same half hour a day (48 rows) before."""
    return stream.labels[start - DAY_ROWS : len(stream) - DAY_ROWS]
