"""What the join tells the stages chained behind it, in the same step.

A `Change` replaces what was counted of one standing prediction by what counts now. `measure` turns it into signed
deltas: minus the cells of `before`, plus those of `after`. A prediction that stands for the first time has no `before`;
one whose identity has been taken over by another standing prediction appears as a change from the old to the new.

A figure of a ranking depends on the labels of all its items at once, so a change of one item's label is told with the
outcomes of all: before and after, nothing in between has to be remembered by who counts.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

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


class Named(Struct, frozen=True, gc=False):
    """What is known of a standing prediction by another label name of its policy, and of its items by that name.

    `value` says that its labels are amounts, which are not held against the prediction (`LabelRule.metrics`).
    """

    name: str
    outcome: Outcome = NOTHING
    items: Items | None = None
    value: bool = False


class Counted(Struct, frozen=True, gc=False):
    """A standing prediction with its outcome and the last emitted revision's number (0: none was emitted).

    `items` is None where the prediction is no ranking. `output` is the policy's `label_name` where the prediction has
    an output of that name: then the outcome is about its score. `others` are the policy's other label names, in its
    order. Of a prediction that an older version told, these are absent until it is told again (`state.TOLD`).
    """

    prediction: Prediction
    outcome: Outcome = NOTHING
    revision: int = 0
    items: Items | None = None
    output: str | None = None
    others: tuple[Named, ...] = ()

    @property
    def answer(self) -> Prediction:
        """The prediction as its outcome sees it: with the score of the output that it is about."""
        return answer(self.prediction, self.output)


class Change(Struct, frozen=True, gc=False):
    """One replacement. At least one side is given."""

    before: Counted | None
    after: Counted | None


def answer(prediction: Prediction, name: str | None) -> Prediction:
    """Give a prediction with the score of its output called `name`, as it is where it has none.

    >>> one = Prediction(request_id="r", at_ms=0, model="m", score=0.5, outputs={"click": 0.25})
    >>> answer(one, "click").score, answer(one, "refund").score
    (0.25, 0.5)
    """
    if name is None or prediction.outputs is None or name not in prediction.outputs:
        return prediction
    return replace(prediction, score=prediction.outputs[name])
