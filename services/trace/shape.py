"""The object that `weir trace --json` prints. It only grows within one `v`; what is absent is at its default."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

VERSION = 1

Fate = Literal[
    "standing", "conflict", "duplicate", "joined", "parked", "forwarded", "quarantined", "dead", "unread", "replaced"
]


class Happened(Struct, kw_only=True, omit_defaults=True):
    """One record about the request, as Kafka has it. `fate` is its class (docs/join.md), `why` a sentence.

    `position` is `topic/partition/offset`; `append_ms` Kafka's timestamp, `original_ms` the one it had before it was
    forwarded; `forwarded_from` the position it came from. `says` is what it says, in short, `body` the whole.
    """

    position: str
    topic: str
    append_ms: int
    at_ms: int | None = None
    original_ms: int | None = None
    forwarded_from: str = ""
    fate: Fate
    why: str = ""
    says: str = ""
    event_id: str = ""
    key: str | None = None
    headers: dict[str, str] = {}
    body: Any = None


class Letter(Struct, kw_only=True, omit_defaults=True):
    """A dead letter about the request. `id` is what `weir dlq show` takes."""

    id: str
    reason: str
    detail: str
    stage: str
    at_ms: int


class Revision(Struct, kw_only=True, omit_defaults=True):
    """One feedback, and why it came. `cause` is the position of the event that speaks, where one does."""

    revision: int
    position: str
    status: str
    label: Any = None
    kind: str | None = None
    weight: float = 1.0
    p_fake_negative: float = 0.0
    log_odds_correction: float | None = None
    policy: str = ""
    joined_at_ms: int
    labelled_at_ms: int | None = None
    why: str = ""
    cause: str = ""


class Next(Struct, kw_only=True, omit_defaults=True):
    """What is still to come, and when by the join's clock."""

    at_ms: int
    what: str


class Told(Struct, kw_only=True, omit_defaults=True):
    """One outcome: its revisions, whether they hold together (`problems` is empty then), and what is pending."""

    name: str
    item: str | None = None
    state: str
    revisions: list[Revision] = []
    problems: list[str] = []
    pending: list[Next] = []


class PolicySaid(Struct, kw_only=True, omit_defaults=True):
    """The policy in force for a prediction; `set_at` is where it stands in `control`, empty for the default."""

    label: str
    effective_from_ms: int = 0
    set_at: str = ""
    set_ms: int | None = None
    fields: dict[str, Any] = {}


class Figure(Struct, kw_only=True, omit_defaults=True):
    """A metric by name and value. `estimator` is that of the judge; empty for one read from the pane's own ledger."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    estimator: str = ""
    from_ms: int | None = None
    to_ms: int | None = None


class Pane(Struct, kw_only=True, omit_defaults=True):
    """A pane that counts the request. `predictions` and `labelled` are all that it counts, this request included.

    `figures` are of the pane alone, as `measure` counted it; `judged` those of the closed window that ends with it (or
    the first after it), of `windows` that hold it.
    """

    model: str
    version: str
    deployment: str
    role: str
    slice: str = ""
    from_ms: int
    to_ms: int
    predictions: int = 0
    labelled: int = 0
    figures: list[Figure] = []
    judged: list[Figure] = []
    windows: int = 0


class Alarm(Struct, kw_only=True, omit_defaults=True):
    """An alarm of a detector on a window that holds one of the panes, an alert that was raised with it, or a review.

    A review's `id` is the decision's: an alarm, a figure or a gate that the prediction was in and whose ground was
    corrected since.
    """

    kind: Literal["drift", "alert", "review"]
    id: str
    at_ms: int
    says: str


class Taught(Struct, kw_only=True, omit_defaults=True):
    """A training run whose window holds the prediction, and whether the request is in its data set."""

    retrain_id: str
    version: str = ""
    included: bool | None = None
    why: str = ""
    at_ms: int = 0
    promoted: list[str] = []


class Answer(Struct, kw_only=True, omit_defaults=True):
    """One standing prediction with all that came of it."""

    model: str
    version: str
    deployment: str
    role: str
    at_ms: int
    score: Any = None
    prediction: Any = None
    subject: str = ""
    position: str
    conflicts: int = 0
    policy: PolicySaid
    deadline_ms: int
    reach_ms: int
    outcomes: list[Told] = []
    panes: list[Pane] = []
    alarms: list[Alarm] = []
    detectors: dict[str, int] = {}
    taught: list[Taught] = []


class TrialSaid(Struct, kw_only=True, omit_defaults=True):
    """A trial in a rollout or an experiment."""

    model: str
    layer: str
    arm: str
    subject: str
    value: float
    revision: int
    void: bool = False


class Clock(Struct, kw_only=True, omit_defaults=True):
    """How far the join had come in the request's partition, as landed: nothing later is in this story."""

    partition: int
    step: int | None = None
    clock_ms: int = 0
    held: bool = False


class Story(Struct, kw_only=True, omit_defaults=True):
    """Everything. `known` is false when nobody knows the request; `likely` then says why that may be."""

    v: int
    request_id: str
    namespace: str
    known: bool
    clock: Clock
    events: list[Happened] = []
    dead_letters: list[Letter] = []
    answers: list[Answer] = []
    trials: list[TrialSaid] = []
    notes: list[str] = []
    likely: list[str] = []
