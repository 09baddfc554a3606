"""What the join tells the stages chained behind it, in the same step.

A `Change` replaces what was counted of one standing prediction by what counts now. `measure` turns it into signed
deltas: minus the cells of `before`, plus those of `after`. A prediction that stands for the first time has no `before`;
one whose identity has been taken over by another standing prediction appears as a change from the old to the new.

A figure of a ranking depends on the labels of all its items at once, so a change of one item's label is told with the
outcomes of all: before and after, nothing in between has to be remembered by who counts.
"""

from __future__ import annotations

from msgspec import Struct

from schemas.event import LabelValue
from schemas.feedback import LabelKind, Status
from schemas.inputs import Prediction


class Outcome(Struct, frozen=True, gc=False):
    """What is known of one standing prediction. `label` None and `kind` None mean that nothing has been said.

    In a `Change`, `labelled_at_ms` is that of the last revision: a source that repeats its label later changes nothing.
    """

    label: LabelValue | None = None
    kind: LabelKind | None = None
    weight: float = 1.0
    status: Status = "void"
    p_fake_negative: float = 0.0
    labelled_at_ms: int | None = None


NOTHING = Outcome()

Items = tuple[tuple[str, Outcome], ...]
"""What is known of the items of a ranking: those that have a label, in the order of the list."""


class Counted(Struct, frozen=True, gc=False):
    """A standing prediction with its outcome and the last emitted revision's number (0: none was emitted).

    `items` is None where the prediction is no ranking, and for one whose items were not told (`state.TOLD`).
    """

    prediction: Prediction
    outcome: Outcome = NOTHING
    revision: int = 0
    items: Items | None = None


class Change(Struct, frozen=True, gc=False):
    """One replacement. At least one side is given."""

    before: Counted | None
    after: Counted | None
