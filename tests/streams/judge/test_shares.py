"""One budget for all models: no moment is spent twice, however models come and partitions hear of them."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import PolicySet, ReferenceSet
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.detectors import ESR
from streams.judge.evidence import Evidence, Null
from streams.judge.processor import Judge
from streams.judge.shares import ALWAYS, NOTICE_MS, model_share, reference_part
from streams.judge.state import JudgeState
from streams.judge.watch import Watch
from streams.measure.ledger import Ledger
from streams.measure.tally import ledger_of
from streams.runtime.processor import WHOLE, whole_parts
from tests.streams.judge.test_processor import (
    BOUNDS,
    MINUTE,
    POLICY,
    batch,
    columns,
    delta,
    measures,
    reference,
    run,
    started,
    stream,
)

NAMES = "abcde"
weights = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 1.0, 7.0]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=5),
    st.lists(st.integers(0, NOTICE_MS - 1), min_size=5, max_size=5),
    st.lists(st.integers(1, 4), min_size=5, max_size=5),
    st.lists(st.integers(0, 40), min_size=5, max_size=5),
    weights,
)
def test_at_no_moment_do_all_models_spend_more_than_one_day_a_day(
    appended: list[int], lags: list[int], sizes: list[int], waits: list[int], said: dict[str, float]
) -> None:
    """The twin adds up what every model spends on every minute, each in a partition that hears late.

    A pane of `size` minutes closes `wait` minutes after its end; its partition has by then read what was appended up
    to its lag before.
    """
    spent = np.zeros(80)
    for name, lag_ms, size, wait in zip(NAMES, lags, sizes, waits, strict=True):
        for start in range(0, 80 - size, size):
            closes_ms = (start + size + wait) * MINUTE
            heard = {
                one: at * MINUTE + NOTICE_MS
                for one, at in zip(NAMES, appended, strict=True)
                if at * MINUTE <= closes_ms - lag_ms
            }
            spent[start : start + size] += model_share(name, start * MINUTE, (start + size) * MINUTE, heard, said)
    assert spent.max() <= 1 + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5)), st.integers(0, 6), weights)
def test_those_who_take_part_share_all_of_it(since: dict[str, int], at_ms: int, said: dict[str, float]) -> None:
    shares = [model_share(name, at_ms, at_ms + 1, since, said) for name in NAMES]
    anybody = any(since[name] <= at_ms and said.get(name, 1.0) > 0 for name in since)
    assert sum(shares) == pytest.approx(1.0 if anybody else 0.0)


@given(st.integers(1, 200), st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_references_never_spend_more_than_their_part(partitions: int, versions: list[int]) -> None:
    counts = versions[:partitions]
    spent = sum(reference_part(rank, partitions) for count in counts for rank in range(1, count + 1))
    assert spent <= 1.0


def test_all_models_together_keep_one_budget() -> None:
    """E[alarms] ≤ b over models that come one by one, each exactly at its limit, where the bound is hardest to keep.

    20 months of 120 panes, b = 10 a month: the mean lies within b plus four standard errors; a budget for each of the
    five models would give well over twice as many.
    """
    rng = np.random.default_rng(5)
    budget, months, panes, limit = 10.0, 20, 120, 0.2
    alarm_days, days = 30.0 / budget, 30.0 / panes
    detector = ESR(bets=(0.15, 0.5))
    sizes = np.full(16, 2.0)
    counts: list[int] = []
    alone: list[int] = []
    for _ in range(months):
        for kept, divided in ((counts, True), (alone, False)):
            since = {name: place * panes // 10 for place, name in enumerate(NAMES)}
            trackers = {name: detector.start(Null.of_rate(name, limit), alarm_days) for name in NAMES}
            alarms = 0
            for pane in range(panes):
                for name in NAMES:
                    hits = rng.binomial(2, limit, 16).astype(float)
                    evidence = Evidence(pane, pane + 1, np.array([hits.sum()]), 32.0, sizes, hits)
                    share = model_share(name, pane, pane + 1, since, {}) if divided else float(pane >= since[name])
                    alarms += trackers[name].update(evidence, share * days).outcome == "fail"
            kept.append(alarms)
    error = float(np.std(counts)) / np.sqrt(months)
    assert np.mean(counts) <= budget + 4 * error
    assert np.mean(alone) > 2 * np.mean(counts) > 0


def two(append_ms: int = 0) -> list[object]:
    other = msgspec.structs.replace(reference(), id="other", model="n")
    return [PolicySet(policy=msgspec.structs.replace(POLICY, model="n")), ReferenceSet(reference=other)]


def spent(state: JudgeState, model: str) -> list[float]:
    (looks,) = state.reviews[model].looks.values()
    return [look.days for look in looks]


def test_a_judge_spends_a_models_part() -> None:
    judge = Judge(BOUNDS)
    one, both = started(judge), started(judge, *two())
    events = stream(3)
    run(judge, one, events)
    run(judge, both, events)
    whole = MINUTE / DAY_MS * BOUNDS.quality_share
    assert spent(one, "m") == pytest.approx([whole] * 3)
    assert spent(both, "m") == pytest.approx([whole / 2] * 3)
    declared = Judge(BOUNDS.model_copy(update={"weights": {"m": 3.0}}))
    state = started(declared, *two())
    run(declared, state, events)
    assert spent(state, "m") == pytest.approx([whole * 0.75] * 3)
    none = Judge(BOUNDS.model_copy(update={"weights": {"m": 0.0}}))
    state = started(none, *two())
    assert not [output for output in run(none, state, events) if b'"stream":"quality' in output.value]


def test_a_model_spends_a_minute_after_its_reference_and_the_others_less_from_then_on() -> None:
    judge = Judge(BOUNDS)
    state = judge.empty(0)
    late = batch(0, control=[PolicySet(policy=POLICY), ReferenceSet(reference=reference()), *two()])
    late.inputs["control"].append_ms[:] = [0, 0, 0, 10 * MINUTE + 5_000]
    judge.step(state, late, 0)
    assert state.since == {"m": MINUTE, "n": 11 * MINUTE + 5_000}
    events = []
    for t in range(10, 14):
        ledger: Ledger = ledger_of(*columns(t, 60, 0.1))
        panes = [msgspec.structs.replace(delta(t * MINUTE, ledger), model=model) for model in ("m", "n")]
        events.append(measures(0, t, (t + 1) * MINUTE - 1, *panes))
    run(judge, state, [*events, measures(0, 99, 30 * MINUTE)])
    whole = MINUTE / DAY_MS * BOUNDS.quality_share
    # The pane of minute 11 ends when the other takes part already.
    assert spent(state, "m") == pytest.approx([whole, whole / 2, whole / 2, whole / 2])
    assert spent(state, "n") == pytest.approx([0.0, 0.0, whole / 2, whole / 2])


def test_in_a_virtual_namespace_a_reference_counts_at_once() -> None:
    judge = Judge(BOUNDS, virtual=True)
    assert started(judge, *two()).since == {"m": ALWAYS, "n": ALWAYS}


def test_versions_get_smaller_parts_in_the_order_in_which_they_are_judged_and_keep_them() -> None:
    judge = Judge(BOUNDS, measures_partitions=2)
    state = started(judge, ReferenceSet(reference=msgspec.structs.replace(reference(), id="second", version="2")))
    events = stream(3)
    run(judge, state, events)
    scores, labels, subjects = columns(1, 60, 0.1)
    new = delta(30 * MINUTE, ledger_of(scores, labels, subjects), version="2")
    run(judge, state, [measures(0, 50, 30 * MINUTE, new), measures(0, 51, 40 * MINUTE)])
    assert state.ranks == {("m", "1"): 1, ("m", "2"): 2}
    parts = {version: watch.part for (_, version, _), watch in state.watches.items()}
    assert parts == {"1": reference_part(1, 2), "2": reference_part(2, 2)}
    again = judge.load(0, whole_parts(judge, state))
    assert {version: watch.part for (_, version, _), watch in again.watches.items()} == parts
    limits = [Watch(reference(), BOUNDS, part=part).streams[0].null.limits[0] for part in (1.0, 0.1, 0.01)]
    assert limits == sorted(limits)


def test_a_snapshot_of_a_budget_for_each_model_opens() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    run(judge, state, stream(3))
    kept = msgspec.msgpack.decode(whole_parts(judge, state)[WHOLE].removeprefix(b"judge/2\n"))
    del kept["since"], kept["ranks"]
    old = judge.load(0, {WHOLE: b"judge/2\n" + msgspec.msgpack.encode(kept)})
    assert (old.since, old.ranks) == ({"m": ALWAYS}, {("m", "1"): 1})


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match="weights"):
        JudgeBounds(weights={"a": -1.0})
    with pytest.raises(ValueError, match="weights"):
        JudgeBounds(weights={"a": float("inf")})
