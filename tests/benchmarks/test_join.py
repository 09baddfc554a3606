"""The benchmark's own arithmetic: the log says what it promises, and the judge sees every kind of mistake."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.join import peers
from benchmarks.join.history import History, ticks
from benchmarks.join.race import Sample, figures
from benchmarks.join.truth import Books
from streams.join.partition import partition_of

T = 1_700_000_000_000
HISTORY = History(3_000, T, 1_200_000, 120_000, tail_ms=20_000, seed=3)


def rows(history: History) -> list[dict[str, Any]]:
    """What a peer without fault writes."""
    given = []
    for index, body in enumerate(history.predictions(0, history.n)):
        prediction = json.loads(body)
        label = int(history.label[index])
        given.append(
            {
                **prediction,
                "predicted_at_ms": prediction["at_ms"],
                "label": max(label, 0),
                "label_kind": "explicit" if label >= 0 else "timeout",
                "labelled_at_ms": int(history.labelled_at_ms[index]) if label >= 0 else None,
            }
        )
    return given


def judged(given: list[Mapping[str, Any]]) -> tuple[int, int, int, int]:
    books = Books(HISTORY)
    bodies = [json.dumps(row).encode() for row in given]
    for first in range(0, len(bodies), 700):
        books.enter(bodies[first : first + 700])
    found = books.verdict()
    assert found.correct + found.wrong + found.missing == found.expected == HISTORY.n
    return found.correct, found.wrong, found.missing, found.more


def test_the_log_is_in_order_and_the_same_again() -> None:
    first, again = (
        list(HISTORY.records()),
        list(History(3_000, T, 1_200_000, 120_000, tail_ms=20_000, seed=3).records()),
    )
    assert first == again
    assert len(first) == HISTORY.events
    assert [record.at_ms for record in first] == sorted(record.at_ms for record in first)
    assert {record.key for record in first if not record.is_label} == {
        json.loads(record.value)["request_id"].encode() for record in first if not record.is_label
    }


def test_predictions_have_the_size_that_is_promised_and_labels_their_shares() -> None:
    records = list(HISTORY.records())
    sizes = [len(record.value) for record in records if not record.is_label]
    assert 410 <= sum(sizes) / len(sizes) <= 425
    labels = [record for record in records if record.is_label]
    assert 0.68 <= len({record.key for record in labels}) / HISTORY.n <= 0.73
    assert 0.003 <= 1 - len({record.value for record in labels}) / len(labels) <= 0.02
    labelled = HISTORY.label >= 0
    delay = (HISTORY.labelled_at_ms - HISTORY.at_ms)[labelled]
    assert 0.02 <= float(np.mean(delay < 0)) <= 0.045
    assert int(delay.min()) >= -5_000
    assert int(delay.max()) <= 90_001


def test_ticks_lie_in_their_partitions() -> None:
    for record in ticks(T, 7):
        assert partition_of(record.key, 7) == record.partition


def test_a_faultless_peer_is_right() -> None:
    assert judged([*rows(HISTORY)]) == (HISTORY.n, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("label", 7), ("label_kind", "implicit"), ("score", 0.25), ("features", {}), ("subject", ""), ("slices", {})],
)
def test_a_wrong_field_is_seen(name: str, value: object) -> None:
    given = rows(HISTORY)
    given[11][name] = value
    assert judged([*given]) == (HISTORY.n - 1, 1, 0, 0)


def test_a_missing_row_and_one_too_many_are_seen_and_the_last_row_counts() -> None:
    given = rows(HISTORY)
    early = {**given[5], "label": 9}
    assert judged([early, *given[:20], *given[21:], given[0]]) == (HISTORY.n - 1, 0, 1, 2)


def test_ticks_are_nobody_and_strangers_are_told() -> None:
    books = Books(HISTORY)
    stranger = {**rows(HISTORY)[0], "request_id": str(uuid.UUID(int=0))}
    odd = {**stranger, "request_id": "0" * 36}
    books.enter([b'{"request_id":"tick-1-0","label":0}', b"not json", json.dumps(stranger).encode()])
    books.enter([json.dumps(odd).encode()])
    assert books.verdict().strange == 3


def test_start_up_and_the_first_fifth_are_left_out() -> None:
    samples = [Sample(0, 3.0, 0), Sample(1, 4.0, 200), Sample(2, 5.0, 600), Sample(3, 6.0, 1000), Sample(9, 9.0, 1000)]
    found = figures(samples, 1000)
    assert (found.per_cpu_s, found.per_s, found.whole_per_cpu_s) == (400, 400, 1000 / 6)


def test_every_peer_is_found_under_its_own_name() -> None:
    found = peers.find()
    assert {"weir_json", "bare", "quix", "bytewax", "faust"} <= set(found)
    assert all(peer.name == name for name, peer in found.items())
