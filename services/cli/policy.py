"""Policies and approvals: written to Kafka, one copy a partition where every partition must hear it."""

from __future__ import annotations

import getpass
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from schemas.control import Control, DecidePolicySet, PolicySet
from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.lifecycle import Approval, DecidePolicy
from schemas.policy import MINUTE_MS, JoinPolicy
from schemas.settings import Settings

NOTICE_MS = 2 * MINUTE_MS
"""A join policy takes effect this much later unless it says when: the join refuses less than a minute's notice."""


def set_policy(settings: Settings, file: Path) -> None:
    """Read `[join]` and `[decide]` from a TOML file and send them to every partition.

    Raises `WeirError` (usage) that names the wrong field.
    """
    now_ms = int(time.time() * 1000)
    commands = read_policies(file, now_ms)
    send_control(settings, commands)
    for command in commands:
        policy = command.policy
        extra = f" from {policy.effective_from_ms} on" if isinstance(policy, JoinPolicy) else f", {policy.automation}"
        print(f"{policy.model}: {policy.name}@{policy.version}{extra}")


def read_policies(file: Path, now_ms: int) -> list[PolicySet | DecidePolicySet]:
    """Parse a policy file into commands, as if it were `now_ms`."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        unknown = set(tables) - {"join", "decide"}
        if unknown or not tables:
            raise WeirError(
                f"{file}: expected the tables [join] and [decide], found {', '.join(sorted(tables)) or 'none'}",
                fix="see docs/policies.md",
                code=USAGE,
            )
        commands: list[PolicySet | DecidePolicySet] = []
        if "join" in tables:
            fields: dict[str, Any] = {"effective_from_ms": now_ms + NOTICE_MS, **tables["join"]}
            commands.append(PolicySet(policy=msgspec.convert(fields, JoinPolicy), at_ms=now_ms))
        if "decide" in tables:
            commands.append(DecidePolicySet(policy=msgspec.convert(tables["decide"], DecidePolicy), at_ms=now_ms))
        return commands
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise WeirError(f"{file}: {error}", fix="correct the field and try again", code=USAGE) from None


def send_control(settings: Settings, commands: list[Any], *, append_ms: int | None = None) -> None:
    """Put a copy of each command into every partition of `control`, acknowledged by the broker.

    `append_ms` sets the records' time in a namespace with a virtual clock. Raises `WeirError` when Kafka refuses.
    """
    from services.kafka import Sender

    with Sender(settings) as sender:
        for command in commands:
            body = encode(command)
            msgspec.json.decode(body, type=Control)
            for partition in range(settings.partitions):
                sender.send("control", body, key=None, partition=partition, append_ms=append_ms)


def decide(settings: Settings, rollout_id: str, model: str, decision: Any, note: str) -> None:
    """Send an approval, rejection or abort of a rollout."""
    from services.kafka import Sender

    event = Approval(
        rollout_id=rollout_id,
        model=model,
        decision=decision,
        by=getpass.getuser(),
        note=note,
        at_ms=int(time.time() * 1000),
    )
    with Sender(settings) as sender:
        sender.send("approvals", encode(event), key=model.encode())
    print(f"{decision} sent for {rollout_id}")
