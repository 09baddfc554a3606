"""Which rows come out of a real ClickHouse, and that they come out again."""

import math

import numpy as np
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from schemas.control import Frozen, PolicySet, Thawed
from schemas.policy import JoinPolicy, LabelRule
from schemas.records import Step
from schemas.settings import ClickHouse, Settings
from services.clickhouse import Unreachable
from services.local.clickhouse import LocalClickHouse
from services.record.tables import migrate
from services.train.dataset import Pins, read
from services.train.rows import DatasetRefused
from tests.services.train.events import feedback, land, outcomes, predictions, retrain
from tests.services.train.rowing import rows

pytestmark = pytest.mark.clickhouse

ALL: Pins = {f"{topic}/{partition}": 1 << 40 for topic in ("predictions", "feedback") for partition in (0, 1)}


@pytest.fixture
def settings(clickhouse: LocalClickHouse, database: str) -> Settings:
    password = SecretStr(clickhouse.password)
    at = ClickHouse(
        host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=password, database=database
    )
    made = Settings(namespace="a", clickhouse=at)
    migrate(made)
    return made


def test_all_rows_come_back_in_order_and_as_they_were(settings: Settings) -> None:
    given = rows(300, missing=0.1)
    asked, said = predictions(given), outcomes(given)
    land(settings, "predictions", asked[::2][::-1])
    land(settings, "predictions", asked[1::2], partition=1)
    land(settings, "feedback", said)
    found = read(settings, retrain(given), ALL)
    assert found.rows.request_ids == given.request_ids
    np.testing.assert_array_equal(found.rows.x, given.x)
    np.testing.assert_array_equal(found.rows.y, given.y)
    np.testing.assert_array_equal(found.rows.labelled_at_ms, given.labelled_at_ms)
    assert found.rows.names == given.names
    assert found.rows.subjects == given.subjects
    assert set(found.rows.versions) == {"1"}
    assert (found.predictions, found.label) == (300, "label")
    assert read(settings, retrain(given), ALL).rows.digest() == found.rows.digest()


def test_only_the_last_final_word_on_a_standing_primary_prediction_teaches(settings: Settings) -> None:
    given = rows(20)
    asked = predictions(given)
    asked[1] = replace(asked[1], role="shadow")
    asked[2] = replace(asked[2], model="other")
    twin = replace(asked[3], at_ms=asked[3].at_ms + 1, event_id="z", features={"a": 99.0})  # the least at_ms stands
    elsewhere = replace(asked[4], deployment="green", features={"a": 88.0})  # of two deployments one row
    asked[5] = replace(asked[5], features={"a": True, "b": None, "c": "text"})
    said = [feedback(p, int(y)) for p, y in zip(asked, given.y.tolist(), strict=True)]
    flipped = 1 - int(given.y[6])
    said += [
        feedback(elsewhere, 1),
        feedback(asked[6], flipped, revision=2, weight=0.25),
        feedback(asked[7], None, revision=2, status="void"),
        feedback(asked[8], None, revision=2, label_kind=None),
        feedback(asked[10], 1, item="sofa"),
    ]
    said[9] = feedback(asked[9], 0, status="provisional", p_fake_negative=0.5)
    said[10] = feedback(asked[10], 1, weight=0.0)
    said[11] = feedback(asked[11], "1")
    said[12] = feedback(asked[12], "perhaps")
    said[13] = replace(said[13], predicted_at_ms=said[13].predicted_at_ms + 1)  # of a prediction that did not land
    del said[14]
    land(settings, "predictions", [twin, *asked, elsewhere])
    land(settings, "feedback", said[::-1])
    found = read(settings, retrain(given), ALL)
    kept = [i for i in range(20) if i not in (1, 2, 7, 8, 9, 10, 12, 13, 14)]
    assert found.rows.request_ids == [given.request_ids[i] for i in kept]
    at = {request_id: i for i, request_id in enumerate(found.rows.request_ids)}
    assert found.rows.y[at[given.request_ids[6]]] == flipped
    assert found.rows.weight[at[given.request_ids[6]]] == 0.25
    assert found.rows.features(at[given.request_ids[3]])["a"] == given.features(3)["a"]
    assert found.rows.features(at[given.request_ids[4]])["a"] == given.features(4)["a"]
    assert found.rows.features(at[given.request_ids[5]]) == {"a": 1.0}
    assert found.rows.y[at[given.request_ids[11]]] == 1
    assert found.predictions == 18


def test_the_policys_label_name_is_learnt_whatever_else_is_said(settings: Settings) -> None:
    given = rows(20)
    asked = predictions(given)
    others = [feedback(p, 1 - int(y), name="zeal") for p, y in zip(asked, given.y.tolist(), strict=True)]
    land(settings, "predictions", asked)
    land(settings, "feedback", [*outcomes(given), *others])
    land(settings, "control", [PolicySet(policy=JoinPolicy(model="m", labels=[LabelRule(name="zeal")]))])
    found = read(settings, retrain(given), ALL)
    assert found.label == "label"
    np.testing.assert_array_equal(found.rows.y, given.y)


def test_a_sample_of_silence_weighs_as_much_as_all_of_it(settings: Settings) -> None:
    given = rows(20)
    asked = predictions(given)
    said = [
        feedback(p, int(y), log_odds_correction=math.log(0.25), label_kind="explicit" if y else "timeout")
        for p, y in zip(asked, given.y.tolist(), strict=True)
    ]
    land(settings, "predictions", asked)
    land(settings, "feedback", said)
    found = read(settings, retrain(given), ALL).rows
    np.testing.assert_allclose(found.weight, np.where(given.y == 1, 1.0, 4.0))


def step(number: int, clock_ms: int, control: int = 0) -> Step:
    return Step(
        stage="join",
        partition=0,
        number=number,
        offsets={"control": control},
        clock_ms=clock_ms,
        processor="p",
        outputs=0,
        digest="",
    )


def test_what_the_timers_have_passed_is_settled(settings: Settings) -> None:
    given = rows(20)
    asked = predictions(given)
    policy = JoinPolicy(model="m", name="p", horizon_ms=50_000, lateness_ms=10_000, on_timeout="negative")
    kinds = ["timeout", "implicit", "explicit"]
    said = [
        feedback(p, int(y), status="provisional", label_kind=kinds[min(i, 2)] if i < 3 else "timeout")
        for i, (p, y) in enumerate(zip(asked, given.y.tolist(), strict=True))
    ]
    said[3] = replace(said[3], policy="other@1")  # nobody knows how long that one waits
    land(settings, "predictions", asked)
    land(settings, "feedback", said)
    land(settings, "control", [PolicySet(policy=policy)])
    passed_ms = int(given.at_ms[9]) + 60_000
    land(settings, "steps", [step(0, passed_ms - 1), step(1, passed_ms), step(2, passed_ms + 1_000_000)])
    settled = [given.request_ids[i] for i in range(10) if i not in (2, 3)]
    for below, expected in ((1, settled[:-1]), (2, settled)):
        found = read(settings, retrain(given), {**ALL, "steps/0": below}).rows
        assert found.request_ids == expected
    with pytest.raises(DatasetRefused, match="not one has a final label"):
        read(settings, retrain(given), ALL)  # as a plan of a time when steps were not pinned


def test_a_freeze_holds_what_is_not_settled(settings: Settings) -> None:
    given = rows(20)
    asked = predictions(given)
    policy = JoinPolicy(model="m", name="p", horizon_ms=50_000, lateness_ms=10_000, on_timeout="negative")
    early = [
        feedback(p, int(y), status="provisional", label_kind="timeout") for p, y in zip(asked, given.y, strict=True)
    ]
    passed_ms = int(given.at_ms[9]) + 60_000
    land(settings, "predictions", asked)
    land(settings, "feedback", early)
    land(settings, "control", [PolicySet(policy=policy), Frozen(source="desk"), Thawed(source="desk")])
    steps = [step(0, passed_ms, 1), step(1, passed_ms + 1_000_000, 2), step(2, passed_ms + 1_000_001, 3)]
    land(settings, "steps", steps)
    for below, count in ((1, 10), (2, 10), (3, 20)):
        assert len(read(settings, retrain(given), {**ALL, "steps/0": below}).rows) == count


def test_the_window_is_half_open(settings: Settings) -> None:
    given = rows(20)
    land(settings, "predictions", predictions(given))
    land(settings, "feedback", outcomes(given))
    asked = retrain(given, from_ms=int(given.at_ms[5]), to_ms=int(given.at_ms[9]))
    assert read(settings, asked, ALL).rows.request_ids == given.request_ids[5:9]


def test_what_lies_beyond_the_pins_is_not_there(settings: Settings) -> None:
    given = rows(40)
    asked, said = predictions(given), outcomes(given)
    land(settings, "predictions", asked[:20])
    land(settings, "predictions", asked[20:], partition=1)
    land(settings, "feedback", said[:30])
    pins = {"predictions/0": 20, "predictions/1": 15, "feedback/0": 30}
    before = read(settings, retrain(given), pins).rows
    later = [feedback(p, 1 - int(y), revision=2) for p, y in zip(asked, given.y.tolist(), strict=True)]
    land(settings, "feedback", [*said[30:], *later], start=30)
    again = read(settings, retrain(given), pins).rows
    assert again.request_ids == given.request_ids[:30]
    assert again.digest() == before.digest()
    assert read(settings, retrain(given), {**pins, "predictions/1": 5}).rows.request_ids == given.request_ids[:25]
    assert read(settings, retrain(given), ALL).rows.digest() != before.digest()


def test_what_cannot_teach_says_why(settings: Settings) -> None:
    given = rows(10)
    asked = predictions(given)
    land(settings, "predictions", asked)
    with pytest.raises(DatasetRefused, match=r"10 primary predictions of 'm' in .* not one has a final label"):
        read(settings, retrain(given), ALL)
    land(settings, "feedback", [feedback(p, "cat") for p in asked])
    with pytest.raises(DatasetRefused, match=r'the 10 final labels .* are not binary .the first is "cat"'):
        read(settings, retrain(given), ALL)
    land(settings, "feedback", [feedback(p, 1, revision=2) for p in asked], start=10)
    land(settings, "predictions", [replace(p, features={"a": "x"}, at_ms=p.at_ms - 1) for p in asked], start=10)
    land(
        settings,
        "feedback",
        [replace(feedback(p, 1, revision=3), predicted_at_ms=p.at_ms - 1) for p in asked],
        start=20,
    )
    with pytest.raises(DatasetRefused, match="carry no numeric features"):
        read(settings, retrain(given, from_ms=int(given.at_ms[0]) - 1), ALL)


def test_sparse_features_are_left_out_and_names_are_quoted(settings: Settings) -> None:
    given = rows(100)
    asked = predictions(given)
    odd = "it's {a} `b` \\ 🦭"
    asked = [replace(p, features={**p.features, odd: float(i)}) for i, p in enumerate(asked)]
    asked[0] = replace(asked[0], features={**asked[0].features, "rare": 1.0})
    land(settings, "predictions", asked)
    land(settings, "feedback", outcomes(given))
    found = read(settings, retrain(given), ALL).rows
    assert found.names == sorted(["a", "b", "c", odd])
    assert found.x[:, found.names.index(odd)].tolist() == [float(i) for i in range(100)]
    assert not math.isnan(found.x.sum())


def test_a_clickhouse_that_is_away_is_waited_for_not_blamed() -> None:
    away = Settings(clickhouse=ClickHouse(port=9))
    with pytest.raises(Unreachable, match="cannot be used"):
        read(away, retrain(rows(10)), ALL)
