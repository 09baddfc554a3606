"""Policies as the compiled path reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.policy import Attribution, JoinPolicy
from streams.join.columns import layout as l
from streams.join.columns.memory import POLICIES, Memory
from streams.join.policies import DEFAULT
from streams.runtime.native import address

_KNOWN = {
    "v",
    "model",
    "version",
    "effective_from_ms",
    "label_name",
    "horizon_ms",
    "lateness_ms",
    "on_timeout",
    "negative_label",
    "provisional_after_ms",
    "p_fake_negative",
    "recall_ms",
    "retain_ms",
    "exposure",
    "precedence",
    "attribution",
    "carry",
}
_MOST_MS = 1 << 46
"""Moments have 48 bits."""
_MOST_LABEL = 8192
"""Bytes of a label, as in `take`: the room for a revision is reckoned with it."""
_RULE_KNOWN = {"signal", "label", "within_ms", "compare", "value", "weight"}


def plain(policy: JoinPolicy) -> bool:
    """Say whether the compiled path knows all that a policy asks for; else its predictions take the object path."""
    defaults = JoinPolicy(model=policy.model)
    for name in policy.__struct_fields__:
        if name not in _KNOWN and getattr(policy, name) != getattr(defaults, name):
            return False
    for rule in policy.attribution:
        names = {name for name in rule.__struct_fields__ if name not in _RULE_KNOWN}
        usual = Attribution(signal=rule.signal, label=rule.label)
        if any(getattr(rule, name) != getattr(usual, name) for name in names):
            return False
    labels = [policy.negative_label, *(rule.label for rule in policy.attribution)]
    if len(policy.attribution) >= 256 or policy.wait_ms + policy.reach_ms > _MOST_MS:
        return False
    return not any(isinstance(label, list) or len(msgspec.json.encode(label)) > _MOST_LABEL for label in labels)


class PolicyTable:
    """The policies of one partition by number; number 0 is in force where nothing was said."""

    def __init__(self, memory: Memory, text: Callable[[bytes], int], default: JoinPolicy) -> None:
        self.memory = memory
        self.policies: list[JoinPolicy] = []
        self._number: dict[tuple[str, int, int] | None, int] = {}
        self._room: dict[int, tuple[int, int]] = {}  # model → its rows in the book, and how many it may have
        self._text = text
        self._kept: list[NDArray[np.uint8]] = []
        self._rules = self._precedence = self._book = 0
        self.add(default)

    def add(self, policy: JoinPolicy) -> int:
        """Give a policy's number, a new one when it is not known."""
        order = None if policy is DEFAULT else (policy.model, policy.effective_from_ms, policy.version)
        known = self._number.get(order)
        if known is not None:
            return known
        number = len(self.policies)
        if number >= POLICIES:
            raise ValueError(f"more than {POLICIES} policies in one partition")
        self.policies.append(policy)
        self._number[order] = number
        area = self.memory.area
        row = area[l.POLICIES][number * l.POLICY_WORDS : (number + 1) * l.POLICY_WORDS]
        row[l.P_HORIZON] = policy.horizon_ms
        row[l.P_WAIT] = policy.wait_ms
        row[l.P_REACH] = policy.reach_ms
        row[l.P_NEGATIVE] = policy.on_timeout == "negative"
        row[l.P_PROVISIONAL] = -1 if policy.provisional_after_ms is None else policy.provisional_after_ms
        row[l.P_EXPOSURE] = -1 if policy.exposure is None else self._text(policy.exposure.encode())
        row[l.P_NAME] = self._text(policy.label_name.encode())
        row[l.P_CARRY] = policy.carry == "features"
        row[l.P_PLAIN] = plain(policy)
        name = b"" if policy.label_name == "label" else b',"name":' + msgspec.json.encode(policy.label_name)
        fake = msgspec.json.encode(policy.p_fake_negative) if policy.p_fake_negative else b""
        self._keep(row, l.P_TEXT, b',"policy":' + msgspec.json.encode(policy.label))
        self._keep(row, l.P_NAME_TEXT, name)
        self._keep(row, l.P_LABEL, msgspec.json.encode(policy.negative_label))
        self._keep(row, l.P_FAKE, fake)
        row[l.P_RULES], row[l.P_RULES_N] = self._rules, len(policy.attribution)
        for rule in policy.attribution:
            self._rule(area[l.RULES], policy, rule)
        row[l.P_PRECEDENCE], row[l.P_PRECEDENCE_N] = self._precedence, len(policy.precedence)
        for source in policy.precedence:
            area[l.PRECEDENCE][self._precedence] = self._text(source.encode())
            self._precedence += 1
        return number

    def _rule(self, rules: Any, policy: JoinPolicy, rule: Attribution) -> None:
        row = rules[self._rules * l.RULE_WORDS : (self._rules + 1) * l.RULE_WORDS]
        row[l.R_SIGNAL] = self._text(rule.signal.encode())
        within_ms = policy.horizon_ms if rule.within_ms is None else rule.within_ms
        row[l.R_WITHIN] = min(within_ms, policy.horizon_ms)
        compare = l.COMPARES.index(rule.compare)
        row[l.R_COMPARE] = -1 if compare and rule.value is None else compare
        row[l.R_VALUE] = struct.unpack("<q", struct.pack("<d", rule.value or 0.0))[0]
        self._keep(row, l.R_LABEL, msgspec.json.encode(rule.label))
        self._keep(row, l.R_WEIGHT, b"" if rule.weight == 1.0 else msgspec.json.encode(rule.weight))
        self._rules += 1

    def _keep(self, row: Any, word: int, text: bytes) -> None:
        body: NDArray[np.uint8] = np.frombuffer(text + bytes(8), dtype=np.uint8)
        self._kept.append(body)
        row[word], row[word + 1] = address(body), len(text)

    def govern(self, model: str, policies: Sequence[JoinPolicy]) -> int:
        """Say which policies of a model are in force from when on (ascending); gives the model's text number."""
        area = self.memory.area
        number = self._text(model.encode())
        start, room = self._room.get(number, (0, 0))
        if len(policies) > room:
            start, room = self._book, 2 * len(policies)
            self._room[number] = start, room
            self._book += room
        area[l.BOOK_START][number] = start
        area[l.BOOK_COUNT][number] = len(policies)
        for row, policy in enumerate(policies, start):
            area[l.BOOK][2 * row] = policy.effective_from_ms
            area[l.BOOK][2 * row + 1] = self.add(policy)
        return number
