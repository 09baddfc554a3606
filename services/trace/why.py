"""Why a revision came, and which event speaks in it. Pure.

The join keeps no reasons: they are found again in the records, by what the revision says.
"""

from __future__ import annotations

from schemas.feedback import Feedback
from schemas.inputs import Label, Signal
from schemas.policy import JoinPolicy
from services.trace.request import Request
from services.trace.words import position_of, rule_text, says, span
from streams.join import naive
from streams.join.naive import Event, Standing


def reason_of(request: Request, each: Standing | None, before: Feedback | None, said: Feedback) -> tuple[str, str]:
    """Say why a revision came after another, or first, and the position of the event that speaks in it ("" for none).

    `each` is its outcome as the policy in force has it, None where it has none any more.
    """
    policy = request.policy_of(said, each)
    text, cause = _speaks(request, policy, said)
    if before is None:
        return text, cause
    if said.was is not None and said.was.predicted_at_ms is not None:
        return f"another prediction of this identity stands now; {text}", cause
    if before.policy != said.policy:
        return f"policy {said.policy} is in force instead of {before.policy}; {text}", cause
    if said.label is not None and before.label_kind == "explicit" and said.label_kind != "explicit":
        back = _retraction(request, said)
        if back is not None:
            return f"{says(back.body)}; {text}", position_of(back)
    if said.label is not None and before.label is not None:
        was = "the negative of silence" if before.label_kind == "timeout" else f"the {before.label_kind} label"
        return f"corrects {was} {before.label!r}: {text}", cause
    return text, cause


def _speaks(request: Request, policy: JoinPolicy, said: Feedback) -> tuple[str, str]:
    about = [event for event in request.events if getattr(event.body, "item", None) == said.item]
    if said.label_kind == "explicit":
        for event in about:
            body = event.body
            if (
                isinstance(body, Label)
                and body.op == "assert"
                and body.name == said.name
                and body.at_ms == said.labelled_at_ms
                and naive.same_value(body.label, said.label)
            ):
                after = span(event.append_ms - said.predicted_at_ms)
                return f"{says(body)} came {after} after the prediction", position_of(event)
        return "an explicit label, which has not landed", ""
    if said.label_kind == "implicit":
        for number, rule in enumerate(policy.attribution, 1):
            for event in about:
                body = event.body
                if (
                    isinstance(body, Signal)
                    and body.signal == rule.signal
                    and body.at_ms == said.labelled_at_ms
                    and naive.same_value(rule.label, said.label)
                    and rule.weight == said.weight
                    and naive.compares(rule, body.value)
                ):
                    return f"rule {number} of `attribution`: {rule_text(rule)}", position_of(event)
        return "a rule of `attribution`, whose signal has not landed", ""
    if said.label_kind == "timeout":
        if said.status == "provisional":
            early, fake = span(policy.provisional_after_ms or 0), said.p_fake_negative
            return f"silence for `provisional_after_ms` ({early}): an early negative, fake with chance {fake:g}", ""
        return f"silence until the deadline, {span(policy.wait_ms)} after the prediction: `on_timeout` negative", ""
    back = _retraction(request, said)
    if back is not None:
        return f"taken back: {says(back.body)}", position_of(back)
    return "what was said does not count any more", ""


def _retraction(request: Request, said: Feedback) -> Event | None:
    """Find the last retraction of the label that a feedback is about."""
    found = [
        event
        for event in request.events
        if isinstance(event.body, Label)
        and event.body.op == "retract"
        and (event.body.name, event.body.item) == (said.name, said.item)
    ]
    return max(found, key=lambda event: event.body.at_ms, default=None)
