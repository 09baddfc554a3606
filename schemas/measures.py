"""What is counted (`Measures`, `Trial`), judged (`Metric`, `Gate`) and found (`Drift`).

A ledger is a map from a vector's name to its sparse integer cells. All entries are integers that merge by addition and
retract by subtraction, so that any order and any split give the same bits. `streams.measure.ledger` says what each
vector means.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from schemas.event import Event, Name, Share, TimeMs
from schemas.inputs import Role
from schemas.verdict import Verdict

Cells = dict[str, list[int]]
"""Vector name → flat list [index, delta, index, delta, …], indices ascending, no zero deltas."""


class PaneDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Signed changes of one pane. `slice` is empty for the whole, else `dimension=value`; `pane_ms` is its start."""

    model: Name
    version: str
    deployment: str
    role: Role = "primary"
    slice: str = ""
    pane_ms: TimeMs
    pane_size_ms: int
    cells: Cells


class ArmDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one version of a model as it is deployed, for the outage guard, which sees all sources and models.

    `predictions` is a flat list [pane, count, …] by their event time, counts signed; `labels` has for each source a
    flat list [pane, bin, count, …] by the Kafka time of arrival and the age of the prediction
    (`streams.measure.ages`). A pane is told by its number: time // `pane_size_ms`.
    """

    model: Name
    version: str = ""
    deployment: str = ""
    pane_size_ms: int
    predictions: list[int] = []
    labels: dict[str, list[int]] = {}


class Measures(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The deltas of one step of one source partition, and that partition's clock.

    Every source partition writes one at least once a second to every partition of `measures`, if need be without panes:
    a silent source holds panes and alarms. `timers_ms` is the clock of the join's timers where a freeze holds it: what
    silence would say is not said beyond it. `arms` is told to partition 0 only. Delivery: exactly once, in step order
    per source.
    """

    source: int
    sources: int
    step: int
    clock_ms: TimeMs
    panes: list[PaneDelta] = []
    timers_ms: TimeMs | None = None
    arms: list[ArmDelta] = []


class Trial(Event, frozen=True, kw_only=True, omit_defaults=True):
    """One matured observation of a subject in an experiment layer or rollout, keyed by model.

    `value` lies in [0, 1] and higher is better (1 = correct). `layer` is a rollout's or an experiment's name; a layer
    that begins with `shadow:` holds pairs: the champion's and the challenger's trial share a `request_id`. `at_ms` is
    the prediction's time. A correction repeats the trial with a higher `revision`; `void` takes it back.
    """

    request_id: Name
    model: Name
    layer: Name
    arm: str
    subject: str
    at_ms: TimeMs
    value: float
    revision: int = 1
    void: bool = False
    source: int
    step: int


class Metric(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A figure with everything needed to believe it: interval, n, maturity, estimator.

    The window [`from_ms`, `to_ms`) is of the predictions' event time. `value` is null when it cannot be told (no
    positives, say). `n` counts labelled outcomes (predictions, where no label is needed), `subjects` the independent
    buckets behind the interval. `correction` is true when it replaces an earlier figure for the same window.

    `estimator` says where the value comes from: `realised` (labels), `projected` (labels so far, corrected for those
    that are still to come) or `estimated` (scores alone; `n` counts predictions). The last two are told as soon as the
    window's traffic has closed; `low` and `high` then hold the later realised figure with the probability `level`,
    made of how the forecasts before fared. `coverage` is the share of the `scored` intervals so far that held,
    `windows` how many independent windows these are worth, `slack` by how much, at most, the share of misses may exceed
    1 − `level` whatever happens (`streams.judge.conformal`).
    """

    id: str
    model: Name
    version: str
    deployment: str
    role: Role = "primary"
    slice: str = ""
    metric: Name
    estimator: str = "realised"
    from_ms: TimeMs
    to_ms: TimeMs
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    subjects: int = 0
    maturity: Share = 0.0
    closed: bool = False
    correction: bool = False
    at_ms: TimeMs
    level: Share = 0.95
    coverage: Share | None = None
    scored: int = 0
    windows: float = 0.0
    slack: float = 1.0


class Drift(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What a detector says about one stream of panes: `score`, `feature:NAME`, `quality:error` and so on.

    `alarmed` is the rise of an alarm (an edge, once). `distances` holds PSI, KS and their 95 % null quantiles;
    `evidence` the e-value as statistic and the alarm bound as threshold. `history` counts a traffic stream's alarms so
    far: `benign` (quality was shown to stay within what is allowed), `harmful` (shown not to) and `unknown`.

    The streams `placebo:…` and `injected:…` are controls (`streams.judge.controls`): the first says how often the
    machinery alarms where nothing can have changed, the second how often and how soon it finds a change put in.
    """

    id: str
    model: Name
    version: str
    deployment: str
    slice: str = ""
    stream: Name
    detector: Name
    from_ms: TimeMs
    to_ms: TimeMs
    reference: str
    distances: dict[str, float] = {}
    evidence: Verdict
    alarmed: bool = False
    history: dict[str, int] = {}
    at_ms: TimeMs


class Gate(Event, frozen=True, kw_only=True, omit_defaults=True):
    """How the challenger of a layer compares with its champion, valid at every look (`streams.judge.gates`).

    `effect` is the mean of challenger minus champion over `n` subjects (`champions` + `challengers`, or `n` pairs where
    `paired`), null without any. `low` holds with 1 − `alpha` and `high` with 1 − `alpha_rollback`, each by itself and
    at all looks together; both are null when the shares of the arms were never told. `bar` is what the effect is
    compared with: `e_above` is the evidence against "at most `bar`", conclusive at 1 / `alpha`; `e_below` that against
    "at least `bar`", conclusive at 1 / `alpha_rollback`. `maturity` is the share of the subjects seen that are counted.
    `burned` were left out: seen before the shares held, or with a trial in no arm of the layer.
    """

    id: str
    model: Name
    layer: Name
    paired: bool = False
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    alpha: float
    alpha_rollback: float
    bar: float = 0.0
    e_above: float = 1.0
    e_below: float = 1.0
    n: int = 0
    champions: int = 0
    challengers: int = 0
    burned: int = 0
    maturity: Share = 0.0
    sentence: str = ""
    at_ms: TimeMs


class Review(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A decision looked at again, because what it was decided on was corrected (`streams.judge.reviews`).

    `decision_id` is the id of the event of `topic` that was decided on: an alarm of `drift`, a figure of `metrics`
    that lay below its limit, a look of `gates` that concluded (`name` is the stream, the metric, the layer). `then` is
    what it said, `now` what the same evidence says as corrected; `value` is the figure in both: the error rate over the
    evidence's panes, the metric, the effect. `stands`: with what is known now it would have been decided alike.

    `revision` counts the reviews of this decision, `overturned` those that said it would not stand: the first of them
    alerts. Nothing is undone by a review.
    """

    id: str
    model: Name
    version: str = ""
    deployment: str = ""
    layer: str = ""
    topic: Literal["drift", "metrics", "gates"]
    decision_id: str
    name: Name
    decided_ms: TimeMs
    from_ms: TimeMs = 0
    to_ms: TimeMs = 0
    then: Verdict
    now: Verdict
    stands: bool
    revision: int = 1
    overturned: int = 0
    sentence: str = ""
    at_ms: TimeMs


ForecastState = Literal["learning", "small", "watched", "frozen"]


class ArmForecast(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many labels of a source one arm should have had in the window, at least (`bound`), and had (`seen`)."""

    model: Name
    version: str = ""
    deployment: str = ""
    state: ForecastState
    expected: float = 0.0
    bound: int = 0
    seen: int = 0


class Forecast(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What the outage guard thinks of a label source: one for each pane, over all partitions, models and arms.

    The figures are of the window of `window_ms` that ends at `at_ms`, summed over the arms that can be judged in it.
    `learning`: no arm has been learnt for long enough yet (`learnt_ms` of `warm_up_ms`). `small`: too few labels, or
    too irregular ones, to tell an outage from chance. `frozen`: since `since_ms`, by the guard or the person `by`.
    """

    id: str
    source: str
    state: ForecastState
    learnt_ms: int = 0
    warm_up_ms: int = 0
    window_ms: int = 0
    expected: float = 0.0
    bound: int = 0
    seen: int = 0
    since_ms: TimeMs = 0
    by: str = ""
    sentence: str = ""
    arms: list[ArmForecast] = []
    at_ms: TimeMs
