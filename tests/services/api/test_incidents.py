"""Incidents: one a model, nothing lost, the parts in an order that does not depend on how alerts came."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.api.incidents import GROUPS, SEVERITIES, group_of, incidents


def alert(rule: str, model: str = "m", severity: str = "warning", beyond: float = 1.0, **more: Any) -> dict[str, Any]:
    evidence = [{"statistic": beyond * 40.0, "threshold": 40.0}]
    mark = f"{model}|{rule}|{more.get('slice', '')}"
    given_ = {"fingerprint": mark, "rule": rule, "model": model, "severity": severity, "evidence": evidence}
    return {**given_, "summary": f"{rule} moved", "at_ms": 10, **more}


def test_fifty_features_and_a_rise_of_errors_are_one_incident_that_begins_with_the_errors() -> None:
    features = [alert(f"drift:feature:f{n:02}", beyond=1.0 + n, at_ms=5) for n in range(50)]
    errors = alert("drift:quality:error", severity="error", at_ms=20)
    part = alert("drift:traffic:requests", slice="route=/pay")
    (one,) = incidents([*features, part, errors, alert("approval-needed"), alert("outage:desk", model="")])
    assert (one["severity"], one["group"], one["since_ms"]) == ("error", "quality", 5)
    assert one["groups"] == {"quality": 1, "features": 50, "slices": 1}
    assert one["summary"] == "drift:quality:error moved; and 51 more: 50 of features, 1 of slices"
    assert [part["rule"] for part in one["parts"]][:3] == [
        "drift:quality:error", "drift:feature:f49", "drift:feature:f48",
    ]  # fmt: skip
    assert one["parts"][-1]["slice"] == "route=/pay"


def test_one_alert_is_an_incident_of_one_and_none_is_none() -> None:
    assert incidents([]) == []
    (one,) = incidents([alert("quality:auc", evidence=[])])
    assert (one["summary"], one["parts"][0]["beyond"]) == ("quality:auc moved", None)


rules = st.sampled_from(
    ["drift:quality:error", "quality:auc", "drift:score", "drift:feature:a", "drift:feature:b", "drift:traffic:subject"]
)


@given(
    st.lists(
        st.builds(
            alert,
            rules,
            model=st.sampled_from(["m", "n"]),
            severity=st.sampled_from(SEVERITIES),
            beyond=st.floats(0, 9),
            slice=st.sampled_from(["", "c=1", "c=2"]),
            at_ms=st.integers(0, 99),
        ),
        max_size=12,
        unique_by=lambda one: one["fingerprint"],
    ),
    st.randoms(use_true_random=False),
)
def test_nothing_is_lost_and_the_order_of_arrival_does_not_matter(alerts: list[dict[str, Any]], random: Any) -> None:
    found = incidents(alerts)
    shuffled = alerts[:]
    random.shuffle(shuffled)
    assert incidents(shuffled) == found
    parts = [part["fingerprint"] for one in found for part in one["parts"]]
    assert sorted(parts) == sorted(one["fingerprint"] for one in alerts)
    assert len({one["model"] for one in found}) == len(found)
    for one in found:
        assert sum(one["groups"].values()) == len(one["parts"])
        assert one["severity"] == one["parts"][0]["severity"]
        same = [part for part in one["parts"] if part["severity"] == one["severity"]]
        assert [GROUPS.index(part["group"]) for part in same] == sorted(GROUPS.index(part["group"]) for part in same)
        assert all(group_of(part["rule"], part["slice"]) == part["group"] for part in one["parts"])
