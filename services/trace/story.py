"""From records to a story: what each was taken for, what was said and why, what is still to come. Pure.

The join keeps no reasons, so they are found again from the same records by the naive twin's functions, one for each
rule of docs/join.md: what the story tells is what the specification says, and where `feedback` says otherwise, that is
named as a problem. Only records that the join had read at its newest landed step take part.

Reading order: `request` (the records as the rules take them), `events`, `answers`, `why`, `words`.
"""

from __future__ import annotations

from services.trace.answers import answers
from services.trace.events import happened
from services.trace.landed import Landed
from services.trace.request import Request
from services.trace.shape import VERSION, Clock, Letter, Story
from services.trace.words import place_of, position
from streams.join import naive
from streams.join.naive import Bounds


def tell(landed: Landed, bounds: Bounds, namespace: str) -> Story:
    """Tell what the join made of a request. Panes, alarms and data sets are added by others."""
    found = Request(landed, bounds)
    step = landed.timers.step
    events = [happened(found, topic, record) for topic, record in landed.records]
    story = Story(
        v=VERSION,
        request_id=landed.request_id,
        namespace=namespace,
        known=bool(landed.feedback) or any(one.fate not in ("dead", "quarantined") for one in events),
        clock=Clock(
            partition=landed.partition,
            step=step.number if step else None,
            clock_ms=landed.timers.clock_ms,
            held=landed.timers.held_ms is not None,
        ),
        events=events,
        dead_letters=[
            Letter(
                id=position(place_of(one)),
                reason=one.reason,
                detail=one.detail,
                stage=one.stage,
                at_ms=one.at_ms,
            )
            for one in landed.dead_letters
        ],
        answers=answers(found),
    )
    if landed.timers.held_ms is not None:
        story.notes.append("a source of labels is frozen: the join's timers stand still until the thaw")
    if found.unread:
        story.notes.append(f"{len(found.unread)} records have landed and were not read by the newest landed step yet")
    if found.standing and naive.is_beyond(found.events, found.standing, bounds):
        story.notes.append("the request id came back after its state had ended: the join may have started it anew")
    said = {identity[:3] for identity in found.chains}
    for identity in sorted(said - {(landed.request_id, *key[1:]) for key in found.standing}):
        story.notes.append(f"feedback of {identity[1]!r} {identity[2]!r} has landed, its prediction has not")
    return story
