"""Policies and approvals: written to Kafka, one copy a partition where every partition must hear it."""

from __future__ import annotations

import contextlib
import difflib
import getpass
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from schemas.control import Control, DecidePolicySet, PolicySet
from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.lifecycle import Approval, DecidePolicy
from schemas.policy import MINUTE_MS, JoinPolicy
from schemas.settings import Settings

TABLES = ("join", "decide")
NOTICE_MS = 2 * MINUTE_MS
"""A join policy takes effect this much later unless it says when: the join refuses less than a minute's notice."""


def set_policy(settings: Settings, file: Path) -> None:
    """Read `[join]` and `[decide]` from a TOML file and send them to every partition.

    A policy without `name` takes the file's, one without `version` the next that `control` has not seen: what a version
    says never changes. Raises `WeirError` (usage) that names the wrong field.
    """
    now_ms = int(time.time() * 1000)
    read_policies(file, now_ms)  # what is wrong with the file is said before Kafka is needed
    commands = read_policies(file, now_ms, known=_known_versions(settings))
    send_control(settings, commands)
    for command in commands:
        policy = command.policy
        if isinstance(policy, JoinPolicy):
            from_s = policy.effective_from_ms / 1000
            told = f"joins predictions from {datetime.fromtimestamp(from_s, UTC):%Y-%m-%d %H:%M:%S} UTC on"
            if policy.effective_from_ms > now_ms:
                told += f" (in {(policy.effective_from_ms - now_ms) / 1000:.0f} s; earlier ones keep their policy)"
        else:
            told = f"decides at once, automation: {policy.automation}"
        print(f"{policy.model}: {policy.name}@{policy.version} {told}")


Versions = dict[tuple[str, str, str], int]
"""(table, model, policy name) → the greatest version that has been sent."""


def _known_versions(settings: Settings) -> Versions:
    from services.kafka import read_to_end

    known: Versions = {}
    for message in read_to_end(settings, "control"):
        with contextlib.suppress(msgspec.DecodeError):
            event: Any = msgspec.json.decode(message.value() or b"", type=Control)
            if isinstance(event, PolicySet | DecidePolicySet):
                table = "join" if isinstance(event, PolicySet) else "decide"
                key = (table, event.policy.model, event.policy.name)
                known[key] = max(known.get(key, 0), event.policy.version)
    return known


def read_policies(file: Path, now_ms: int, *, known: Versions | None = None) -> list[PolicySet | DecidePolicySet]:
    """Parse a policy file into commands, as if it were `now_ms` and `known` had been sent."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeirError(f"{file} cannot be read: {error.strerror}", fix="name a file that exists", code=USAGE) from None
    except tomllib.TOMLDecodeError as error:
        raise WeirError(f"{file} is not TOML: {error}", fix="see docs/policies.md for an example", code=USAGE) from None
    if not tables or set(tables) - set(TABLES):
        found = ", ".join(f"[{name}]" for name in sorted(tables)) or "none"
        raise WeirError(
            f"{file}: expected the tables [join] and [decide], found {found}", fix="see docs/policies.md", code=USAGE
        )
    return [_command(file, name, tables[name], now_ms, known or {}) for name in TABLES if name in tables]


def _command(file: Path, table: str, written: Any, now_ms: int, known: Versions) -> PolicySet | DecidePolicySet:
    fields: dict[str, Any] = {"name": file.stem, **written} if isinstance(written, dict) else {}
    fields.setdefault("version", known.get((table, str(fields.get("model")), str(fields["name"])), 0) + 1)
    if table == "join":
        fields.setdefault("effective_from_ms", now_ms + NOTICE_MS)
    try:
        if table == "join":
            return PolicySet(policy=msgspec.convert(fields, JoinPolicy), at_ms=now_ms)
        return DecidePolicySet(policy=msgspec.convert(fields, DecidePolicy), at_ms=now_ms)
    except msgspec.ValidationError as error:
        struct = JoinPolicy if table == "join" else DecidePolicy
        unknown = set(fields) - set(struct.__struct_fields__)
        near = {name: difflib.get_close_matches(name, struct.__struct_fields__, 1) for name in sorted(unknown)}
        meant = "; ".join(f"did you mean `{close[0]}` by `{name}`?" for name, close in near.items() if close)
        raise WeirError(
            f"{file}: [{table}] {error}", fix=meant or "docs/policies.md lists the fields", code=USAGE
        ) from None


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
