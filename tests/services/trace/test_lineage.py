"""Whether a request is in a data set: exact below the pins, a guess without them."""

from schemas.event import encode
from schemas.feedback import Feedback
from schemas.inputs import Prediction
from schemas.lifecycle import Retrain
from schemas.policy import JoinPolicy
from services.trace.landed import Landed
from services.trace.lineage import is_taught
from streams.join.naive import Record

RETRAIN = Retrain(retrain_id="run", model="m", base_version="1", reason="a test", from_ms=0, to_ms=100, at_ms=100)
ASKED = Prediction(request_id="r", at_ms=50, model="m", version="1", score=0.5)
SAID = Feedback(
    request_id="r",
    model="m",
    revision=1,
    status="final",
    label=1,
    label_kind="explicit",
    policy="p@1",
    predicted_at_ms=50,
    joined_at_ms=60,
)


def landed(*said: Feedback) -> Landed:
    feedback = [Record(0, offset, 60, b"r", encode(one)) for offset, one in enumerate(said)]
    return Landed("r", 0, records=[("predictions", Record(0, 7, 50, b"r", encode(ASKED)))], feedback=feedback)


def test_pins_decide() -> None:
    whole = {"predictions/0": 8, "feedback/0": 1}
    assert is_taught(RETRAIN, whole, "", landed(SAID), [], 0)[0] is True
    assert is_taught(RETRAIN, None, "", landed(SAID), [], 0)[0] is None
    assert is_taught(RETRAIN, {**whole, "predictions/0": 7}, "", landed(SAID), [], 0)[0] is False
    included, why = is_taught(RETRAIN, {**whole, "feedback/0": 0}, "", landed(SAID), [], 0)
    assert (included, why) == (False, "nothing had been said of it when the run began")


def test_only_a_final_binary_word_teaches() -> None:
    from msgspec.structs import replace

    pins = {"predictions/0": 8, "feedback/0": 9}
    early = replace(SAID, status="provisional", label=0, label_kind="timeout")
    void = replace(SAID, revision=2, status="void", label=None, label_kind=None)
    for said, told in (((early,), "was provisional"), ((SAID, void), "taken its label back")):
        included, why = is_taught(RETRAIN, pins, "", landed(*said), [], 0)
        assert included is False
        assert told in why


def test_an_early_negative_teaches_once_the_timers_have_passed_its_deadline() -> None:
    from msgspec.structs import replace

    pins = {"predictions/0": 8, "feedback/0": 9}
    early = replace(SAID, status="provisional", label=0, label_kind="timeout")
    policy = JoinPolicy(model="m", name="p", horizon_ms=30, lateness_ms=10, on_timeout="negative")
    for clock_ms, policies, expected in ((89, [policy], False), (90, [policy], True), (90, [], False)):
        assert is_taught(RETRAIN, pins, "", landed(early), policies, clock_ms)[0] is expected
