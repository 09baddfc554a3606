"""What a join policy may say of several label names, and what each of them is then resolved by."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.policy import JoinPolicy


def policy(**fields: Any) -> JoinPolicy:
    return msgspec.convert({"model": "m", "horizon_ms": 100, "lateness_ms": 10, "retain_ms": 5, **fields}, JoinPolicy)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"labels": [{"name": "label"}]}, "must differ"),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, "must differ"),
        ({"labels": [{"name": "a", "negative_label": 0}]}, "`negative_label` of label `a` needs `on_timeout`"),
        ({"labels": [{"name": "a", "on_timeout": "unlabelled", "negative_sample": 0.5}]}, "`negative_sample`"),
        ({"labels": [{"name": "a", "horizon_ms": 200}], "recall_ms": 200}, "`recall_ms`"),
        ({"labels": [{"name": "a", "horizons_ms": 200}]}, "unknown field `horizons_ms`"),
        (
            {"labels": [{"name": "a", "on_timeout": "negative", "provisional_after_ms": 200}]},
            "`provisional_after_ms` must not be later",
        ),
        ({"negative_sample": 0.5}, "`negative_sample`"),
        ({"on_timeout": "negative", "negative_sample": 0.0}, "negative_sample"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=sentence):
        policy(**fields)


def test_a_rule_without_on_timeout_takes_silence_as_a_whole_from_the_policy() -> None:
    silence = {"on_timeout": "negative", "negative_label": "no", "provisional_after_ms": 50, "exposure": "seen"}
    given = policy(**silence, p_fake_negative=0.5, labels=[{"name": "a"}, {"name": "b", "on_timeout": "negative"}])
    _, a, b = given.outcomes
    assert (a.on_timeout, a.negative_label, a.provisional_after_ms, a.exposure) == ("negative", "no", 50, "seen")
    assert (b.on_timeout, b.negative_label, b.provisional_after_ms, b.exposure) == ("negative", 0, None, None)
    assert (a.p_fake_negative, b.p_fake_negative) == (0.5, 0.0)


def test_attribution_is_not_inherited_and_precedence_is() -> None:
    given = policy(precedence=["desk"], attribution=[{"signal": "click", "label": 1}], labels=[{"name": "a"}])
    first, a = given.outcomes
    assert (len(first.attribution), a.attribution, a.precedence) == (1, [], ["desk"])


def test_all_outcomes_reach_as_far_as_the_one_that_waits_longest() -> None:
    given = policy(labels=[{"name": "a", "horizon_ms": 500}])
    assert {one.reach_ms for one in given.outcomes} == {given.reach_ms} == {515}
    assert [one.wait_ms for one in given.outcomes] == [110, 510]
    assert given.wait_ms == 110
    assert policy().outcomes == (policy(),)
