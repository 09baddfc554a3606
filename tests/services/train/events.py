"""Events that rows come from, landed directly or sent to Kafka."""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.event import encode
from schemas.feedback import Feedback
from schemas.inputs import Prediction
from schemas.lifecycle import Retrain
from schemas.settings import Settings
from services.record.land import Span, Store
from services.train.rows import Rows
from streams.runtime.records import Records
from tests.services.train.rowing import ORIGIN_MS


def land(
    settings: Settings, topic: str, events: Sequence[msgspec.Struct], *, partition: int = 0, start: int = 0
) -> None:
    """Put events into a topic's table as the recorder would, from offset `start` on."""
    records = Records()
    for offset, event in enumerate(events, start):
        records.append(offset, ORIGIN_MS, b"k", encode(event))
    store = Store(settings)
    try:
        store.prepare()
        store.land(topic, [Span(partition, start, start + len(events), records)])
    finally:
        store.close()


def predictions(rows: Rows, **more: Any) -> list[Prediction]:
    """Give the primary predictions of rows, answered by version 1 with score 0.5."""
    said: dict[str, Any] = {"model": "m", "version": "1", "deployment": "blue", "score": 0.5, "threshold": 0.5, **more}
    return [
        Prediction(
            request_id=rows.request_ids[i],
            at_ms=int(rows.at_ms[i]),
            features=dict(rows.features(i)),
            subject=rows.subjects[i],
            **said,
        )
        for i in range(len(rows))
    ]


def feedback(prediction: Prediction, label: Any, **more: Any) -> Feedback:
    """Give the final word on a prediction."""
    said: dict[str, Any] = {"revision": 1, "status": "final", "label_kind": "explicit", **more}
    return Feedback(
        request_id=prediction.request_id,
        model=prediction.model,
        deployment=prediction.deployment,
        version=prediction.version,
        role=prediction.role,
        policy="p@1",
        predicted_at_ms=prediction.at_ms,
        labelled_at_ms=prediction.at_ms + 5_500,
        joined_at_ms=prediction.at_ms + 6_000,
        label=label,
        **said,
    )


def outcomes(rows: Rows) -> list[Feedback]:
    """Give the final word on every row."""
    return [feedback(p, int(y)) for p, y in zip(predictions(rows), rows.y.tolist(), strict=True)]


def retrain(rows: Rows, retrain_id: str = "retrain-1", **more: Any) -> Retrain:
    """Ask for a model from these rows."""
    until_ms = int(rows.at_ms[-1]) + 1
    said = {"from_ms": int(rows.at_ms[0]), "to_ms": until_ms, "at_ms": until_ms, "base_version": "1", **more}
    return Retrain(retrain_id=retrain_id, model="m", reason="a test", **said)
