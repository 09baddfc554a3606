"""What `control` says now: the policies of each model and the sources that are frozen.

Every partition of `control` holds a copy of each command, so a command that not all of them have is told as such: a
sender died on its way, and sending it again mends it.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.control import Control, DecidePolicySet, Frozen, PolicySet, Thawed
from schemas.lifecycle import DecidePolicy
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.kafka import read_to_end
from streams.join.policies import PolicyBook

Policy = JoinPolicy | DecidePolicy
Versions = dict[tuple[str, str, str], dict[int, Policy]]
"""(table, model, policy name) → what has been sent, by version."""


@dataclass(slots=True)
class Standing:
    """What has been said so far. `frozen` is by source, `deciding` by model: the last that was sent.

    `partitions` tells which hold a copy: of a policy by (table, model, name, version), of a freeze by its source.
    """

    policies: Versions = field(default_factory=dict)
    frozen: dict[str, Frozen] = field(default_factory=dict)
    deciding: dict[str, DecidePolicy] = field(default_factory=dict)
    partitions: dict[Any, set[int]] = field(default_factory=lambda: defaultdict(set))

    def joins(self) -> list[JoinPolicy]:
        """Give all join policies."""
        every = (policy for versions in self.policies.values() for policy in versions.values())
        return [policy for policy in every if isinstance(policy, JoinPolicy)]

    def join_in_force(self, model: str, at_ms: int) -> JoinPolicy:
        """Give the join policy that resolves a prediction of `model` at `at_ms`; the default one where none was set."""
        book = PolicyBook()
        for policy in self.joins():
            book.add(policy)
        return book.in_force(model, at_ms)

    def missing(self, what: Any, settings: Settings) -> list[int]:
        """Give the partitions without a copy."""
        return sorted(set(range(settings.partitions)) - self.partitions[what])


def key_of(policy: Policy) -> tuple[str, str, str, int]:
    """Give the table, model, name and version of a policy."""
    return "join" if isinstance(policy, JoinPolicy) else "decide", policy.model, policy.name, policy.version


def described(policy: Policy) -> dict[str, Any]:
    """Give a policy as JSON's values, with what names it beside."""
    table, model, name, version = key_of(policy)
    named = {"model": model, "table": table, "name": name, "version": version}
    return {**named, "policy": msgspec.to_builtins(policy)}


def standing(commands: Iterable[tuple[int, Any]]) -> Standing:
    """Gather what (partition, command) pairs of `control`, each partition in its order, come to.

    >>> sent = [(0, Frozen(source="crm", by="ann")), (1, Frozen(source="crm", by="ann")), (0, Thawed(source="crm"))]
    >>> now = standing(sent)
    >>> now.frozen["crm"].by, now.partitions["crm"]
    ('ann', {1})
    """
    found = Standing()
    frozen: dict[str, dict[int, Frozen]] = defaultdict(dict)
    for partition, command in commands:
        if isinstance(command, PolicySet | DecidePolicySet):
            policy = command.policy
            key = key_of(policy)
            found.policies.setdefault(key[:3], {}).setdefault(policy.version, policy)
            found.partitions[key].add(partition)
            if isinstance(policy, DecidePolicy):
                found.deciding[policy.model] = policy
        elif isinstance(command, Frozen):
            frozen[command.source].setdefault(partition, command)  # a second one changes nothing
        elif isinstance(command, Thawed):
            frozen[command.source].pop(partition, None)
    for source, copies in sorted(frozen.items()):
        if copies:
            found.frozen[source] = copies[min(copies)]
            found.partitions[source] = set(copies)
    return found


def read_standing(settings: Settings) -> Standing:
    """Read `control` to its end. Raises `WeirError` when Kafka does not answer."""

    def commands() -> Iterator[tuple[int, Any]]:
        for message in read_to_end(settings, "control"):
            with contextlib.suppress(msgspec.DecodeError):  # the join makes a dead letter of it
                yield message.partition() or 0, msgspec.json.decode(message.value() or b"", type=Control)

    return standing(commands())


def list_policies(settings: Settings, *, model: str | None, as_json: bool) -> None:
    """Print every policy with what it is: in force, from when on, superseded."""
    found, now_ms = read_standing(settings), int(time.time() * 1000)
    rows: list[dict[str, Any]] = []
    for (_, of, _), versions in sorted(found.policies.items()):
        if model is not None and of != model:
            continue
        for _, policy in sorted(versions.items()):
            missing = found.missing(key_of(policy), settings)
            rows.append({**described(policy), "state": _state(found, policy, now_ms), "missing_in": missing})
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    for row in rows:
        absent = f"; not in partitions {row['missing_in']}: set it again" if row["missing_in"] else ""
        print(f"{row['model']}  [{row['table']}] {row['name']}@{row['version']}  {row['state']}{absent}")
    if not rows:
        whose = f"for {model}" if model is not None else "for any model"
        print(f"no policy is set {whose}: the join waits an hour and then says unlabelled, and nothing is automated")


def _state(found: Standing, policy: Policy, now_ms: int) -> str:
    if isinstance(policy, DecidePolicy):
        current = found.deciding[policy.model] == policy
        return f"in force, automation: {policy.automation}" if current else "superseded"
    from_ms = policy.effective_from_ms
    if from_ms > now_ms:
        return f"in force from {moment(from_ms)} on"
    if found.join_in_force(policy.model, now_ms) == policy:
        return f"in force since {moment(from_ms)}"
    return f"superseded; predictions of its time, from {moment(from_ms)} on, keep it"


def list_freezes(settings: Settings, *, as_json: bool) -> None:
    """Print which sources are frozen, by whom, since when and why."""
    found = read_standing(settings)
    rows = [
        {
            "source": source,
            "by": event.by,
            "since_ms": event.at_ms,
            "reason": event.reason,
            "missing_in": found.missing(source, settings),
        }
        for source, event in found.frozen.items()
    ]
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    for row, (source, event) in zip(rows, found.frozen.items(), strict=True):
        name = named(source)
        why = event.reason.removeprefix(f"{name} frozen by {event.by}").removeprefix(": ") or "no reason given"
        print(f"{name}: frozen since {moment(event.at_ms)} by {event.by or 'somebody'}: {why}")
        if row["missing_in"]:
            print(f"  not in partitions {row['missing_in']}: freeze or thaw it again")
    if not rows:
        print("nothing is frozen")


def named(source: str) -> str:
    """Give a source of labels as people are told of it.

    >>> named("crm"), named("")
    ('labels of crm', 'labels without a source')
    """
    return f"labels of {source}" if source else "labels without a source"


def moment(at_ms: int) -> str:
    """Give a time for people.

    >>> moment(0)
    '1970-01-01 00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
