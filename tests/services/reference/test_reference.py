"""References by hand, against a real engine and a real broker."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs

from schemas.control import ParityRow, ParitySet, Reference, ReferenceSet
from schemas.errors import WeirError
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.inputs import Prediction
from schemas.settings import ClickHouse, Kafka, Settings
from services.kafka import read_to_end
from services.local.kafka import LocalKafka
from services.record.land import Span, Store
from services.reference.rows import Rows, filed
from services.reference.run import File, reference_learn, reference_ls
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.watch import Watch
from streams.measure.reference import learn
from streams.runtime.records import Records
from streams.runtime.topics import ensure_topics

pytestmark = pytest.mark.kafka

ROWS = 1_200
NOW_MS = 1_790_000_000_000


def predictions(days: float) -> list[Prediction]:
    rng = np.random.default_rng(3)
    return [
        Prediction(
            request_id=f"r{number}",
            at_ms=NOW_MS + int(number * days * DAY_MS / ROWS),
            model="fraud",
            version="7",
            score=float(rng.random()),
            threshold=0.3,
            features={"amount": float(rng.lognormal()), "country": ["fr", "de", None][number % 3]},
            embedding=None if number % 50 == 0 else rng.normal(size=4).tolist(),
        )
        for number in range(ROWS)
    ]


def said(of: Prediction, number: int) -> Feedback:
    """Give the last word on a prediction: wrong for every tenth, still open for every seventh."""
    score = of.score
    assert isinstance(score, float)
    right = int(score >= 0.3)
    return Feedback(
        request_id=of.request_id, model=of.model, deployment=of.deployment, name="label",
        revision=1, status="provisional" if number % 7 == 0 else "final",
        label=1 - right if number % 10 == 0 else right,
        label_kind="explicit", policy="default@1", predicted_at_ms=of.at_ms, joined_at_ms=of.at_ms,
    )  # fmt: skip


def land(settings: Settings, topic: str, bodies: list[bytes]) -> None:
    store = Store(settings)
    store.prepare()
    count = len(bodies)
    records = Records(list(range(count)), [NOW_MS] * count, [b"k"] * count, list(bodies))
    store.land(topic, [Span(0, 0, count, records)])
    store.close()


@pytest.fixture
def settings(at: ClickHouse, kafka: LocalKafka, tmp_path: Path) -> Settings:
    settings = Settings(
        namespace=f"test-{uuid.uuid4().hex[:12]}",
        data_dir=tmp_path,
        partitions=2,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        clickhouse=at,
    )
    ensure_topics(settings)
    return settings


def tell(settings: Settings, days: float) -> list[Prediction]:
    told = predictions(days)
    land(settings, "predictions", [encode(one) for one in told] + [encode(told[0])])
    land(settings, "feedback", [encode(said(one, number)) for number, one in enumerate(told)])
    return told


def sent(settings: Settings) -> list[ReferenceSet]:
    return [decode(message.value() or b"", ReferenceSet) for message in read_to_end(settings, "control")]


def asked(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_a_week_of_traffic_becomes_the_reference_that_its_rows_give(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tell(settings, 8)
    reference_learn(settings, "fraud", as_json=True)
    found = asked(capsys)
    events = sent(settings)
    assert len(events) == settings.partitions
    (reference,) = {encode(one.reference) for one in events}
    assert events[0].at_ms == found["from_ms"]
    final = [number % 7 != 0 for number in range(ROWS)]
    twin = learn(
        "fraud",
        "7",
        {name: [one.features.get(name) for one in told] for name in ("amount", "country")},
        [one.score for one in told],  # type: ignore[misc]
        [said(one, number).label if final[number] else None for number, one in enumerate(told)],
        at_ms=0,
        learnt_from="traffic",
        threshold=0.3,
        embeddings=[one.embedding for one in told],
    )
    assert decode(reference, Reference) == twin
    assert found["error_rows"] == sum(final)
    assert found["watched"] == ["quality:error", "score", "feature:amount", "feature:country", "embedding"]
    assert found["embedding"]["dimension"] == 4
    assert (found["embedding"]["vectors"], found["embedding"]["missing"]) == (ROWS - ROWS // 50, ROWS // 50)
    assert [one.name for one in Watch(twin, JudgeBounds()).streams] == found["watched"]
    with pytest.raises(WeirError, match="has a reference already"):
        reference_learn(settings, "fraud")


def test_what_spans_no_week_is_still_learning_until_a_person_confirms(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(settings, 2)
    with pytest.raises(WeirError, match=r"learning, 2.0 of 7 days"):
        reference_learn(settings, "fraud")
    reference_ls(settings)
    assert "fraud 7: no reference; learning, 2.0 of 7 days, 1,201 predictions" in capsys.readouterr().out
    reference_learn(settings, "fraud", confirm=True, dry_run=True)
    assert "not sent (--dry-run)" in capsys.readouterr().out
    assert not sent(settings)
    reference_learn(settings, "fraud", confirm=True)
    said = capsys.readouterr().out
    assert "in force from" in said
    assert "embedding: 1,176 vectors of 4 numbers, 24 missing" in said
    assert len(sent(settings)) == settings.partitions


def test_references_are_listed_with_their_embeddings_and_frozen_rows(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = [[float(i % 7), float(i % 5)] for i in range(50)]
    one = learn("fraud", "7", {}, [0.5] * 50, [None] * 50, at_ms=0, embeddings=vectors)
    first = ParitySet(id="par-1", model="fraud", version="7", key=["user"], rows=[ParityRow(key=["u"], score=0.5)])
    control = [ReferenceSet(reference=one), structs.replace(first, id="par-0", key=[]), first]
    land(settings, "control", [encode(event) for event in [*control, structs.replace(first, id="par-2")]])
    land(settings, "predictions", [])
    reference_ls(settings)
    said = capsys.readouterr().out
    assert (
        "watched: score, embedding\nembedding: 50 vectors of 2 numbers, 0 missing\nparity: par-1, 1 rows by user"
        in said
    )
    reference_ls(settings, as_json=True)
    (told,) = asked(capsys)["references"]
    assert told["parity"] == {"id": "par-1", "rows": 1, "key": ["user"]}


def test_names_that_nobody_knows_are_told_with_those_that_are_known(settings: Settings) -> None:
    tell(settings, 8)
    with pytest.raises(WeirError, match="no prediction of model 'other' has landed"):
        reference_learn(settings, "other")
    with pytest.raises(WeirError, match="versions that have: 7"):
        reference_learn(settings, "fraud", version="8")
    with pytest.raises(WeirError, match="--days"):
        reference_learn(settings, "fraud", days=0)


def test_a_file_needs_no_traffic(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "train.csv"
    rows = [f"{i % 50},{'ab'[i % 2]},{(i % 10) / 10},{int(i % 10 >= 4)}" for i in range(2_000)]
    table.write_text("amount,kind,p,y\n" + "\n".join(rows), encoding="utf-8")
    file = File(table, score="p", label="y", without=("kind",), threshold=0.5)
    with pytest.raises(WeirError, match="does not say its version"):
        reference_learn(settings, "fraud", file=file)
    reference_learn(settings, "fraud", version="1", file=file, as_json=True)
    found = asked(capsys)
    assert (found["rows"], found["error_rate"], found["learnt_from"]) == (2_000, 0.1, "training")
    assert found["watched"] == ["quality:error", "score", "feature:amount"]


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text("a,b\n", encoding="utf-8")
    none: dict[str, Any] = {"score": None, "label": None, "prediction": None, "without": ()}
    with pytest.raises(WeirError, match="has no rows"):
        filed(table, **none)
    with pytest.raises(WeirError, match="no column 'p'; it has a, b"):
        filed(table, **{**none, "score": "p"})
    with pytest.raises(WeirError, match="cannot be read"):
        filed(tmp_path / "absent.parquet", **none)
    with pytest.raises(WeirError, match="cannot be read"):
        filed(tmp_path / "absent.csv", **none)


def test_a_files_embeddings_are_a_column_of_lists(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "train.parquet"
    vectors = [[float(i % 7), i % 5, 1.0] if i % 100 else ([None, 1.0, 2.0] if i % 200 else None) for i in range(1_000)]
    columns = {"p": [0.5] * 1_000, "v": pa.array(vectors, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), table)
    file = File(table, score="p")
    with pytest.raises(WeirError, match=r"holds neither numbers, texts nor booleans\n.*--embedding v"):
        reference_learn(settings, "fraud", version="1", file=file, dry_run=True)
    with pytest.raises(WeirError, match="embeddings are lists of numbers"):
        reference_learn(settings, "fraud", version="1", file=replace(file, embedding="p"), dry_run=True)
    with pytest.raises(WeirError, match="no column 'w'"):
        reference_learn(settings, "fraud", version="1", file=replace(file, embedding="w"), dry_run=True)
    reference_learn(settings, "fraud", version="1", file=replace(file, embedding="v"), dry_run=True, as_json=True)
    found = asked(capsys)
    assert found["watched"] == ["score", "embedding"]
    assert found["embedding"] | {"bandwidth": 0} == {
        "dimension": 3, "bandwidth": 0, "vectors": 990, "missing": 10, "other_length": 0, "too_far": 0,
    }  # fmt: skip
    pq.write_table(pa.table(columns).rename_columns(["p", "embedding"]), table)
    reference_learn(settings, "fraud", version="1", file=file, dry_run=True, as_json=True)
    assert asked(capsys)["id"] == found["id"]
    long = pa.array([[0.0] * 4_097] * 1_000, pa.list_(pa.float32()))
    pq.write_table(pa.table({**columns, "v": long}), table)
    reference_learn(settings, "fraud", version="1", file=replace(file, embedding="v"), dry_run=True)
    assert "embedding left out: its vectors hold more than 4,096 numbers" in capsys.readouterr().out


def test_a_feature_that_comes_later_was_missing_before() -> None:
    rows = Rows()
    rows.add(Prediction(request_id="a", at_ms=0, model="m", score=0.9), 1)
    rows.add(Prediction(request_id="b", at_ms=0, model="m", features={"x": 1.0}), None)
    assert (rows.features, rows.predictions, rows.scores) == ({"x": [None, 1.0]}, [1, None], [0.9, None])
