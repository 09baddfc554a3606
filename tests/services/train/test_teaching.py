"""What a whole history teaches: data set, trace and naive twin agree, in the middle of it and at its end."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.lifecycle import Retrain
from schemas.policy import JoinPolicy
from schemas.records import Step
from services.clickhouse import connect
from services.local.clickhouse import LocalClickHouse
from services.trace.landed import Reader
from services.trace.lineage import clock_ms, is_taught, policies_of
from services.train.dataset import Pins, read
from streams.join import naive
from streams.join.naive import expect, timers_clock
from streams.measure.reading import binary
from tests.services.trace.landing import BOUNDS, HOUR, T0_MS, land, played, settings_of, shop, steps_of

pytestmark = pytest.mark.clickhouse

REQUESTS = 120
RETRAIN = Retrain(
    retrain_id="r", model="shop", base_version="1", reason="a test", from_ms=T0_MS, to_ms=T0_MS + 9 * HOUR, at_ms=T0_MS
)


def pins_of(driver: Any) -> Pins:
    """Pin all that was read and said."""
    said = {
        "predictions": driver.logs["predictions"],
        "feedback": driver.outputs["feedback"],
        "steps": steps_of(driver),
    }
    pins: Pins = {}
    for topic, records in said.items():
        for one in records:
            place = f"{topic}/{one.partition}"
            pins[place] = max(pins.get(place, 0), one.offset + 1)
    return pins


def by_the_twin(driver: Any) -> dict[str, int]:
    """Give request → label of every final outcome by `label_name` at the timers' clock, counted once a request."""
    steps: dict[int, list[tuple[int, int]]] = {}
    for record in steps_of(driver):
        step = decode(record.value or b"", Step)
        steps.setdefault(record.partition, []).append((step.offsets["control"], step.clock_ms))
    control = driver.logs["control"]
    clocks = {
        number: timers_clock([one for one in control if one.partition == number], taken, BOUNDS)
        for number, taken in steps.items()
    }
    found: dict[str, int] = {}
    for identity, one in expect(driver.logs, BOUNDS, clocks).outcomes.items():
        label = binary(one.outcome.label)
        mine = one.first and one.standing.body.model == "shop" and one.outcome.weight > 0
        if mine and one.outcome.status == "final" and label is not None:
            found[identity[0]] = label
    return found


@pytest.mark.parametrize("until_ms", [T0_MS + HOUR, T0_MS + 3 * HOUR])
def test_data_set_trace_and_twin_agree(clickhouse: LocalClickHouse, database: str, until_ms: int) -> None:
    settings = settings_of(clickhouse, database)
    driver = played(shop(requests=REQUESTS), until_ms=until_ms)
    land(settings, driver)
    pins = pins_of(driver)
    found = read(settings, RETRAIN, pins).rows
    taught = dict(zip(found.request_ids, found.y.tolist(), strict=True))
    assert taught == by_the_twin(driver)
    last = {
        r.key: decode(r.value or b"", Feedback) for r in driver.outputs["feedback"] if b'"shop"' in (r.value or b"")
    }
    early = [key for key, said in last.items() if said.status == "provisional" and (key or b"").decode() in taught]
    assert early, "some were never said to be final, and teach"
    client = connect(settings)
    try:
        reader = Reader(settings, client)
        for number in range(0, REQUESTS, 5):
            landed = reader.landed(f"r{number:04d}")
            policies: list[JoinPolicy] = policies_of(landed, naive.Bounds.of(settings))
            included, why = is_taught(RETRAIN, pins, "", landed, policies, clock_ms(reader, pins, landed))
            assert included is (landed.request_id in taught), f"{landed.request_id}: {why}"
    finally:
        client.close()
