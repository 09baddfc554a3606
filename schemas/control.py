"""What reaches every partition in-band through `control`: a copy in each, read first in a step, never deleted."""

from __future__ import annotations

from msgspec import Struct

from schemas.event import Event, Name, Scalar, Share, TimeMs
from schemas.lifecycle import DecidePolicy
from schemas.policy import JoinPolicy
from schemas.verdict import Verdict


class EmbeddingReference(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The embeddings of a reference, and how they are counted: as random Fourier features (`streams.measure`).

    `dimension` is the vectors' length, `centre` and `bandwidth` place and scale them; `seed` and `frequencies` choose
    the features. `sums` holds the reference's sums of them (all cosines, then all sines), `rows` how many of its rows
    hold a vector, none, one of another length, one too far away. `spectrum` are the eigenvalues of the features'
    covariance, from which the law of MMD comes when nothing has changed.
    """

    dimension: int
    bandwidth: float
    centre: list[float]
    seed: int = 0
    frequencies: int
    sums: list[int]
    rows: list[int]
    spectrum: list[float] = []


class Reference(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The frozen distributions that a model version is compared with; learnt from its training set or first traffic.

    `edges` maps a numeric feature to its interior bin edges (ascending; a value equal to an edge goes right) and
    `categories` a categorical one to its known values; `counts` maps `feature:NAME` and `score` to reference counts in
    the order of the bins (numeric: the interior bins, then missing, below range, above range; categorical: the
    categories, then missing, then unseen). `calibration` counts labelled rows by score bin, in a flat list [bin,
    negatives, positives, …] without empty bins. `ranges` holds each numeric feature's least and greatest reference
    value. `n` is the number of reference rows, `error_rate` its hold-out error with `error_n` rows, `base_rate` the
    share of positives. `embedding` says what the predictions' `embedding` is compared with.
    """

    id: Name
    model: Name
    version: str
    learnt_from: str = "training"
    n: int
    edges: dict[str, list[float]] = {}
    ranges: dict[str, list[float]] = {}
    categories: dict[str, list[str]] = {}
    counts: dict[str, list[int]] = {}
    calibration: list[int] = []
    base_rate: float | None = None
    error_rate: float | None = None
    error_n: int = 0
    embedding: EmbeddingReference | None = None
    at_ms: TimeMs = 0


class PolicySet(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="policy_set"):
    """A join policy takes effect at its `effective_from_ms`, at least a minute after this record's append time."""

    policy: JoinPolicy
    at_ms: TimeMs = 0


class DecidePolicySet(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="decide_policy_set"):
    """What `decide` may do for a model from now on."""

    policy: DecidePolicy
    at_ms: TimeMs = 0


class ReferenceSet(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="reference_set"):
    """A model version's reference is frozen."""

    reference: Reference
    at_ms: TimeMs = 0


class ParityRow(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A row as it was at training: the texts of its key, its features, its score."""

    key: list[str]
    features: dict[str, Scalar] = {}
    score: float | None = None


class ParitySet(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="parity_set"):
    """Rows of a model version that live predictions with the same key must agree with (`streams.measure.parity`).

    `key` names what a row is found by: `request_id`, `subject`, or features or slices. Numbers agree within `absolute`
    + `relative` of the greater one; at most the share `limit` of the compared rows may differ before it counts. From
    `at_ms` on predictions are compared, until `until_ms` (0: for ever). The first set of a version stands.
    """

    id: Name
    model: Name
    version: str
    key: list[Name]
    rows: list[ParityRow]
    relative: float = 1e-6
    absolute: float = 0.0
    limit: Share = 0.001
    until_ms: TimeMs = 0
    at_ms: TimeMs = 0


class ClockAdvanced(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="clock_advanced"):
    """In a namespace with a virtual clock: it is now `now_ms`. Elsewhere this is refused."""

    now_ms: TimeMs


class Frozen(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="frozen"):
    """Labels of `source` look cut off: no negative is emitted and nothing retrains or promotes until the thaw.

    A second one of a source that is frozen changes nothing. `by` is `guard` or who froze it by hand: what a person
    froze only a person thaws. `evidence` is the guard's: labels seen (statistic), bound (threshold), expectation
    (value).
    """

    source: str
    reason: str = ""
    at_ms: TimeMs = 0
    by: str = ""
    evidence: Verdict | None = None


class Thawed(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="thawed"):
    """Labels of `source` flow again, or the freeze has lasted too long; `reason` says which. `by` as in `Frozen`."""

    source: str
    reason: str = ""
    at_ms: TimeMs = 0
    by: str = ""
    evidence: Verdict | None = None


class AllocationSet(Event, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="allocation_set"):
    """From `from_ms` on a subject new to `layer` gets the arm `challenger` with probability `share`.

    It is what makes a canary a randomised experiment: without it `judge` counts and compares nothing. A stage with
    other weights is another record with a later `from_ms`, which lies after serving has converged; subjects that first
    appear between stages, or before the first record, are left out. `window_ms` is how long after its first appearance
    a subject's trials count (0: the judge's default). Layers that begin with `shadow:` are paired and need no shares.
    """

    model: Name
    layer: Name
    share: Share
    from_ms: TimeMs
    champion: str = "champion"
    challenger: str = "challenger"
    window_ms: int = 0
    at_ms: TimeMs = 0


Control = PolicySet | DecidePolicySet | ReferenceSet | ParitySet | AllocationSet | ClockAdvanced | Frozen | Thawed
"""Decode with `msgspec.json.decode(body, type=Control)`."""
