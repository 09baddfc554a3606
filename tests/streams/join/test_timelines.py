"""What the join says, rule by rule: each timeline holds messages in order, then the revisions and classes expected."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from streams.join.partition import partition_of
from tests.streams.join.timeline import BOUNDS, Player, Row, T, clock, frozen, l, p, policy, s, said, thawed

NEGATIVE = policy(on_timeout="negative")
EARLY = policy(on_timeout="negative", provisional_after_ms=200, p_fake_negative=0.25)
CLICKS = policy(
    on_timeout="negative",
    attribution=[
        {"signal": "click", "label": 1, "within_ms": 500},
        {"signal": "dwell", "label": 0, "weight": 0.5, "compare": "lt", "value": 2000},
    ],
)


NAMES = policy(
    labels=[
        {
            "name": "refund",
            "horizon_ms": 2900,
            "on_timeout": "negative",
            "negative_label": "kept",
            "attribution": [{"signal": "send_back", "label": 1}],
        }
    ],
)


RANKED = p(0, items=[{"item": "a", "score": 0.9, "position": 0, "propensity": 0.5}, {"item": "b", "position": 1}])


@dataclass(frozen=True)
class Timeline:
    """Rows, then the revisions said and the classes at the end; `dead` holds the reasons of dead letters."""

    name: str
    rows: list[Row]
    said: list[str]
    classes: str
    dead: tuple[str, ...] = ()


END = clock(100_000)

# fmt: off
TIMELINES = [
    # Order.
    Timeline("label_after", [p(0), l(50)], ["50: m #1 final explicit 1 @50"], "predictions.final=1 labels.joined=1"),
    Timeline("label_before", [l(-50), p(0)], ["0: m #1 final explicit 1 @-50"], "predictions.final=1 labels.joined=1"),
    Timeline("label_waits_just_long_enough", [l(-300), p(0)], ["0: m #1 final explicit 1 @-300"],
             "predictions.final=1 labels.joined=1"),
    Timeline("label_came_too_early", [policy(), l(-301), p(0), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("too_late",)),
    Timeline("label_true_long_before", [policy(), p(0), l(50, at=-5001), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("outside_horizon",)),
    # Silence.
    Timeline("nothing_by_default", [policy(), p(0), clock(1099), clock(1100)], [], "predictions.unlabelled=1"),
    Timeline("open_before_the_deadline", [policy(), p(0), clock(1099)], [], "predictions.open=1"),
    Timeline("negative_at_the_deadline", [NEGATIVE, p(0), clock(1099), clock(1100)],
             ["1100: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("other_negative_label", [policy(on_timeout="negative", negative_label="none"), p(0), clock(1100)],
             ['1100: m #1 final timeout "none"'], "predictions.final=1"),
    # Provisional negatives.
    Timeline("early_negative_confirmed", [EARLY, p(0), clock(199), clock(200), clock(1100)],
             ["200: m #1 provisional timeout 0 ~0.25"], "predictions.final=1"),
    Timeline("early_negative_is_provisional", [EARLY, p(0), clock(200)],
             ["200: m #1 provisional timeout 0 ~0.25"], "predictions.provisional=1"),
    Timeline("early_negative_corrected", [EARLY, p(0), clock(200), l(700)],
             ["200: m #1 provisional timeout 0 ~0.25", "700: m #2 final explicit 1 @700"],
             "predictions.final=1 labels.joined=1"),
    Timeline("early_and_final_in_one_jump", [EARLY, p(0), clock(5000)], ["5000: m #1 final timeout 0"],
             "predictions.final=1"),
    # Late labels.
    Timeline("late_label_corrects_a_negative", [NEGATIVE, p(0), clock(1100), l(1500, at=900)],
             ["1100: m #1 final timeout 0", "1500: m #2 final explicit 1 @900"],
             "predictions.final=1 labels.joined=1"),
    Timeline("late_label_at_the_reach", [NEGATIVE, p(0), clock(1100), l(1600, at=1000)],
             ["1100: m #1 final timeout 0", "1600: m #2 final explicit 1 @1000"],
             "predictions.final=1 labels.joined=1"),
    Timeline("late_label_beyond_the_reach", [NEGATIVE, p(0), clock(1100), l(1601, at=1000), END],
             ["1100: m #1 final timeout 0"], "predictions.final=1 labels.dead=1", ("too_late",)),
    Timeline("recall_lengthens_the_reach",
             [policy(on_timeout="negative", recall_ms=9000), p(0), clock(1100), l(9000, at=1000), END],
             ["1100: m #1 final timeout 0", "9000: m #2 final explicit 1 @1000"],
             "predictions.final=1 labels.joined=1"),
    Timeline("true_after_the_horizon", [NEGATIVE, p(0), l(1050, at=1001), END], ["100000: m #1 final timeout 0"],
             "predictions.final=1 labels.dead=1", ("outside_horizon",)),
    Timeline("label_for_nobody", [l(0), clock(349), END], [], "labels.dead=1", ("orphan",)),
    Timeline("label_for_nobody_waits", [l(0), clock(349)], [], "labels.parked=1"),
    Timeline("label_of_another_model", [policy(), p(0), l(50, model="other"), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("orphan",)),
    Timeline("label_of_another_name", [policy(), p(0), l(50, name="fraud"), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("unknown_name",)),
    # Duplicates.
    Timeline("same_prediction_again", [NEGATIVE, p(0), p(10), p(20), clock(1100)], ["1100: m #1 final timeout 0"],
             "predictions.final=1 predictions.duplicate=2"),
    Timeline("same_label_again", [policy(), p(0), l(50), l(60, at=50)], ["50: m #1 final explicit 1 @50"],
             "predictions.final=1 labels.joined=1 labels.duplicate=1"),
    Timeline("same_event_id_lesser_content", [policy(), p(0), l(50, 1, event_id="e"), l(60, 2, at=40, event_id="e")],
             ["50: m #1 final explicit 1 @50", "60: m #2 final explicit 2 @40"],
             "predictions.final=1 labels.joined=1 labels.duplicate=1"),
    Timeline("same_event_id_greater_content", [policy(), p(0), l(50, 1, event_id="e"), l(60, 2, event_id="e")],
             ["50: m #1 final explicit 1 @50"], "predictions.final=1 labels.joined=1 labels.duplicate=1"),
    # Conflicts.
    Timeline("later_prediction_conflicts", [NEGATIVE, p(0, version="1"), p(5, at=3, version="2"), clock(1100)],
             ["1100: m #1 final timeout 0"], "predictions.final=1 predictions.conflict=1"),
    Timeline("earlier_prediction_takes_over",
             [NEGATIVE, p(0, at=3, version="2"), l(4), p(5, version="1")],
             ["4: m #1 final explicit 1 @4", "5: m #2 final explicit 1 @4"],
             "predictions.final=1 predictions.conflict=1 labels.joined=1"),
    Timeline("conflict_sent_twice", [policy(), p(0), p(5, at=3), p(6, at=3)], [],
             "predictions.open=1 predictions.duplicate=1 predictions.conflict=1"),
    Timeline("takes_over_unsaid", [policy(), p(0, at=3), p(5)], [], "predictions.open=1 predictions.conflict=1"),
    # Corrections and retractions.
    Timeline("same_source_corrects", [policy(), p(0), l(50, 0), l(60, 1)],
             ["50: m #1 final explicit 0 @50", "60: m #2 final explicit 1 @60"],
             "predictions.final=1 labels.joined=2"),
    Timeline("older_statement_changes_nothing", [policy(), p(0), l(60, 1), l(70, 0, at=50)],
             ["60: m #1 final explicit 1 @60"], "predictions.final=1 labels.joined=2"),
    Timeline("confirmation_is_no_revision", [policy(), p(0), l(50, 1), l(60, 1.0)], ["50: m #1 final explicit 1 @50"],
             "predictions.final=1 labels.joined=2"),
    Timeline("true_is_not_one", [policy(), p(0), l(50, 1), l(60, True)],
             ["50: m #1 final explicit 1 @50", "60: m #2 final explicit true @60"],
             "predictions.final=1 labels.joined=2"),
    Timeline("other_weight_is_a_revision", [policy(), p(0), l(50, 1), l(60, 1, confidence=0.5)],
             ["50: m #1 final explicit 1 @50", "60: m #2 final explicit 1 x0.5 @60"],
             "predictions.final=1 labels.joined=2"),
    Timeline("precedence_of_sources",
             [policy(precedence=["human", "rule"]), p(0), l(10, "c", source="x"), l(20, "b", source="rule"),
              l(30, "a", at=15, source="human"), l(40, "d", source="y")],
             ['10: m #1 final explicit "c" @10', '20: m #2 final explicit "b" @20', '30: m #3 final explicit "a" @15'],
             "predictions.final=1 labels.joined=4"),
    Timeline("unlisted_sources_by_time", [policy(), p(0), l(20, "a", source="x"), l(30, "b", at=10, source="y")],
             ['20: m #1 final explicit "a" @20'], "predictions.final=1 labels.joined=2"),
    Timeline("retraction_leaves_silence", [policy(), p(0), l(50), l(60, op="retract")],
             ["50: m #1 final explicit 1 @50", "60: m #2 void"], "predictions.open=1 labels.joined=2"),
    Timeline("void_after_the_deadline", [policy(), p(0), l(50), l(60, op="retract"), clock(1100)],
             ["50: m #1 final explicit 1 @50", "60: m #2 void"], "predictions.void=1 labels.joined=2"),
    Timeline("retraction_after_the_horizon", [policy(), p(0), l(50), l(1300, op="retract")],
             ["50: m #1 final explicit 1 @50", "1300: m #2 void"], "predictions.void=1 labels.joined=2"),
    Timeline("retraction_leaves_a_negative", [NEGATIVE, p(0), l(50), clock(1200), l(1300, op="retract")],
             ["50: m #1 final explicit 1 @50", "1300: m #2 final timeout 0"], "predictions.final=1 labels.joined=2"),
    Timeline("retraction_concerns_its_own_source",
             [policy(), p(0), l(50, "a", source="x"), l(60, "b", source="y"), l(70, op="retract", source="y")],
             ['50: m #1 final explicit "a" @50', '60: m #2 final explicit "b" @60', '70: m #3 final explicit "a" @50'],
             "predictions.final=1 labels.joined=3"),
    Timeline("retraction_first", [policy(), p(0), l(50, op="retract", at=70), l(60)], [],
             "predictions.open=1 labels.joined=2"),
    # Signals.
    Timeline("click_is_positive", [CLICKS, p(0), s(50)], ["50: m #1 provisional implicit 1 @50"],
             "predictions.provisional=1 signals.joined=1"),
    Timeline("click_becomes_final_silently", [CLICKS, p(0), s(50), clock(1100)],
             ["50: m #1 provisional implicit 1 @50"], "predictions.final=1 signals.joined=1"),
    Timeline("first_click_dates_it", [CLICKS, p(0), s(80), s(90, at=70)], ["80: m #1 provisional implicit 1 @80"],
             "predictions.provisional=1 signals.joined=2"),
    Timeline("click_beyond_its_window", [CLICKS, p(0), s(501), clock(1100)], ["1100: m #1 final timeout 0"],
             "predictions.final=1 signals.joined=1"),
    Timeline("short_dwell_is_half_a_negative", [CLICKS, p(0), s(50, "dwell", value=150), s(60, "dwell", value=9000)],
             ["50: m #1 provisional implicit 0 x0.5 @50"], "predictions.provisional=1 signals.joined=2"),
    Timeline("dwell_without_value_compares_with_nothing", [CLICKS, p(0), s(50, "dwell"), clock(1100)],
             ["1100: m #1 final timeout 0"], "predictions.final=1 signals.joined=1"),
    Timeline("first_rule_wins", [CLICKS, p(0), s(50, "dwell", value=150), s(60)],
             ["50: m #1 provisional implicit 0 x0.5 @50", "60: m #2 provisional implicit 1 @60"],
             "predictions.provisional=1 signals.joined=2"),
    Timeline("label_beats_signal", [CLICKS, p(0), s(50), l(60, 0), s(70, "dwell", value=1)],
             ["50: m #1 provisional implicit 1 @50", "60: m #2 final explicit 0 @60"],
             "predictions.final=1 labels.joined=1 signals.joined=2"),
    Timeline("signal_before_its_prediction", [CLICKS, s(-20), p(0)], ["0: m #1 provisional implicit 1 @-20"],
             "predictions.provisional=1 signals.joined=1"),
    Timeline("signal_for_nobody", [s(0), END], [], "signals.dead=1", ("orphan",)),
    Timeline("signal_after_the_horizon", [policy(), p(0), s(1001), END], [],
             "predictions.unlabelled=1 signals.dead=1", ("outside_horizon",)),
    # Exposure.
    Timeline("never_shown_teaches_nothing", [policy(on_timeout="negative", exposure="impression"), p(0), clock(1100)],
             [], "predictions.unlabelled=1"),
    Timeline("shown_and_silent", [policy(on_timeout="negative", exposure="impression"), p(0), s(9, "impression"),
             clock(1100)], ["1100: m #1 final timeout 0"], "predictions.final=1 signals.joined=1"),
    Timeline("shown_after_the_deadline_was_reached",
             [policy(on_timeout="negative", exposure="impression"), p(0), clock(1100), s(1200, "impression", at=900)],
             ["1200: m #1 final timeout 0"], "predictions.final=1 signals.joined=1"),
    # Several models on one request.
    Timeline("a_label_concerns_all", [p(0), p(1, model="a", role="shadow"), l(50)],
             ["50: a #1 final explicit 1 @50", "50: m #1 final explicit 1 @50"],
             "predictions.final=2 labels.joined=1"),
    Timeline("a_label_names_its_model", [p(0), p(1, model="a", role="shadow"), l(50, model="a")],
             ["50: a #1 final explicit 1 @50"], "predictions.open=1 predictions.final=1 labels.joined=1"),
    Timeline("deployments_are_identities", [p(0, deployment="x"), p(0, deployment="w"), l(50)],
             ["50: m/w #1 final explicit 1 @50", "50: m/x #1 final explicit 1 @50"],
             "predictions.final=2 labels.joined=1"),
    Timeline("a_shadow_may_share_the_event_id", [p(0, event_id="e"), p(0, model="a", event_id="e")], [],
             "predictions.open=2"),
    Timeline("a_second_model_meets_waiting_labels", [policy(), p(0), l(50), p(60, at=60, model="a")],
             ["50: m #1 final explicit 1 @50", "60: a #1 final explicit 1 @50"],
             "predictions.final=2 labels.joined=1"),
    # Policies.
    Timeline("policy_by_event_time",
             [NEGATIVE, policy(effective=10, on_timeout="negative", negative_label=-1, version=2),
              p(0, model="m", at=9), clock(1109)],
             ["1109: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("new_policy_from_its_moment",
             [NEGATIVE, policy(effective=10, on_timeout="negative", negative_label=-1, version=2), p(10, at=10),
              clock(1110)],
             ["1110: m #1 final timeout -1"], "predictions.final=1"),
    Timeline("policy_arrives_after_the_prediction", [p(0), clock(1100), policy(clock=1200, on_timeout="negative")],
             ["1200: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("policy_moves_a_label_back",
             [p(0), l(50), policy(clock=60, label_name="fraud")],
             ["50: m #1 final explicit 1 @50", "60: m #2 void"], "predictions.open=1 labels.parked=1"),
    Timeline("same_version_again_changes_nothing",
             [NEGATIVE, policy(on_timeout="negative", negative_label=-1), p(0), clock(1100)],
             ["1100: m #1 final timeout 0"], "predictions.final=1"),
    # A share of the negatives.
    Timeline("left_out_of_the_sample", [policy(on_timeout="negative", negative_sample=0.5), p(0), clock(1100)], [],
             "predictions.unlabelled=1"),
    Timeline("in_the_sample", [policy(on_timeout="negative", negative_sample=0.9), p(0), clock(1100)],
             ["1100: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("whatever_is_said_is_not_sampled", [policy(on_timeout="negative", negative_sample=0.5), p(0),
             l(50, 0), l(60, op="retract"), clock(1100)],
             ["50: m #1 final explicit 0 @50", "60: m #2 void"], "predictions.void=1 labels.joined=2"),
    # Several label names.
    Timeline("each_name_has_its_own_outcome", [NAMES, p(0), l(50), l(60, 0, name="refund"), l(70, 1, name="refund")],
             ["50: m #1 final explicit 1 @50", "60: m refund #1 final explicit 0 @60",
              "70: m refund #2 final explicit 1 @70"], "predictions.final=1 labels.joined=3"),
    Timeline("each_name_has_its_own_silence", [NAMES, p(0), clock(1100), clock(3000)],
             ['3000: m refund #1 final timeout "kept"'], "predictions.unlabelled=1"),
    Timeline("each_name_has_its_own_horizon", [NAMES, p(0), l(2000, at=1500), l(2001, at=1500, name="refund"), END],
             ["2001: m refund #1 final explicit 1 @1500"],
             "predictions.unlabelled=1 labels.joined=1 labels.dead=1", ("outside_horizon",)),
    Timeline("the_first_name_decides_the_class", [NAMES, p(0), l(50, name="refund"), clock(1100)],
             ["50: m refund #1 final explicit 1 @50"], "predictions.unlabelled=1 labels.joined=1"),
    Timeline("signals_count_for_every_name", [NAMES, p(0), s(50, "click"), s(60, "send_back")],
             ["60: m refund #1 provisional implicit 1 @60"], "predictions.open=1 signals.joined=2"),
    Timeline("a_name_nobody_asked_for", [NAMES, p(0), l(50, name="stars"), END],
             ['100000: m refund #1 final timeout "kept"'], "predictions.unlabelled=1 labels.dead=1", ("unknown_name",)),
    Timeline("a_name_that_is_gone_is_taken_back",
             [p(0), l(50), policy(clock=60, label_name="refund", labels=[{"name": "stars"}]), l(70, 5, name="stars"),
              policy(clock=80, effective=-80_000)],
             ["50: m #1 final explicit 1 @50", "60: m #2 void", "70: m stars #1 final explicit 5 @70",
              "80: m #3 final explicit 1 @50", "80: m stars #2 void"],
             "predictions.final=1 labels.parked=1 labels.joined=1"),
    # Rankings and several outputs.
    Timeline("each_item_has_its_own_outcome", [NEGATIVE, RANKED, l(50, item="b"), clock(1100)],
             ["50: m [b] #1 final explicit 1 @50", "1100: m [a] #1 final timeout 0"],
             "predictions.final=1 labels.joined=1"),
    Timeline("silence_says_nothing_of_a_ranking_as_a_whole", [NEGATIVE, p(0, items=[]), clock(1100)], [],
             "predictions.unlabelled=1"),
    Timeline("a_ranking_is_judged_as_a_whole_too", [policy(), RANKED, l(50, "good")],
             ['50: m #1 final explicit "good" @50'], "predictions.final=1 labels.joined=1"),
    Timeline("clicks_count_for_their_item", [CLICKS, RANKED, s(50, item="a"), clock(1100)],
             ["50: m [a] #1 provisional implicit 1 @50", "1100: m [b] #1 final timeout 0"],
             "predictions.final=1 signals.joined=1"),
    Timeline("shown_by_item_or_as_a_whole",
             [policy(on_timeout="negative", exposure="seen"), RANKED, s(9, "seen", item="b"), clock(1100),
              s(1200, "seen", at=900)],
             ["1100: m [b] #1 final timeout 0", "1200: m [a] #1 final timeout 0"],
             "predictions.final=1 signals.joined=2"),
    Timeline("provisional_while_one_item_is", [EARLY, RANKED, l(50, item="b"), clock(200)],
             ["50: m [b] #1 final explicit 1 @50", "200: m [a] #1 provisional timeout 0 ~0.25"],
             "predictions.provisional=1 labels.joined=1"),
    Timeline("item_that_was_not_ranked", [policy(), RANKED, l(50, item="z"), s(51, item="z"), END], [],
             "predictions.unlabelled=1 labels.dead=1 signals.dead=1", ("unknown_item", "unknown_item")),
    Timeline("item_of_a_prediction_that_is_no_ranking", [policy(), p(0), l(50, item="a"), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("unknown_item",)),
    Timeline("item_of_another_name", [policy(), RANKED, l(50, item="a", name="x"), END], [],
             "predictions.unlabelled=1 labels.dead=1", ("unknown_name",)),
    Timeline("item_that_is_gone_is_taken_back",
             [policy(), p(0, at=3, items=[{"item": "a"}, {"item": "c"}]), l(4, item="c"), RANKED],
             ["4: m [c] #1 final explicit 1 @4", "4: m [c] #2 void"],
             "predictions.open=1 predictions.conflict=1 labels.parked=1"),
    # Bad clocks, poison.
    Timeline("clock_a_year_ahead", [p(0, at=31_536_000_000), l(0, at=31_536_000_000)], [],
             "predictions.quarantined=1 labels.quarantined=1", ("clock_skew", "clock_skew")),
    Timeline("prediction_from_the_past", [p(0, at=-5001)], [], "predictions.quarantined=1", ("clock_skew",)),
    Timeline("prediction_too_late_for_its_policy", [policy(), p(1601)], [], "predictions.dead=1", ("too_late",)),
    Timeline("poison_between_good_ones", [p(0), Row(1, "l", b"{"), Row(2, "l", b'{"request_id": 5}'), l(50)],
             ["50: m #1 final explicit 1 @50"], "predictions.final=1 labels.joined=1 labels.dead=2",
             ("not_json", "bad_event")),
    Timeline("key_differs_from_body", [p(0), replace(l(50), key=b"other"), replace(l(60, at=60), key=None)],
             ["50: m #1 final explicit 1 @50"], "predictions.final=1 labels.joined=2 keys.differ=2"),
    # Freezes.
    Timeline("no_negative_while_frozen", [NEGATIVE, p(0), frozen(1000), clock(1100), clock(9000)], [],
             "predictions.open=1"),
    Timeline("negative_after_the_thaw", [NEGATIVE, p(0), frozen(1000), clock(1100), thawed(1500)],
             ["1500: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("frozen_from_the_clock_of_the_step_before", [NEGATIVE, p(0), frozen(1100), thawed(1200)],
             ["1200: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("labels_are_joined_while_frozen", [EARLY, p(0), clock(100), frozen(150), clock(1200), l(1250, at=900)],
             ["1250: m #1 final explicit 1 @900"], "predictions.final=1 labels.joined=1"),
    Timeline("silence_is_no_answer_while_frozen",
             [NEGATIVE, p(0), l(50), frozen(1000), l(1200, op="retract"), thawed(1300)],
             ["50: m #1 final explicit 1 @50", "1200: m #2 void", "1300: m #3 final timeout 0"],
             "predictions.final=1 labels.joined=2"),
    Timeline("every_frozen_source_has_to_thaw",
             [NEGATIVE, p(0), frozen(1000), frozen(1050, "shop"), thawed(1150), clock(9000)], [],
             "predictions.open=1"),
    Timeline("a_second_freeze_moves_nothing",
             [NEGATIVE, p(0), frozen(1000), frozen(1050), clock(1200), thawed(1250)],
             ["1250: m #1 final timeout 0"], "predictions.final=1"),
    Timeline("state_waits_for_the_thaw", [NEGATIVE, p(0), clock(1100), frozen(1200), clock(9000), l(9001, at=5),
             thawed(9002), clock(9351)],
             ["1100: m #1 final timeout 0"], "predictions.final=1 labels.dead=1", ("orphan",)),
    # The end of state.
    Timeline("reused_id_starts_anew", [policy(), p(0), l(50), clock(1651), p(3000, at=3000), l(3050)],
             ["50: m #1 final explicit 1 @50", "3050: m #1 final explicit 1 @3050"],
             "predictions.final=2 labels.joined=2"),
]
# fmt: on


@pytest.mark.parametrize("timeline", TIMELINES, ids=lambda timeline: timeline.name)
def test_timeline(timeline: Timeline) -> None:
    player = Player()
    player.play(*timeline.rows)
    assert [said(event) for event in player.feedback] == timeline.said
    assert player.classes == timeline.classes
    assert tuple(letter.reason for letter in player.letters) == timeline.dead
    _check_was(player)


@pytest.mark.parametrize("timeline", TIMELINES, ids=lambda timeline: timeline.name)
def test_evidence_that_is_kept_gives_the_same(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    # Requests with many events keep what their events amount to; here all do.
    monkeypatch.setattr("streams.join.state.MANY", 0)
    test_timeline(timeline)


@pytest.mark.parametrize("timeline", TIMELINES, ids=lambda timeline: timeline.name)
def test_nothing_stays_after_the_end(timeline: Timeline) -> None:
    player = Player()
    player.play(*timeline.rows, thawed(10**9), thawed(10**9, "shop"), clock(10**10))
    assert not player.state.join.requests
    assert player.wake_at_ms is None
    assert not player.state.join.timers
    assert not {"predictions.open", "predictions.provisional", "labels.parked", "signals.parked"} & {
        name for name, n in player.counters.items() if n
    }


def _check_was(player: Player) -> None:
    last: dict[tuple[str | None, ...], object] = {}
    for event in player.feedback:
        was = event.was
        before = last.get((event.model, event.deployment, event.name, event.item)) if event.revision > 1 else None
        assert before == (was and (was.status, was.label, was.label_kind, was.weight))
        last[event.model, event.deployment, event.name, event.item] = (
            event.status,
            event.label,
            event.label_kind,
            event.weight,
        )


def test_records_of_a_step_precede_its_clock() -> None:
    player = Player()
    player.play(NEGATIVE)
    player.step([p(0), l(700), l(1200, 0, at=900)], clock=1200)
    assert [said(event) for event in player.feedback] == [
        "1200: m #1 final explicit 1 @700",
        "1200: m #2 final explicit 0 @900",
    ]


def test_clock_never_goes_back() -> None:
    player = Player()
    player.play(NEGATIVE, p(0), clock(1100), l(500))
    assert player.feedback[-1].joined_at_ms == T + 1100


def test_takeover_carries_the_prediction_that_stood() -> None:
    player = Player()
    player.play(p(0, at=3, version="2", score=0.9, slices={"eu": True}), l(4), p(5, version="1", score=0.1))
    was = player.feedback[-1].was
    assert was is not None
    assert (was.predicted_at_ms, was.version, was.score, was.slices) == (T + 3, "2", 0.9, {"eu": True})
    assert (player.feedback[-1].version, player.feedback[-1].predicted_at_ms) == ("1", T)


def test_other_content_of_the_standing_event_is_a_revision() -> None:
    player = Player()
    player.play(p(0, event_id="e", score=0.9), l(4), p(5, event_id="e", score=0.1))
    assert [event.score for event in player.feedback] == [0.9, 0.1]
    assert player.feedback[1].was is not None
    assert player.feedback[1].was.score == 0.9


def test_features_are_carried_when_asked() -> None:
    player = Player()
    player.play(policy(carry="features"), p(0, features={"a": 1.5}), l(5))
    assert player.feedback[0].features == {"a": 1.5}
    assert player.feedback[0].policy == "default@1"


def test_feedback_carries_the_score_position_and_propensity_of_its_item() -> None:
    player = Player()
    player.play(NEGATIVE, RANKED, l(50, item="a"), clock(1100))
    assert [(event.item, event.score, event.position, event.propensity) for event in player.feedback] == [
        ("a", 0.9, 0, 0.5),
        ("b", None, 1, None),
    ]


def test_a_takeover_shows_the_items_score_before() -> None:
    player = Player()
    player.play(policy(), p(0, at=3, items=[{"item": "a", "score": 0.1}]), l(4, item="a"), RANKED)
    last = player.feedback[-1]
    assert last.was is not None
    assert (last.score, last.was.score, last.was.predicted_at_ms) == (0.9, 0.1, T + 3)


def test_feedback_carries_the_score_of_the_output_that_the_label_names() -> None:
    player = Player()
    player.play(NAMES, p(0, score=0.5, outputs={"refund": 0.125, "label": 0.75}), l(5), l(6, name="refund"))
    player.play(p(10, request_id="q", score=0.5, outputs={"x": 1}), l(15, request_id="q"))
    assert [event.score for event in player.feedback] == [0.75, 0.125, 0.5]


def test_feedback_of_a_sample_carries_its_correction() -> None:
    player = Player()
    rule = {"name": "all", "on_timeout": "negative"}
    player.play(policy(on_timeout="negative", negative_sample=0.25, labels=[rule]), p(0), l(50), l(60, name="all"))
    assert [event.log_odds_correction for event in player.feedback] == [math.log(0.25), None]
    assert [event.weight for event in player.feedback] == [1.0, 1.0]


def test_policy_must_be_a_minute_ahead() -> None:
    player = Player(replace(BOUNDS, virtual=False))
    player.play(policy(clock=0, effective=59_999), policy(clock=0, effective=60_000, version=2))
    assert [letter.reason for letter in player.letters] == ["policy_too_late"]
    assert (player.counters["control.applied"], player.counters["control.dead"]) == (1, 1)


def test_a_forwarded_record_keeps_its_time_and_hops_once() -> None:
    partitions = 4
    home = partition_of(b"r", partitions)
    here = (home + 1) % partitions
    bounds = replace(BOUNDS, partitions=partitions)
    away = Player(bounds)
    away.state.join.partition = here
    row = replace(l(50), key=b"x", headers=(("trace", b"t"),))
    (sent,) = away.play(row)
    assert (sent.topic, sent.key, sent.partition) == ("labels", b"r", home)
    assert sent.headers == (
        ("trace", b"t"),
        ("weir-append-ms", b"%d" % (T + 50)),
        ("weir-hop", b"labels/%d/0" % here),
    )
    assert away.classes == "labels.forwarded=1 keys.differ=1"
    (letter,) = away.play(replace(row, headers=sent.headers))
    assert letter.topic == "dead-letters"
    assert away.letters[0].reason == "misrouted_twice"

    arrived = Player(bounds)
    arrived.state.join.partition = home
    arrived.play(policy(), p(0), Row(1640, "l", sent.value, b"r", sent.headers))
    assert [said(event) for event in arrived.feedback] == ["1640: m #1 final explicit 1 @50"]


def test_a_thousand_copies_are_one_event() -> None:
    player = Player()
    player.step([p(0)] * 1000 + [l(5)] * 1000 + [s(5)] * 1000, clock=10)
    assert player.classes == (
        "predictions.final=1 predictions.duplicate=999 labels.joined=1 labels.duplicate=999 "
        "signals.joined=1 signals.duplicate=999"
    )
    assert len(player.feedback) == 1


def test_one_id_for_all_is_not_slower_per_event() -> None:
    player = Player()
    player.play(CLICKS, p(0))
    player.step([s(10, at=n % 900, value=float(n)) for n in range(5000)], clock=20)
    player.step([l(30, n % 2, at=n % 900, event_id=str(n)) for n in range(5000)], clock=40)
    evidence = player.state.join.requests["r"].cases[0].tracks[0].evidence
    assert evidence is not None
    assert evidence.first_ms == [T, None]
    assert list(evidence.voices) == [""]
    assert said(player.feedback[-1]) == f"40: m #{len(player.feedback)} final explicit 1 @899"
