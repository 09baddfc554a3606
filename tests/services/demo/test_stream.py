"""The replay's plan: shares, order, drift and baselines, on small made data."""

from __future__ import annotations

from collections import Counter

import numpy as np

from services.demo.stream import (
    DAY_ROWS,
    FEATURES,
    MIRRORED,
    ORIGIN_MS,
    ROW_MS,
    TRAINED,
    Stream,
    make_stream,
    no_change_lagged,
    no_change_yesterday,
)


def made(count: int = TRAINED + 6_000, **changes: object) -> Stream:
    random = np.random.default_rng(1)
    features = random.random((count, len(FEATURES)))
    labels = (random.random(count) < 0.4).astype(np.int64)
    return make_stream(features, labels, **{"seed": 0, **changes})  # type: ignore[arg-type]


def test_same_seed_same_stream_and_another_seed_another() -> None:
    assert made().sendings == made().sendings
    assert made().sendings != made(seed=1).sendings


def test_labels_are_late_some_wrong_some_twice_some_never() -> None:
    stream = made()
    assert all(a.sent_ms <= b.sent_ms for a, b in zip(stream.sendings, stream.sendings[1:], strict=False))
    assert min(s.sent_ms - Stream.at(s.row) for s in stream.sendings) == 48 * ROW_MS
    by_row: dict[int, list[int]] = {}
    for sending in stream.sendings:
        by_row.setdefault(sending.row, []).append(sending.label)
    replayed = len(stream) - TRAINED
    shares = Counter(
        "wrong" if len(set(said)) == 2 else "twice" if len(said) == 2 else "once" for said in by_row.values()
    )
    assert abs(replayed - len(by_row) - 0.02 * replayed) < 4 * np.sqrt(0.02 * replayed)
    assert abs(shares["wrong"] - 0.02 * replayed) < 4 * np.sqrt(0.02 * replayed)
    assert abs(shares["twice"] - 0.02 * replayed) < 4 * np.sqrt(0.02 * replayed)
    assert all(said[-1] == stream.labels[row] for row, said in by_row.items())


def test_drift_is_planted_in_the_price_columns_from_one_row_on() -> None:
    still, drifted = made(drift_size=0.0), made(drift_at=9_000, drift_size=0.5)
    assert still.drift_at is None
    assert drifted.drift_at == 9_000
    np.testing.assert_array_equal(still.features[:9_000], drifted.features[:9_000])
    for column, name in enumerate(FEATURES):
        same = np.array_equal(still.features[9_000:, column], drifted.features[9_000:, column])
        assert same == (name not in MIRRORED)
    np.testing.assert_array_equal(still.labels, drifted.labels)


def test_shuffling_plants_nothing_and_keeps_the_rows() -> None:
    plain, shuffled = made(drift_size=0.0), made(shuffle=True)
    assert shuffled.drift_at is None
    assert sorted(plain.labels.tolist()) == sorted(shuffled.labels.tolist())
    assert not np.array_equal(plain.features, shuffled.features)


def test_days_and_panes_share_their_borders() -> None:
    assert ORIGIN_MS % (DAY_ROWS * ROW_MS) == 0
    assert Stream.subject(47) == "day-0"
    assert Stream.subject(48) == "day-1"


def test_baselines_use_only_what_was_known() -> None:
    stream = made()
    lagged, yesterday = no_change_lagged(stream), no_change_yesterday(stream)
    assert len(lagged) == len(yesterday) == len(stream) - TRAINED
    assert set(lagged[:48]) == {0}
    row = TRAINED + 3_000
    known = [s for s in stream.sendings if s.sent_ms <= Stream.at(row)]
    newest = max(s.row for s in known)
    assert lagged[row - TRAINED] == [s for s in known if s.row == newest][-1].label
    assert yesterday[0] == stream.labels[TRAINED - 48]
