"""What each record about a request was taken for. Pure."""

from __future__ import annotations

from schemas.inputs import Prediction
from services.trace.request import Request
from services.trace.shape import Fate, Happened
from services.trace.words import ENDED, REFUSED, Place, named, place_of, position, position_of, readable, says, time
from streams.join import naive
from streams.join.naive import Admitted, Record, Refused


def happened(request: Request, topic: str, record: Record) -> Happened:
    """Tell one of the request's records."""
    place = topic, record.partition, record.offset, record.index
    read = request.read[place]
    headers = dict(record.headers)
    fate, why = _fate_of(request, place, read)
    body = read.body if isinstance(read, Admitted) else None
    hop = headers.get("weir-hop")
    return Happened(
        position=position(place),
        topic=topic,
        append_ms=record.append_ms,
        at_ms=body.at_ms if body else None,
        original_ms=read.append_ms if isinstance(read, Admitted) and hop is not None else None,
        forwarded_from="" if hop is None else hop.decode("utf-8", "replace"),
        fate=fate,
        why=why,
        says=says(body) if body else "",
        event_id=body.event_id if body else "",
        key=None if record.key is None else record.key.decode("utf-8", "replace"),
        headers={name: (value or b"").decode("utf-8", "replace") for name, value in record.headers},
        body=readable(record.value),
    )


def _fate_of(request: Request, place: Place, read: Admitted | Refused) -> tuple[Fate, str]:
    if place in request.unread:
        return "unread", "landed, and not read by the join's newest landed step"
    if isinstance(read, Refused):
        fates: dict[str, Fate] = {"forwarded": "forwarded", "quarantined": "quarantined"}
        return fates.get(read.fate, "dead"), REFUSED.get(read.reason, read.reason)
    event = request.event_of[place]
    first = event.records[0]
    if place_of(first) != place:
        return "duplicate", f"the same event as {position_of(event)}"
    if isinstance(event.body, Prediction):
        stands = request.standing[naive.identity_of(event.body)]
        if stands.key == event.key:
            return "standing", ""
        return "conflict", f"another prediction of this identity stands, made at {time(stands.body.at_ms)} UTC"
    counted = [one for one in request.outcomes if naive.counts(event, one, request.bounds)]
    if counted:
        return "joined", f"counts for {', '.join(sorted({named(one) for one in counted}))}"
    reason = request.reasons.get(place) or naive.why_dead(event, request.outcomes, request.bounds)
    if place in request.reasons:
        return "dead", ENDED.get(reason, reason)
    end_ms = event.append_ms + request.bounds.early_label_ms + request.bounds.grace_ms
    waits = "waits for its prediction" if not request.standing else "counts for no prediction of its request"
    return "parked", f"{waits}; if that stays so it ends as a dead letter ({reason}) at {time(end_ms)} UTC or later"
