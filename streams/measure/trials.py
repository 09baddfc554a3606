"""Trials: the matured value of a subject in each experiment layer it is in, sent when an outcome is final.

The value is 1 when the outcome was predicted rightly and 0 when not; where that cannot be said there is no trial (an
error of a regression is not squeezed into [0, 1]). A correction repeats the trial with the outcome's higher revision;
what is no longer final, measurable or in that arm is taken back by a void trial with what it said before.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.measures import Trial
from streams.join.outcome import Change, Counted
from streams.measure.cells import correct

Said = tuple[str, int, float]
"""(subject, at_ms, value) of a trial."""


def trials(changes: Iterable[Change], *, source: int, step: int) -> list[Trial]:
    """Give the trials of a step's changes, in their order; layers ascending within a change.

    >>> from schemas.inputs import Prediction
    >>> from streams.join.outcome import Outcome
    >>> p = Prediction(request_id="r", at_ms=5, model="m", score=0.9, subject="u", experiments={"canary": "new"})
    >>> change = Change(Counted(p), Counted(p, Outcome(label=1, kind="explicit", status="final"), revision=1))
    >>> [(t.layer, t.arm, t.value, t.void) for t in trials([change], source=0, step=1)]
    [('canary', 'new', 1.0, False)]
    """
    found: list[Trial] = []
    for change in changes:
        before, after = change.before, change.after
        either = after or before
        if either is None:
            continue
        was, now = _said(before), _said(after)
        if not was and not now:
            continue
        revision = after.revision if after else either.revision + 1
        for layer, arm in sorted({*was, *now}):
            old, new = was.get((layer, arm)), now.get((layer, arm))
            if old == new:
                continue
            said = new or old
            assert said is not None
            subject, at_ms, value = said
            found.append(
                Trial(
                    request_id=either.prediction.request_id,
                    model=either.prediction.model,
                    layer=layer,
                    arm=arm,
                    subject=subject,
                    at_ms=at_ms,
                    value=value,
                    revision=max(revision, 1),
                    void=new is None,
                    source=source,
                    step=step,
                )
            )
    return found


def _said(counted: Counted | None) -> dict[tuple[str, str], Said]:
    """Give what an outcome says in each (layer, arm); nothing unless it is final and measurable."""
    if counted is None or not counted.prediction.experiments:
        return {}
    if counted.outcome.status != "final" or counted.outcome.label is None:
        return {}
    right = correct(counted)
    if right is None:
        return {}
    prediction = counted.prediction
    said = (prediction.subject or prediction.request_id, prediction.at_ms, 1.0 if right else 0.0)
    return {pair: said for pair in prediction.experiments.items() if pair[0]}
