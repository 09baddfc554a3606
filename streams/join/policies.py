"""The join policies that a partition has heard of, and which of them is in force."""

from __future__ import annotations

from bisect import bisect_right

from schemas.policy import MINUTE_MS, JoinPolicy

DEFAULT = JoinPolicy(model="default")
"""In force where nothing was said. One object for all models, because its windows do not depend on the model's name."""


def too_late(policy: JoinPolicy, append_ms: int) -> bool:
    """Say whether a policy was appended less than a minute before it takes effect."""
    return append_ms > policy.effective_from_ms - MINUTE_MS


class PolicyBook:
    """Policies by model, each list ascending by (`effective_from_ms`, `version`)."""

    __slots__ = ("_by_model", "_outcomes")

    def __init__(self) -> None:
        self._by_model: dict[str, list[JoinPolicy]] = {}
        self._outcomes: dict[int, tuple[JoinPolicy, ...]] = {}  # by identity: policies stay as long as the book

    def add(self, policy: JoinPolicy) -> bool:
        """Take a policy up. False, without effect, when its (`effective_from_ms`, `version`) is known already."""
        known = self._by_model.setdefault(policy.model, [])
        place = bisect_right(known, _order(policy), key=_order)
        if place and _order(known[place - 1]) == _order(policy):
            return False
        known.insert(place, policy)
        if policy.labels:
            self._outcomes[id(policy)] = policy.outcomes
        return True

    def in_force(self, model: str, at_ms: int) -> JoinPolicy:
        """Give the policy that resolves a prediction of `model` at `at_ms`."""
        known = self._by_model.get(model)
        if known is None:
            return DEFAULT
        place = bisect_right(known, at_ms, key=_effective)
        return known[place - 1] if place else DEFAULT

    def attributes(self, model: str, signal: str, at_ms: int) -> bool:
        """Say whether the policy in force makes labels of a signal."""
        outcomes = self.outcomes(self.in_force(model, at_ms))
        return any(rule.signal == signal for policy in outcomes for rule in policy.attribution)

    def of(self, model: str) -> list[JoinPolicy]:
        """Give a model's policies, ascending by (`effective_from_ms`, `version`)."""
        return self._by_model.get(model, [])

    def outcomes(self, policy: JoinPolicy) -> tuple[JoinPolicy, ...]:
        """Give `JoinPolicy.outcomes` of a policy that `in_force` gave."""
        return self._outcomes.get(id(policy)) or (policy,)

    def all(self) -> list[JoinPolicy]:
        """Give every policy, in an order that `add` may take them up again."""
        return [policy for known in self._by_model.values() for policy in known]


def _order(policy: JoinPolicy) -> tuple[int, int]:
    return policy.effective_from_ms, policy.version


def _effective(policy: JoinPolicy) -> int:
    return policy.effective_from_ms
