"""From a file to an alarm: embeddings and frozen rows, with a real join, measure and judge behind a broker."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.control import ClockAdvanced, ParitySet
from schemas.errors import WeirError
from schemas.event import decode, encode
from schemas.inputs import Prediction
from schemas.measures import Drift
from schemas.settings import Join, Kafka, Runtime, Settings
from schemas.topics import INPUTS
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from services.reference.parity import Frozen, freeze, reference_parity
from services.reference.run import File, reference_learn
from streams.join.partition import partition_of
from streams.measure.parity import MOST_ROWS
from streams.runtime.backlog import Backlog
from streams.runtime.topics import ensure_topics
from tests.processes import process, until

MINUTE = 60_000
D = 8
PANES, ROWS = 32, 80
MOVED, WRONG = 8, 26


def table(path: Path) -> Path:
    draw = np.random.default_rng(4)
    vectors = draw.normal(size=(4_000, D)).astype(np.float32)
    columns = {
        "user": [f"u{i}" for i in range(4_000)],
        "amount": (np.arange(4_000) / 7).tolist(),
        "p": [0.5] * 4_000,
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def settings(kafka: LocalKafka, tmp_path: Path) -> Settings:
    settings = Settings(
        namespace=f"live-{uuid.uuid4().hex[:8]}",
        data_dir=tmp_path / "data",
        partitions=2,
        clock="virtual",
        kafka=Kafka(bootstrap=kafka.bootstrap),
        join=Join(pane_ms=MINUTE),
        judge={"grace_ms": 0, "live_ms": 30_000, "budget": 50.0, "window_panes": 5},
        runtime=Runtime(commit_ms=20, snapshot_s=5.0),
    )
    ensure_topics(settings)
    return settings


def drifts(settings: Settings) -> list[Drift]:
    return [decode(message.value() or b"", Drift) for message in read_to_end(settings, "drift")]


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_moved_embeddings_and_a_feature_reckoned_otherwise_raise_alarms(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path / "train.parquet")
    frozen = Frozen(file, ("user",), score="p", without=("embedding",), rows=100)
    with pytest.raises(WeirError, match=r"has no reference, so nothing would alarm\n.*weir reference learn m"):
        reference_parity(settings, "m", "1", frozen)
    reference_learn(settings, "m", version="1", file=File(file, score="p", without=("user",)))
    reference_parity(settings, "m", "1", frozen)
    said = capsys.readouterr().out
    assert "embedding: 4,000 vectors of 8 numbers" in said
    assert "100 rows by user; 1 feature and the score are compared, at most 0.001 of the rows may differ" in said
    with pytest.raises(WeirError, match="has parity rows already"):
        reference_parity(settings, "m", "1", frozen)
    reference_parity(settings, "m", "2", frozen, dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["compared"] == ["parity:rows", "parity:score", "parity:feature:amount"]

    draw = np.random.default_rng(5)
    began_ms = (int(time.time() * 1000) // MINUTE + 5) * MINUTE
    with process("join", settings) as join, process("judge", settings) as judge, Sender(settings) as sender:

        def advance(now_ms: int) -> None:
            for partition in range(settings.partitions):
                sender.send("control", encode(ClockAdvanced(now_ms=now_ms)), partition=partition, append_ms=now_ms)
            sender.flush()
            with Backlog(settings, "join", ("control", *INPUTS)) as backlog:
                until(lambda: join.alive and backlog.drained(), "join to drain", of=join)

        advance(began_ms)
        for t in range(PANES):
            for i in range(ROWS):
                user, at_ms = int(draw.integers(0, 100)) * 40, began_ms + t * MINUTE + i * 500
                vector = (draw.normal(size=D) + (1.5 if t >= MOVED else 0.0)).tolist()
                one = Prediction(
                    request_id=f"r{t}-{i}", at_ms=at_ms, model="m", version="1", deployment="d", score=0.5,
                    features={"user": f"u{user}", "amount": user / 7 + (1.0 if t >= WRONG and user < 800 else 0.0)},
                    embedding=vector, subject=f"s{i}",
                )  # fmt: skip
                key = one.request_id.encode()
                where = partition_of(key, settings.partitions)
                sender.send("predictions", encode(one), key=key, partition=where, append_ms=at_ms)
            advance(began_ms + (t + 1) * MINUTE)
        advance(began_ms + (PANES + 2) * MINUTE)
        last = began_ms + PANES * MINUTE
        found = until(
            lambda: (
                [one for one in drifts(settings) if one.stream == "embedding" and one.to_ms == last]
                and drifts(settings)
            ),
            "the judge to judge the last pane",
            of=judge,
        )
    first: dict[str, Drift] = {}
    for one in found:
        if one.alarmed and not one.stream.startswith("traffic:"):
            first.setdefault(one.stream, one)
    assert {"embedding", "parity:rows", "parity:feature:amount"} <= set(first)
    assert "parity:score" not in first
    embedding, amount = first["embedding"], first["parity:feature:amount"]
    assert began_ms + MOVED * MINUTE < embedding.to_ms <= last
    assert "the mean of embedding, along the way it moved" in embedding.evidence.sentence
    assert embedding.distances["mmd2"] > embedding.distances["mmd2_q95"]
    assert began_ms + WRONG * MINUTE < amount.to_ms <= last
    assert "whose 'amount' is not as at training is above 0.001" in amount.evidence.sentence
    assert "compared rows of the window differ: user u" in amount.evidence.sentence


def test_keys_that_tell_no_rows_apart_are_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user,day,x\n" + "".join(f"u{i % 5},{i % 3 or ''},{i}\n" for i in range(12)), encoding="utf-8")
    one, left_out = freeze("m", "1", Frozen(path, ("user", "day")), 60_000)
    # (u0, 2) and (u1, 1), say, come once each; a third of the rows has no day.
    assert sorted(row.key for row in one.rows) == [
        ["u0", "1"], ["u0", "2"], ["u1", "1"], ["u1", "2"], ["u2", "1"], ["u2", "2"], ["u3", "2"], ["u4", "1"],
    ]  # fmt: skip
    assert left_out["without_key"] == 4
    again, _ = freeze("m", "1", Frozen(path, ("user", "day"), days=1.0), 90_000)
    assert (again.id, again.until_ms) == (one.id, 90_000 + 86_400_000)
    few, _ = freeze("m", "1", Frozen(path, ("user", "day"), rows=2), 0)
    assert len(few.rows) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": ("user",)}, "no row of .* has a key"),
        ({"key": ("nobody",)}, "no column 'nobody'"),
        ({"rows": MOST_ROWS + 1}, "1 to 1,000 --rows"),
        ({"limit": 2.0}, "--limit from 0 to 1"),
        ({"days": 0.0}, "--days"),
        ({"relative": -1.0}, "tolerances"),
        ({"without": ("x",)}, "neither features nor scores"),
    ],
)
def test_what_cannot_be_frozen_says_why(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user,day,x\na,1,1.5\na,2,\n", encoding="utf-8")
    given: dict[str, Any] = {"path": path, "key": ("user", "day"), **change}
    with pytest.raises(WeirError, match=said):
        freeze("m", "1", Frozen(**given), 0)


def test_what_is_no_number_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {"k": [1.0, 2.0], "x": [float("nan"), float("inf")], "s": [float("nan"), 0.5], "b": [True, None]}
    pq.write_table(pa.table(columns), path)
    one, _ = freeze("m", "1", Frozen(path, ("k",), score="s"), 0)
    assert [row.key for row in one.rows] == [["1"], ["2"]]
    assert [row.features for row in one.rows] == [{"x": None, "b": True}, {"x": None, "b": None}]
    assert [row.score for row in one.rows] == [None, 0.5]
    assert decode(encode(one), ParitySet) == one
