"""Figures of several classes and of sets of labels against scikit-learn, and the budget of names."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from schemas.event import decode
from schemas.inputs import Prediction
from schemas.measures import Measures
from streams.join.outcome import Change, Counted, Outcome
from streams.measure.ledger import CLASS, OTHER, Ledger
from streams.measure.measure import MOST_CLASSES, Measure, MeasureState
from streams.measure.metrics import Accuracy, BalancedAccuracy, Jaccard, MacroF1, Metric
from streams.measure.tally import ledger_of
from streams.runtime.processor import Batch


def sample(n: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["cat", "dog", "emu", "fox"], n, p=[0.7, 0.2, 0.08, 0.02])
    guesses = np.where(rng.random(n) < 0.7, labels, rng.choice(["cat", "dog", "emu", "gnu"], n))
    return labels.tolist(), guesses.tolist()


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (30, 1), (3_000, 2)])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_figures_of_classes_equal_sklearn(n: int, seed: int) -> None:
    labels, guesses = sample(n, seed)
    weights = np.random.default_rng(seed).integers(1, 1001, n) / 1000
    ledger = ledger_of([None] * n, labels, [f"u{i}" for i in range(n)], weights, guesses)
    f1 = sk.f1_score(labels, guesses, average="macro", sample_weight=weights, zero_division=0)
    assert MacroF1().value(ledger) == pytest.approx(f1)
    recall = sk.balanced_accuracy_score(labels, guesses, sample_weight=weights)
    assert BalancedAccuracy().value(ledger) == pytest.approx(recall)
    assert Accuracy().value(ledger) == pytest.approx(sk.accuracy_score(labels, guesses, sample_weight=weights))
    assert MacroF1().measured(ledger).n == n


def test_a_binary_task_is_two_classes() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(2_000)
    labels = (rng.random(2_000) < scores).astype(int)
    ledger = ledger_of(scores, labels, [f"u{i}" for i in range(2_000)], threshold=0.7)
    decided = scores >= 0.7
    assert MacroF1().value(ledger) == pytest.approx(sk.f1_score(labels, decided, average="macro"))
    assert BalancedAccuracy().value(ledger) == pytest.approx(sk.balanced_accuracy_score(labels, decided))


def test_sets_of_labels_equal_sklearn() -> None:
    rng = np.random.default_rng(4)
    every = ["a", "b", "c", "d"]
    labels = [[name for name in every if rng.random() < 0.4] for _ in range(500)]
    guesses = [[name for name in every if rng.random() < 0.4 or name == "a"] for _ in range(500)]
    ledger = ledger_of([None] * 500, labels, [f"u{i}" for i in range(500)], None, guesses)
    truth, said = (MultiLabelBinarizer(classes=every).fit_transform(side) for side in (labels, guesses))
    assert Jaccard().value(ledger) == pytest.approx(sk.jaccard_score(truth, said, average="samples"), abs=1e-6)
    assert Accuracy().value(ledger) == pytest.approx(sk.accuracy_score(truth, said))
    measured = Jaccard().measured(ledger)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.high - measured.low < 0.1


def test_a_class_without_an_error_is_no_certainty() -> None:
    ledger = ledger_of([None] * 20, ["cat"] * 20, [f"u{i}" for i in range(20)], None, ["cat"] * 20)
    measured = BalancedAccuracy().measured(ledger)
    assert measured.value == measured.high == 1.0
    assert measured.low is not None
    assert measured.low < 0.97


def ledger_after(measure: Measure, state: MeasureState, changes: list[Change]) -> Ledger:
    found = Ledger()
    for output in measure.step(state, changes, [], Batch(0, 1, {}), clock_ms=1_000):
        if output.topic == "measures":
            for pane in decode(output.value, Measures).panes:
                found.add_flat(pane.cells)
    return found


def named(i: int, label: str, prediction: str) -> Change:
    said = Outcome(label=label, kind="explicit")
    return Change(None, Counted(Prediction(request_id=f"r{i}", at_ms=5, model="m", prediction=prediction), said))


def test_classes_beyond_the_budget_share_one_and_can_be_taken_back() -> None:
    measure = Measure(partitions=1)
    state = measure.empty(0)
    changes = [named(i, f"c{i}", f"c{i % 7}") for i in range(MOST_CLASSES + 5)]
    found = ledger_after(measure, state, [*changes, named(999, "x" * 65, "c0")])
    classes = {name for name in found if name.startswith(CLASS)}
    assert len(classes) == MOST_CLASSES + 1
    assert found.cells[CLASS + OTHER] == {2: 6_000}, "five names too many, and one that is too long"
    state = measure.load(0, measure.dump(state))
    back = [Change(change.after, None) for change in changes]
    assert found + ledger_after(measure, state, back) == ledger_after(
        measure, measure.load(0, measure.dump(state)), [named(999, "x" * 65, "c0")]
    )


def test_a_snapshot_from_before_classes_still_loads() -> None:
    measure = Measure(partitions=1)
    state = measure.load(0, b'measure/1\n{"references":[],"slices":{"m":["country=DE"]},"sources":["app"]}')
    assert (list(state.slices["m"]), list(state.sources), state.classes) == (["country=DE"], ["app"], {})


@pytest.mark.slow
@pytest.mark.parametrize("metric", [MacroF1(), BalancedAccuracy()])
def test_intervals_cover_when_users_send_many_events(metric: Metric) -> None:
    """95 % intervals over 100 seeded samples of 300 users with 20 events each cover at least 90 %."""
    rng = np.random.default_rng(5)

    def clustered(users: int, each: int) -> Ledger:
        n = users * each
        skill = np.repeat(rng.beta(4, 2, users), each)
        labels = rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1])
        guesses = np.where(rng.random(n) < skill, labels, rng.choice(["a", "b", "c"], n))
        subjects = [str(i) for i in np.repeat(np.arange(users), each)]
        return ledger_of([None] * n, labels.tolist(), subjects, None, guesses.tolist())

    truth = metric.value(clustered(10_000, 5))
    assert truth is not None
    hits = 0
    for _ in range(100):
        measured = metric.measured(clustered(300, 20))
        assert measured.low is not None
        assert measured.high is not None
        hits += measured.low <= truth <= measured.high
    assert hits >= 90
