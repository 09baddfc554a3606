"""What the API says of a story that really went through Kafka, the recorder and ClickHouse."""

from typing import Any
from urllib.parse import quote

import pytest

from services.alert.plan import Answer, settle
from services.alert.store import NAME, Store
from services.api.history import History
from services.api.pipeline import Pipeline
from services.api.store import Recent
from services.api.store import Store as Rows
from services.clickhouse import connect
from tests.services.api.serving import Asker, at_free_port
from tests.services.api.story import MINUTE_MS, MODEL, PANES, REQUESTS, ROLLOUT, STREAMS, WINDOW

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


def asked(house: Asker, sql: str) -> Any:
    client = connect(house.settings)
    try:
        return client.command(sql)
    finally:
        client.close()


def test_overview_names_what_there_is(house: Asker) -> None:
    overview = house.get("overview")
    (model,) = overview["models"]
    assert model["model"] == MODEL
    assert [one["version"] for one in model["versions"]] == ["v1", "v2"]
    assert model["metrics"] == ["accuracy", "log_loss"]
    assert model["references"][0] == {
        "id": "reference-1", "version": "v1", "n": 20_000, "learnt_from": "training", "features": ["age"],
    }  # fmt: skip
    assert model["decide_policy"]["automation"] == "retrain"
    assert {alert["rule"] for alert in overview["firing"]} == {
        "drift:feature:age", "drift:quality:error", "approval-needed",
    }  # fmt: skip
    assert overview["totals"]["labels.joined"] == asked(house, "SELECT count() FROM labels")


def test_quality_has_closed_windows_and_a_maturing_end(house: Asker, origin_ms: int) -> None:
    answer = house.get(f"models/{MODEL}/quality")
    assert (answer["better"], answer["least"], answer["most"]) == ("higher", 0.0, 1.0)
    own = [point for point in answer["points"] if point["version"] == "v1"]
    closed = [point for point in own if point["closed"]]
    assert len(closed) == PANES - 3
    assert all(point["to_ms"] - point["from_ms"] == WINDOW * MINUTE_MS for point in closed)
    assert [point["to_ms"] for point in closed] == sorted({point["to_ms"] for point in closed})
    last = closed[-1]
    stored = asked(
        house,
        f"SELECT concat(toString(value), ' ', toString(n)) FROM metrics WHERE version = 'v1' AND slice = '' "
        f"AND metric = 'accuracy' AND closed AND to_ms = {last['to_ms']} AND from_ms = {last['from_ms']}",
    )
    assert stored == f"{last['value']} {last['n']}"
    assert last["low"] < last["value"] < last["high"]
    maturing = [point for point in own if not point["closed"]]
    assert [round(point["maturity"], 2) for point in maturing] == [0.8, 0.55, 0.3]
    assert all(point["to_ms"] > last["to_ms"] for point in maturing)

    ahead = [point for point in answer["ahead"] if point["version"] == "v1"]
    assert [point["estimator"] for point in ahead] == ["projected", "estimated"] * 3
    assert all(point["to_ms"] > last["to_ms"] and point["coverage"] == 0.91 for point in ahead)
    assert all("estimator" not in point or point["estimator"] == "realised" for point in own)

    panes = house.get(f"models/{MODEL}/quality", window="pane")["points"]
    assert all(point["to_ms"] - point["from_ms"] == MINUTE_MS for point in panes if point["closed"])
    late = house.get(f"models/{MODEL}/quality", from_ms=origin_ms + 170 * MINUTE_MS)["points"]
    assert {point["to_ms"] > origin_ms + 170 * MINUTE_MS for point in late} == {True}
    losses = house.get(f"models/{MODEL}/quality", metric="log_loss")
    assert (losses["better"], losses["most"]) == ("lower", None)


def test_drift_has_each_stream_once_with_its_limits(house: Asker) -> None:
    answer = house.get(f"models/{MODEL}/drift")
    streams = {one["latest"]["stream"]: one for one in answer["streams"]}
    assert sorted(streams) == sorted(STREAMS)
    age = streams["feature:age"]
    assert age["latest"]["distances"]["psi"] > age["latest"]["distances"]["psi_q95"]
    assert len(age["panes"]) == 59
    assert [pane["to_ms"] for pane in age["panes"]] == sorted(pane["to_ms"] for pane in age["panes"])
    assert age["last_alarm"]["alarmed"] is True
    assert sum(pane["alarmed"] for pane in age["panes"]) >= 1
    assert streams["score"]["last_alarm"] is None
    assert {alarm["stream"] for alarm in answer["alarms"]} == {"feature:age", "quality:error"}
    assert [one["stream"] for one in answer["controls"]] == ["placebo:rows", "injected:quality:error"]


def test_delay_counts_every_prediction_and_label(house: Asker) -> None:
    answer = house.get(f"models/{MODEL}/delay")
    assert answer["predicted"] == REQUESTS
    assert answer["labelled"] == asked(house, "SELECT count() FROM labels")
    shares = [point["share"] for point in answer["curve"]]
    assert shares == sorted(shares)
    assert 0.85 < shares[-1] < 0.95  # a tenth never gets a label
    # Half of all predictions: the delay's median is e^12 ms, and labels of the others come later or never.
    assert 150_000 < answer["quantiles"]["p50"] < 400_000
    assert sum(one["predicted"] for one in answer["cohorts"]) == REQUESTS
    assert sum(one["labelled"] for one in answer["cohorts"]) == answer["labelled"]
    assert [(one["status"], one["kind"]) for one in answer["outcomes"]] == [("final", "explicit")]
    assert house.get(f"models/{MODEL}/delay", from_ms=answer["last_ms"] + 1)["predicted"] == 0


def test_delay_with_a_virtual_clock_takes_the_labels_own_time(house: Asker) -> None:
    broker = house.get(f"models/{MODEL}/delay")
    rows = Rows(house.settings)
    answer = History(house.settings.model_copy(update={"clock": "virtual"}), rows).delay(MODEL)
    rows.close()
    assert (answer["predicted"], answer["labelled"]) == (broker["predicted"], broker["labelled"])
    # The story's labels were all sent when it was told: at its end.
    youngest = answer["last_ms"] - answer["first_ms"]
    assert answer["curve"][-1]["age_ms"] > youngest > broker["quantiles"]["p50"]


def test_rollout_tells_stage_gate_and_what_led_here(house: Asker) -> None:
    answer = house.get(f"models/{MODEL}/rollout")
    assert [one["revision"] for one in answer["promotions"]] == [3, 2, 1]
    assert answer["promotions"][0]["stage"] == "canary"
    assert answer["gates"][0]["layer"] == f"canary:{ROLLOUT}"
    assert answer["candidates"][0]["version"] == "v2"
    assert answer["retrains"][0]["retrain_id"] == "retrain-1"
    assert answer["servers"][0]["converged"] is True


def test_thresholds_are_asked_with_costs(house: Asker) -> None:
    answer = house.get(f"models/{MODEL}/thresholds", cost_fp=2.0, cost_fn=0.5, points=3)
    assert (answer["cost_fp"], answer["cost_fn"]) == (2.0, 0.5)
    (one,) = answer["versions"]
    assert (one["version"], one["positives"] + one["negatives"]) == ("v1", 2_000)
    assert abs(one["best"]["threshold"] - 0.8) < 0.1  # a positive is worth it where p · 0.5 ≥ (1 − p) · 2
    assert answer["to_ms"] > answer["from_ms"] > 0
    for wrong in ({"cost_fp": -1}, {"cost_fn": "nan"}, {"points": 2}, {"from_ms": -1}):
        assert house.client.get(f"/v1/models/{MODEL}/thresholds", params=wrong).status_code == 422


def test_what_fires_about_a_model_is_one_incident(house: Asker) -> None:
    (one,) = house.get("alerts")["incidents"]
    assert (one["model"], one["severity"], one["group"]) == (MODEL, "error", "quality")
    assert [part["rule"] for part in one["parts"]] == ["drift:quality:error", "drift:feature:age"]


def test_slices_of_the_version_that_was_measured_last_come_with_the_whole(house: Asker) -> None:
    answer = house.get(f"models/{MODEL}/slices", metric="accuracy")
    stored = asked(house, "SELECT uniqExact(slice) FROM metrics WHERE slice != '' AND closed AND metric = 'accuracy'")
    assert len(answer["slices"]) == int(stored) == 3
    assert [one["worse"] for one in answer["slices"]] == [True, True, False]
    assert answer["whole"]["slice"] == ""
    assert (answer["better"], answer["level"]) == ("higher", 0.95)
    assert all(one["version"] == answer["whole"]["version"] for one in answer["slices"])
    nobody = house.get("models/nobody/slices")
    assert (nobody["whole"], nobody["slices"]) == (None, [])


def test_a_metric_that_is_none_is_refused_with_what_may_have_been_meant(house: Asker) -> None:
    for path in ("quality", "slices"):
        refused = house.client.get(f"/v1/models/{MODEL}/{path}", params={"metric": "acuracy"})
        assert refused.status_code == 422
        assert refused.json() == {"what": "there is no metric 'acuracy'", "fix": "did you mean 'accuracy'?"}
    assert house.get(f"models/{MODEL}/quality", metric="refund:auc")["points"] == []


def test_a_decision_whose_ground_was_corrected_is_told_with_its_latest_review(house: Asker) -> None:
    (one,) = house.get(f"models/{MODEL}/reviews")["reviews"]
    assert (one["decision_id"], one["revision"], one["stands"]) == ("gate-0", 2, False)
    assert (one["then"]["value"], one["now"]["value"]) == (0.06, 0.01)
    assert house.get(f"models/{MODEL}/rollout")["reviews"] == [one]
    assert house.get("models/nobody/reviews")["reviews"] == []


def test_an_unknown_model_is_empty_not_an_error(house: Asker) -> None:
    assert house.get("models/nobody/quality")["points"] == []
    assert house.get("models/nobody/drift")["streams"] == []
    assert house.get("models/nobody/delay")["curve"] == []
    assert house.get("models/nobody/rollout")["promotions"] == []
    answer = house.client.get("/v1/models/nobody/quality", params={"window": "hourly"})
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["at"] == "query.window"


@pytest.mark.parametrize(
    "name", ["a'b", "a\\b", "{model:String}", "a\nb", "a\tb", "ü☃", "' OR 1=1 --", "x" * 5_000, "%00"]
)
def test_any_name_is_only_a_name(house: Asker, name: str) -> None:
    path = f"models/{quote(name, safe='')}"
    assert house.get(f"{path}/quality", metric=f"{name}:accuracy", slice=name)["points"] == []
    assert house.get(f"{path}/drift")["model"] == name
    assert house.get(f"{path}/delay", name=name)["predicted"] == 0
    assert house.get("alerts", model=name)["alerts"] == []
    assert house.client.get(f"/v1/{path}/delay", params={"from_ms": 10**30}).status_code == 422


def test_alerts_and_their_deliveries(house: Asker) -> None:
    answer = house.get("alerts")
    assert len(answer["alerts"]) == 5
    states = {alert["rule"]: alert.get("status", "firing") for alert in answer["current"]}
    assert states == {
        "approval-needed": "firing", "training-failed": "resolved",
        "drift:feature:age": "firing", "drift:quality:error": "firing",
    }  # fmt: skip
    assert answer["deliveries"] is None
    store = Store(house.settings.data_dir / NAME)
    try:
        store.register({"pager": "hash"}, 1)
        found = house.get("alerts", model=MODEL)["deliveries"]
    finally:
        store.close()
        for file in house.settings.data_dir.glob(f"{NAME}*"):
            file.unlink()
    assert found["deliveries"] == []
    assert found["endpoints"][0]["name"] == "pager"
    assert settle(1, Answer(500), 0).state == "pending"  # the store's words are those that the page knows


def test_pipeline_shows_lag_dead_letters_and_residual(house: Asker) -> None:
    answer = house.get("pipeline")
    processes = {one["process"]: one for one in answer["processes"]}
    assert processes["record"]["state"] == "stable"
    assert {topic["topic"] for topic in processes["record"]["topics"]} >= {"predictions", "labels", "metrics"}
    assert processes["join"]["state"] == "not seen"
    topics = {one["topic"]: one for one in answer["topics"]}
    assert topics["predictions"]["end"] == REQUESTS
    sources = {one["source"]: one for one in answer["sources"]}
    assert list(sources) == ["desk", "market"]
    assert (sources["market"]["state"], sources["market"]["seen"], sources["market"]["bound"]) == ("watched", PANES, 7)
    reasons = {(one["reason"], one["topic"]): one["n"] for one in answer["dead_letters"]["reasons"]}
    assert reasons == {("orphan", "labels"): 2, ("not_json", "predictions"): 1}
    assert "c2VjcmV0" not in str(answer)  # nobody's features
    assert answer["residual"] == {"by_input": {"predictions": 0, "labels": 0, "signals": 0}, "places": []}


def test_a_lost_row_shows_as_residual(house: Asker) -> None:
    client = connect(house.settings)
    row = client.query("SELECT partition, offset FROM labels ORDER BY partition, offset LIMIT 1").result_rows[0]
    where = f"partition = {row[0]} AND offset = {row[1]}"
    client.command("CREATE TABLE kept ENGINE = Memory AS SELECT * FROM landed_labels WHERE " + where)
    try:
        client.command(f"DELETE FROM landed_labels WHERE {where}")
        pipeline = Pipeline(house.settings, History(house.settings, Rows(house.settings)))
        found = pipeline.residual()
        pipeline.close()
        assert found["by_input"]["labels"] == 1
        assert found["places"][0]["partition"] == row[0]
    finally:
        client.command("INSERT INTO landed_labels SELECT * FROM kept")
        client.command("DROP TABLE kept")
        client.close()


def test_clickhouse_away_is_503_with_what_to_do(house: Asker) -> None:
    import threading

    from starlette.testclient import TestClient

    from services.api.app import build
    from tests.services.api.serving import TOKEN

    nowhere = house.settings.clickhouse.model_copy(update={"port": 1})
    settings = at_free_port(house.settings.model_copy(update={"clickhouse": nowhere}))
    client = TestClient(build(settings, threading.Event()), headers={"Authorization": f"Bearer {TOKEN}"})
    answer = client.get("/v1/overview")
    assert answer.status_code == 503
    assert "ClickHouse" in answer.json()["what"]
    assert answer.headers["Retry-After"] == "2"
    assert TOKEN not in answer.text


def test_one_answer_serves_those_who_ask_at_once() -> None:
    now, asked_for = [0.0], []
    recent = Recent(1.0, lambda: now[0])

    def fetch() -> int:
        asked_for.append(1)
        return len(asked_for)

    assert [recent.of("a", fetch), recent.of("a", fetch), recent.of("b", fetch)] == [1, 1, 2]
    now[0] = 1.5
    assert recent.of("a", fetch) == 3
