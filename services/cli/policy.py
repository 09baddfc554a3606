"""Policies and approvals: written to Kafka, one copy a partition where every partition must hear it."""

from __future__ import annotations

import difflib
import getpass
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from schemas.control import Control, DecidePolicySet, PolicySet
from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.lifecycle import Approval, DecidePolicy
from schemas.policy import MINUTE_MS, JoinPolicy
from schemas.settings import Settings
from services.cli.standing import Versions, described, key_of, moment, read_standing
from streams.join.policies import too_late

TABLES = ("join", "decide")
SENDING_MS = 5_000
NOTICE_MS = 2 * MINUTE_MS
"""A join policy takes effect this much later unless it says when: the join refuses less than a minute's notice."""


def set_policy(settings: Settings, file: Path, *, as_json: bool = False) -> None:
    """Read `[join]` and `[decide]` from a TOML file and send them to every partition.

    A policy without `name` takes the file's, one without `version` the next that `control` has not seen: what a version
    says never changes. Raises `WeirError` (usage) that names the wrong field.
    """
    now_ms = int(time.time() * 1000)
    read_policies(file, now_ms)  # what is wrong with the file is said before Kafka is needed
    now = read_standing(settings)
    commands = []
    for command in read_policies(file, now_ms, known=now.policies):
        policy = command.policy
        if policy.version in now.policies.get(key_of(policy)[:3], {}) and not now.missing(key_of(policy), settings):
            if not as_json:
                print(f"{policy.model}: {policy.name}@{policy.version} is set already, with this content")
        else:
            commands.append(command)
    if settings.clock != "virtual":
        _refuse_late(commands, now_ms)
    send_control(settings, commands)
    if as_json:
        print(msgspec.json.encode([described(command.policy) for command in commands]).decode())
        return
    for command in commands:
        policy = command.policy
        if isinstance(policy, JoinPolicy):
            told = f"joins predictions from {moment(policy.effective_from_ms)} on"
            if policy.effective_from_ms > now_ms:
                told += f" (in {(policy.effective_from_ms - now_ms) / 1000:.0f} s; earlier ones keep their policy)"
        else:
            told = f"decides at once, automation: {policy.automation}"
        print(f"{policy.model}: {policy.name}@{policy.version} {told}")


def _refuse_late(commands: Sequence[PolicySet | DecidePolicySet], now_ms: int) -> None:
    """Refuse a join policy that comes too late for every partition to hear of it before it takes effect."""
    for command in commands:
        policy = command.policy
        if isinstance(policy, JoinPolicy) and too_late(policy, now_ms + SENDING_MS):
            earliest_ms = now_ms + NOTICE_MS
            raise WeirError(
                f"`effective_from_ms` is {policy.effective_from_ms}: a join policy needs a minute's notice, so that "
                "every partition has heard of it",
                fix=f"leave it out, or take {earliest_ms} ({moment(earliest_ms)}) or later",
                code=USAGE,
            )


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
    sent = known.get((table, str(fields.get("model")), str(fields["name"])), {})
    fields.setdefault("version", max(sent, default=0) + 1)
    said = sent.get(fields["version"]) if isinstance(fields["version"], int) else None
    if isinstance(said, JoinPolicy) and "effective_from_ms" not in written:
        fields["effective_from_ms"] = said.effective_from_ms  # the same again changes nothing
    if table == "join":
        fields.setdefault("effective_from_ms", now_ms + NOTICE_MS)
    try:
        if table == "join":
            command: PolicySet | DecidePolicySet = PolicySet(policy=msgspec.convert(fields, JoinPolicy), at_ms=now_ms)
        else:
            command = DecidePolicySet(policy=msgspec.convert(fields, DecidePolicy), at_ms=now_ms)
            _check_limits(file, command.policy)
        if said is not None and said != command.policy:
            raise WeirError(
                f"{file}: [{table}] {said.name}@{said.version} has been set with another content, and what a version "
                "says never changes",
                fix="leave `version` out: it takes the next one",
                code=USAGE,
            )
        return command
    except msgspec.ValidationError as error:
        struct = JoinPolicy if table == "join" else DecidePolicy
        unknown = set(fields) - set(struct.__struct_fields__)
        near = {name: difflib.get_close_matches(name, struct.__struct_fields__, 1) for name in sorted(unknown)}
        meant = "; ".join(f"did you mean `{close[0]}` by `{name}`?" for name, close in near.items() if close)
        raise WeirError(
            f"{file}: [{table}] {error}", fix=meant or "docs/policies.md lists the fields", code=USAGE
        ) from None


def _check_limits(file: Path, policy: DecidePolicy) -> None:
    """Refuse a limit that could never be passed: of no metric, or on the side where the metric is good."""
    from streams.measure.metrics import known_metric

    wrong_side = {"min_quality": "lower", "max_loss": "higher"}
    for name, side in wrong_side.items():
        for metric in getattr(policy, name):
            try:
                known = known_metric(metric)
            except WeirError as error:
                raise WeirError(f"{file}: [decide] {name}: {error.message}", fix=error.fix, code=USAGE) from None
            if known.better == side:
                other = "max_loss" if name == "min_quality" else "min_quality"
                raise WeirError(
                    f"{file}: [decide] {name}: {metric!r} is better when it is {side}, so this limit is on the wrong "
                    "side",
                    fix=f"put it into `{other}`",
                    code=USAGE,
                )


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
