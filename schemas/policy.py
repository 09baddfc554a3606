"""How one model's outcomes are resolved: windows, silence, sources, signals.

A policy is versioned and travels through `control`. The version in force at a prediction's `at_ms` resolves that
prediction, for ever. The default policy waits an hour for a label and then says nothing (`unlabelled`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import replace

from schemas.event import DurationMs, Event, LabelValue, Name, Share, TimeMs

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

Comparison = Literal["any", "lt", "le", "gt", "ge", "eq"]
Silence = Literal["negative", "unlabelled"]
Meaning = Literal["quality", "value"]

Rate = Annotated[float, Meta(gt=0.0, le=1.0)]

_SILENCE = ("negative_label", "negative_sample", "provisional_after_ms", "p_fake_negative", "exposure")


class Attribution(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A rule from a signal to a label: `click within 30 min` gives 1; `dwell < 2 s` gives 0 with weight 0.5.

    The rule matches when at least one counted signal of this name lies within `within_ms` of the prediction (at most
    the horizon) and its value compares as asked. Rules are tried in order; the first that matches speaks.
    `compare` is `any` (then no `value`), or `lt`, `le`, `gt`, `ge` or `eq`, with the number `value`.
    """

    signal: Name
    label: LabelValue
    weight: Share = 1.0
    within_ms: DurationMs | None = None
    compare: Comparison = "any"
    value: float | None = None

    def __post_init__(self) -> None:
        if (self.compare == "any") != (self.value is None):
            raise ValueError("`compare` and `value` go together: `compare`: `lt`, `value`: 2000, or neither")


class LabelRule(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Another label name of the model's predictions, with its own outcome: `refunded` beside `clicked`.

    What is absent is the policy's: `horizon_ms`, `lateness_ms`, `precedence`, and silence as a whole: with `on_timeout`
    the fields `negative_label`, `negative_sample`, `provisional_after_ms`, `p_fake_negative` and `exposure` are the
    rule's own, or at their defaults; without it they may not be given. `attribution` is always its own.

    `metrics` says what the labels are: `quality`, what a prediction is held against, or `value`, amounts that came of
    it (revenue, seconds), of which the sum and the mean are told.
    """

    name: Name
    horizon_ms: DurationMs | None = None
    lateness_ms: DurationMs | None = None
    on_timeout: Silence | None = None
    negative_label: LabelValue | None = None
    negative_sample: Rate | None = None
    provisional_after_ms: DurationMs | None = None
    p_fake_negative: Share | None = None
    exposure: str | None = None
    precedence: list[str] | None = None
    attribution: list[Attribution] = []
    metrics: Meaning = "quality"

    def __post_init__(self) -> None:
        alone = [name for name in _SILENCE if getattr(self, name) is not None]
        if self.on_timeout is None and alone:
            raise ValueError(f"`{alone[0]}` of label `{self.name}` needs `on_timeout` beside it")


class JoinPolicy(Event, frozen=True, kw_only=True, omit_defaults=True):
    """How the outcomes of `model` are resolved, from predictions with `at_ms` ≥ `effective_from_ms` on.

    - `label_name`: the name of the labels that the metrics are about; `labels` names others that may come, each with
      an outcome of its own.
    - `horizon_ms`: a label whose `at_ms` is later than the prediction's by more than this does not count.
    - `lateness_ms`: how long after the horizon we still wait for it to reach us. Then silence is an answer.
    - `on_timeout`: `negative` (the outcome becomes `negative_label`) or `unlabelled` (no outcome).
    - `negative_sample`: the share of silence's negatives that is said at all; `feedback` carries the correction.
    - `provisional_after_ms`: an early negative, false with probability `p_fake_negative`, corrected later.
    - `recall_ms`: how long after the prediction a label may still reach us and revise (0: deadline + `retain_ms`).
    - `retain_ms`: how long hot state stays after the deadline.
    - `exposure`: a signal that must be there before silence may count as negative.
    - `precedence`: label sources, strongest first; sources not listed come after these, the latest first.
    - `carry`: `features` puts the prediction's features into `feedback`.
    """

    model: Name
    name: Name = "default"
    version: Annotated[int, Meta(ge=1)] = 1
    effective_from_ms: TimeMs = 0
    label_name: Name = "label"
    horizon_ms: DurationMs = HOUR_MS
    lateness_ms: DurationMs = 5 * MINUTE_MS
    on_timeout: Silence = "unlabelled"
    negative_label: LabelValue = 0
    negative_sample: Rate = 1.0
    provisional_after_ms: DurationMs | None = None
    p_fake_negative: Share = 0.0
    recall_ms: DurationMs = 0
    retain_ms: DurationMs = DAY_MS
    exposure: str | None = None
    precedence: list[str] = []
    attribution: list[Attribution] = []
    carry: Literal["none", "features"] = "none"
    labels: list[LabelRule] = []

    def __post_init__(self) -> None:
        if self.provisional_after_ms is not None and self.on_timeout != "negative":
            raise ValueError("`provisional_after_ms` is an early negative: it needs `on_timeout`: `negative`")
        if self.negative_sample < 1.0 and self.on_timeout != "negative":
            raise ValueError("`negative_sample` is a share of silence's negatives: it needs `on_timeout`: `negative`")
        if self.provisional_after_ms is not None and self.provisional_after_ms > self.wait_ms:
            raise ValueError("`provisional_after_ms` must not be later than `horizon_ms` + `lateness_ms`")
        if 0 < self.recall_ms < self.longest_wait_ms:
            raise ValueError("`recall_ms` must not be shorter than `horizon_ms` + `lateness_ms`")
        names = [self.label_name, *(rule.name for rule in self.labels)]
        if len({*names}) < len(names):
            raise ValueError(f"`label_name` and the names in `labels` must differ, got {', '.join(names)}")
        if self.labels:
            _ = self.outcomes  # each is checked as it is made

    @property
    def wait_ms(self) -> int:
        """From a prediction's `at_ms` to its deadline."""
        return self.horizon_ms + self.lateness_ms

    @property
    def longest_wait_ms(self) -> int:
        """From a prediction's `at_ms` to the last deadline of its outcomes."""
        waits = (
            (self.horizon_ms if rule.horizon_ms is None else rule.horizon_ms)
            + (self.lateness_ms if rule.lateness_ms is None else rule.lateness_ms)
            for rule in self.labels
        )
        return max(self.wait_ms, *waits) if self.labels else self.wait_ms

    @property
    def reach_ms(self) -> int:
        """From a prediction's `at_ms` to the last Kafka timestamp with which a label may still revise it."""
        return self.recall_ms or self.longest_wait_ms + self.retain_ms

    @property
    def outcomes(self) -> tuple[JoinPolicy, ...]:
        """The policy of each outcome by itself, that of `label_name` first; all have one reach.

        >>> policy = JoinPolicy(model="m", on_timeout="negative", labels=[LabelRule(name="refund", horizon_ms=1)])
        >>> [(one.label_name, one.horizon_ms, one.on_timeout) for one in policy.outcomes]
        [('label', 3600000, 'negative'), ('refund', 1, 'negative')]
        """
        if not self.labels:
            return (self,)
        alone = replace(self, labels=[], recall_ms=self.reach_ms)
        return (alone, *(_of_rule(alone, rule) for rule in self.labels))

    @property
    def label(self) -> str:
        """`name@version`, as `feedback` names it."""
        return f"{self.name}@{self.version}"


def _of_rule(policy: JoinPolicy, rule: LabelRule) -> JoinPolicy:
    own: dict[str, Any] = {"label_name": rule.name, "attribution": rule.attribution}
    names = ["horizon_ms", "lateness_ms", "precedence", "on_timeout"]
    if rule.on_timeout is not None:
        own |= {name: getattr(_DEFAULT, name) for name in _SILENCE}
        names += _SILENCE
    own |= {name: getattr(rule, name) for name in names if getattr(rule, name) is not None}
    return replace(policy, **own)


_DEFAULT = JoinPolicy(model="default")
