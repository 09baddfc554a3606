"""Tables through the loop: what is said of them is what plain arithmetic says, and what was planted is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from schemas.errors import USAGE, WeirError
from services.client import watch as watch_frames
from services.watch.columns import roles
from services.watch.reading import Options
from services.watch.report import as_object, fails, figures, notes
from services.watch.run import Watched, watch
from services.watch.tables import Held, Tables
from tests.services.watch.tables import DAY_S, START_S, made


def run(table: pa.Table, labels: pa.Table | None = None, **said: object) -> Watched:
    """Watch tables in memory."""
    return watch(Held(table), None if labels is None else Held(labels), None, Options(**said))  # type: ignore[arg-type]


def since(found: Watched, name: str) -> float:
    """Give a figure of the time after the reference."""
    [figure] = [one for one in figures(found, "") if one.name == name]
    assert figure.since is not None
    assert figure.since.value is not None
    return figure.since.value


def test_figures_are_those_of_the_rows() -> None:
    table = made(1, 6_000)
    found = run(table)
    later = table.filter(pc.greater_equal(table["timestamp"], found.cuts[""] / 1000))
    score, label = later["score"].to_numpy(), later["label"].to_numpy()
    assert since(found, "accuracy") == pytest.approx(np.mean((score >= 0.5) == label), abs=1e-12)
    assert since(found, "auc") == pytest.approx(roc_auc_score(label, score), abs=0.002)
    assert since(found, "brier") == pytest.approx(np.mean((score - label) ** 2), abs=1e-4)
    assert sum(one.n for one in found.series("", "accuracy")) == 6_000
    assert found.references[""].n == 6_000 - len(later)


def test_what_was_planted_is_found_and_nothing_else() -> None:
    quiet = run(made(2, 6_000))
    assert [one.stream for one in quiet.alarms] == []
    found = run(made(2, 9_000, broken=True, older=8.0))
    assert {one.stream for one in found.alarms} == {"quality:error", "feature:age"}
    changed_ms = (START_S + 20 * DAY_S * 2 / 3) * 1000
    assert min(one.at_ms for one in found.alarms) >= changed_ms - found.pane_ms
    [auc] = [one for one in figures(found, "") if one.name == "auc"]
    assert auc.verdict == "worse"


def test_the_order_of_rows_does_not_matter() -> None:
    table = made(3, 3_000, broken=True)
    shuffled = table.take(np.random.default_rng(9).permutation(table.num_rows))
    ids = pa.array([f"r{place}" for place in range(table.num_rows)])
    plain = as_object(run(table.append_column("id", ids)), [])
    order = pa.array(np.argsort(np.argsort(shuffled["timestamp"].to_numpy(), kind="stable"), kind="stable"))
    again = as_object(run(shuffled.append_column("id", ids.take(order))), [])
    assert {**plain, "seconds": 0} == {**again, "seconds": 0}


def test_labels_of_their_own_come_late_and_silence_is_an_answer(tmp_path: Path) -> None:
    table = made(4, 4_000).append_column("order.no", pa.array([f"o-{place}" for place in range(4_000)]))
    positive = table.filter(pc.equal(table["label"], 1))
    late = np.random.default_rng(4).random(positive.num_rows) < 0.1
    delay = np.where(late, 3.0, 0.5) * DAY_S
    labels = pa.table(
        {
            "order_no": positive["order.no"],
            "fraud": positive["label"],
            "when": (positive["timestamp"].to_numpy() + delay).astype(np.int64),
        }
    )
    said = {"request_id": "order.no", "label": "fraud", "label_at": "when"}
    found = run(table.drop_columns("label"), labels, given=said, horizon_ms=2 * DAY_S * 1000, negative=True)
    told = as_object(found, [])
    # What came after the horizon does not count, so its outcome is what silence said.
    closed = sum(one["n"] for one in told["versions"][0]["series"]["positive_rate"])
    hits = sum(one["n"] * one["value"] for one in told["versions"][0]["series"]["positive_rate"])
    in_time = positive.filter(pa.array(~late))
    last_s = (found.replayed.clock_ms - 2 * DAY_S * 1000) / 1000
    assert closed == pytest.approx(pc.sum(pc.less_equal(table["timestamp"], last_s)).as_py(), abs=0.02 * 4_000)
    assert hits == pytest.approx(in_time.num_rows * closed / 4_000, rel=0.05)
    assert told["labels_unmatched"] == late.sum()
    assert set(told["refused"]) == {"outside_horizon"}
    assert told["silence"] == "negative"
    assert told["alarms"] == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 10**9)),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.just(0.5)),
            st.one_of(st.none(), st.integers(-1, 2)),
            st.one_of(st.none(), st.text(max_size=3)),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_every_row_is_an_event_or_a_refusal(rows: list[tuple[object, ...]]) -> None:
    names = ("at", "score", "label", "word", "id")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    table = pa.table({name: pa.array(column, from_pandas=False) for name, column in columns.items()})
    try:
        found = run(table, given={"request_id": "id"})
    except WeirError as error:
        assert error.fix  # noqa: PT017
        return
    refused = found.events.refused.counts.total()
    assert refused + len(found.events.made) + len(found.events.labels) >= len(rows)
    json.dumps(as_object(found, []), allow_nan=False)


@pytest.mark.parametrize(
    ("columns", "said", "message"),
    [
        (["score", "label"], {}, "no column that is a time by name"),
        (["timestamp", "label"], {"given": {"score": "probability"}}, "there is no column 'probability' for score"),
        (["timestamp", "score", "label"], {"slice": "country"}, "there is no column 'country' to slice by"),
        (["timestamp", "score", "label"], {"reference_share": 1.5}, "expected a share between 0 and 1"),
        (["timestamp", "score", "label"], {"budget": -1.0}, "a budget of -1 cannot be"),
    ],
)
def test_what_cannot_be_understood_is_said(columns: list[str], said: dict[str, object], message: str) -> None:
    with pytest.raises(WeirError, match=message) as raised:
        run(made(1, 500).select(columns), **said)
    assert raised.value.fix


def test_too_few_rows_are_not_judged_and_that_is_said() -> None:
    found = run(made(1, 300))
    assert found.references == {}
    assert any("too few to compare with" in note for note in found.notes)


def test_without_labels_only_what_needs_none_is_judged() -> None:
    found = run(made(5, 9_000, older=8.0).drop_columns("label"))
    assert {one.stream for one in found.alarms} == {"feature:age"}
    assert any("there are no labels" in note for note in found.notes)
    assert not [one for one in figures(found, "") if one.name == "accuracy"]


def test_versions_are_judged_each_against_its_own_beginning() -> None:
    table = made(6, 8_000)
    version = pa.array(["v1"] * 4_000 + ["v2"] * 4_000)
    found = run(table.append_column("version", version))
    assert set(found.references) == {"v1", "v2"}
    assert found.cuts["v2"] > found.cuts["v1"]
    assert found.alarms == []


def test_a_column_that_numbers_the_rows_is_no_feature() -> None:
    table = made(2, 6_000)
    found = run(table.append_column("Unnamed: 0", pa.array(range(6_000))))
    assert found.left_out == [("Unnamed: 0", "it numbers the rows")]
    assert found.alarms == []


def test_fail_on_says_what_holds() -> None:
    found = run(made(2, 9_000, broken=True))
    held = fails(found, ["alarm", "auc<0.7", "auc>0.99", "quality:error", "feature:age", "refused"])
    assert [line.split()[0] for line in held] == [f"{len(found.alarms)}", "auc", "quality:error:"]
    with pytest.raises(WeirError, match="neither `alarm`"):
        fails(found, ["anything"])
    with pytest.raises(WeirError, match="no metric"):
        fails(found, ["acuracy<0.5"])


def test_columns_are_known_by_name() -> None:
    schema = pa.schema(
        [("Request-ID", pa.string()), ("created_at", pa.timestamp("us")), ("Y_Score", pa.float64()), ("x", pa.int64())]
    )
    found = roles(schema, {}, ())
    assert dict(found.said) == {"request_id": "Request-ID", "at": "created_at", "score": "Y_Score"}
    assert found.features == ("x",)
    seen = roles(pa.schema([("seen", pa.date32()), ("tags", pa.list_(pa.string()))]), {}, ())
    assert [name for name, _ in seen.left_out] == ["seen", "tags"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_give_what_memory_gives(kind: str, tmp_path: Path) -> None:
    table = made(7, 2_000)
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    with Tables(lambda text: None) as tables:
        filed = as_object(watch(tables.open(path), None, None, Options()), [])
    assert {**filed, "seconds": 0} == {**as_object(run(table), []), "seconds": 0}


def noted(found: Watched, words: str) -> bool:
    return any(words in note for note in notes(found))


def test_a_column_called_id_that_repeats_is_no_request_id() -> None:
    table = made(2, 9_000, broken=True)
    users = pa.array(np.random.default_rng(1).integers(0, 900, 9_000))
    found = run(table.append_column("id", users))
    assert {one.stream for one in found.alarms} == {"quality:error"}
    assert [name for name, _ in found.left_out] == ["id"]
    told = run(table.append_column("id", users), given={"request_id": "id"})
    assert noted(told, "predictions have the request id of another one and were left out")


def test_a_limit_that_cannot_be_told_is_no_pass() -> None:
    for table, condition in (
        (made(1, 4_000).drop_columns("label"), "auc<0.7"),
        (made(1, 4_000), "mae>1"),
        (made(1, 250), "alarm"),
    ):
        with pytest.raises(WeirError, match="cannot be told") as raised:
            fails(run(table), [condition])
        assert raised.value.code == 2


def test_a_version_that_was_not_judged_is_no_pass() -> None:
    table = made(6, 4_000)
    flipped = pa.array([1 - one if place >= 3_900 else one for place, one in enumerate(table["label"].to_pylist())])
    two = table.set_column(2, "label", flipped).append_column("version", pa.array(["a"] * 3_900 + ["b"] * 100))
    found = run(two)
    assert as_object(found, [])["not_judged"] == ["b"]
    [held] = fails(found, ["auc<0.5"])
    assert held.startswith("auc of b is")
    with pytest.raises(WeirError, match="version b was not judged"):
        fails(found, ["alarm"])


def test_what_a_report_does_not_say_is_said() -> None:
    table = made(1, 4_000)
    spoken = table.set_column(2, "label", pc.if_else(pc.equal(table["label"], 1), "yes", "no"))
    assert noted(run(spoken), "labels cannot be held against their prediction")
    percent = table.set_column(1, "score", pc.multiply(table["score"], 100.0))
    assert noted(run(percent), "is the score in percent?")
    numbers = pa.table({"at": table["timestamp"], "prediction": table["age"], "label": pc.add(table["age"], 0.5)})
    assert noted(run(numbers), "quality raises no alarm here")
    moved = table["timestamp"].to_numpy().copy()
    moved[7] = 2e9
    assert noted(run(table.set_column(0, "timestamp", pa.array(moved))), "far from the time of all others")
    assert not notes(run(made(1, 9_000)))[1:]


def test_labels_before_their_prediction_and_the_slowest_ones_are_named() -> None:
    table = made(1, 4_000).append_column("id", pa.array([f"r{place}" for place in range(4_000)]))
    delay = np.full(4_000, 3_600.0)
    delay[:200], delay[-8:] = -3_600.0, 20 * DAY_S
    labels = pa.table({"id": table["id"], "label": table["label"], "at": table["timestamp"].to_numpy() + delay})
    found = run(table.drop_columns("label"), labels)
    assert noted(found, "200 labels are dated before their prediction")
    assert noted(found, "a shorter --horizon tells sooner")


def test_panes_are_bounded_and_typing_errors_named() -> None:
    for said, message in (
        ({"pane_ms": 1_000}, "at most 4,000 are held"),
        ({"without": ["nix"]}, "no column 'nix' to leave out"),
        ({"given": {"horizon_ms": "5"}}, "no role 'horizon_ms'"),
    ):
        with pytest.raises(WeirError, match=message):
            run(made(1, 500), **said)


def test_semicolons_separate_columns_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pyarrow.csv.write_csv(made(7, 2_000), path, pyarrow.csv.WriteOptions(delimiter=";"))
    with Tables(lambda text: None) as tables:
        found = watch(tables.open(path), None, None, Options())
    assert len(found.events.made) == 2_000


def test_of_labels_of_one_moment_the_last_row_stands_in_the_join_and_in_the_reference() -> None:
    table = made(3, 2_000)
    ids = [f"r{number}" for number in range(2_000)]
    truth = table.column("label").to_pylist()
    predictions = table.drop(["label"]).append_column("request_id", [ids])
    twice = pa.table(
        {"request_id": [one for one in ids for _ in (0, 1)], "label": [v for y in truth for v in (1 - y, y)]}
    )
    found, right = (run(predictions, labels) for labels in (twice, pa.table({"request_id": ids, "label": truth})))
    assert since(found, "auc") == since(right, "auc")
    assert found.references[""].error_rate == right.references[""].error_rate
    assert not found.alarms
    assert noted(found, "2,000 labels differ from a later row")


def test_a_repeated_request_waits_for_its_label_from_its_first_prediction_on() -> None:
    at = [START_S + 600 * number for number in range(1_000)]
    ids = [f"r{number}" for number in range(1_000)]
    again = [one + 30 * DAY_S for one in at]
    predictions = pa.table({"request_id": ids * 2, "timestamp": at + again, "score": [0.25, 0.75] * 1_000})
    labels = pa.table({"request_id": ids, "label_at": [one + 50 * 3_600 for one in at], "label": [0, 1] * 500})
    found = run(predictions, labels)
    assert found.policy.horizon_ms == 50 * 3_600_000
    assert found.replayed.counters["labels.joined"] == 1_000


@pytest.mark.parametrize(
    "frame",
    [
        {"timestamp": [1, 2], "score": [0.5]},
        {"timestamp": [1], "score": [2**70]},
        pa.Table.from_arrays([pa.array([1]), pa.array([0.5]), pa.array([0.5])], names=["timestamp", "score", "score"]),
        pa.table({"timestamp": pa.array([569_002_233_600], pa.timestamp("s")), "score": [0.5]}),
        pa.table({"timestamp": pa.array([1], pa.timestamp("s", "Nowhere/X")), "score": [0.5]}),
    ],
    ids=["lengths", "large", "twice", "year 20000", "zone"],
)
def test_frames_that_are_no_tables_are_said_to_be_so(frame: object) -> None:
    with pytest.raises(WeirError) as caught:
        watch_frames(frame)
    assert caught.value.code == USAGE
