"""One request at work: its records as the rules of docs/join.md take them. Pure."""

from __future__ import annotations

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.policy import JoinPolicy
from services.trace.landed import Landed
from services.trace.words import Place, place_of
from streams.join import naive
from streams.join.naive import Admitted, Bounds, OutcomeId, Record, Refused, Standing


class Request:
    """What has landed of one request, and what each record is by the naive twin's rules.

    `unread` are the places that the newest landed step had not read; `outcomes` are those of every standing prediction;
    `chains` holds the revisions of each outcome in order; `reasons` those of its dead letters.
    """

    def __init__(self, landed: Landed, bounds: Bounds) -> None:
        self.landed, self.bounds = landed, bounds
        self.policies: dict[int, list[tuple[JoinPolicy, Record]]] = {}
        for record in landed.control:
            policy = naive.read_policy(record, bounds)
            if isinstance(policy, JoinPolicy):
                self.policies.setdefault(record.partition, []).append((policy, record))
        self.read: dict[Place, Admitted | Refused] = {}
        self.unread: set[Place] = set()
        for topic, record in landed.records:
            place = topic, record.partition, record.offset, record.index
            self.read[place] = naive.admit(topic, record, self.policies_of(record.partition), bounds)
            step = landed.timers.step
            if step and record.partition == step.partition and record.offset >= step.offsets.get(topic, 0):
                self.unread.add(place)
        taken = [one for place, one in self.read.items() if isinstance(one, Admitted) and place not in self.unread]
        self.events = naive.events_of(taken)
        self.standing = naive.standing_of(self.events, self.policies_of(landed.partition))
        self.outcomes = [each for one in self.standing.values() for each in one.outcomes]
        self.event_of = {place_of(one): event for event in self.events for one in event.records}
        self.chains: dict[OutcomeId, list[tuple[Record, Feedback]]] = {}
        for record in landed.feedback:
            said = decode(record.value or b"", Feedback)
            identity = (said.request_id, said.model, said.deployment, said.name, said.item or "")
            self.chains.setdefault(identity, []).append((record, said))
        self.reasons = {place_of(one): one.reason for one in landed.dead_letters}

    def policies_of(self, partition: int) -> list[JoinPolicy]:
        """Give the policies that a partition has, in the order of its log."""
        return [policy for policy, _ in self.policies.get(partition, [])]

    def policy_of(self, said: Feedback, each: Standing | None) -> JoinPolicy:
        """Find the policy that a feedback names, as it is for its label name."""
        named = [
            policy
            for policy in self.policies_of(self.landed.partition)
            if policy.model == said.model
            and policy.label == said.policy
            and policy.effective_from_ms <= said.predicted_at_ms
        ]
        if not named:
            return each.policy if each is not None else JoinPolicy(model=said.model)
        whole = max(named, key=lambda policy: policy.effective_from_ms)
        return next((one for one in whole.outcomes if one.label_name == said.name), whole)
