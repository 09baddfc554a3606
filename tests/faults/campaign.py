"""Rounds until enough were killed, each judged at its end, and the report over all of them.

A round has a namespace of its own, so the history, and what is found about it, stay small however long the campaign.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import KafkaException
from pydantic import SecretStr

from schemas.errors import WeirError
from schemas.settings import ClickHouse, Join, Kafka, Recall, Runtime, Settings
from services.cli.verify import Verification, verification
from services.local.clickhouse import LocalClickHouse
from services.local.kafka import LocalKafka
from streams.join.verify import Mismatch
from streams.runtime.phase import Phase
from tests.faults.audit import Findings, Logs, audit, read_logs, told_of_recall
from tests.faults.companions import Companions
from tests.faults.crew import snapshots_in
from tests.faults.feed import Feed, Planned
from tests.faults.live import JOIN, JUMP_S, LIVE_FROM, LIVE_KILLS, NOTICE_S, Live, announce
from tests.faults.nursery import Nursery
from tests.faults.plan import PARTITIONS, plan
from tests.faults.round import SESSION_S, Round
from tests.streams.join.histories import BOUNDS

ROUND_KILLS = 100
KILLED = (Phase.POLL, Phase.STEP, Phase.FLUSH, Phase.COMMIT, Phase.SNAPSHOT, Phase.RESTORE, Phase.RECALL)
ENOUGH = 40
"""From so many kills on, a phase in which nobody was killed makes the campaign fail."""
OTHER = (
    "zombies",
    "expired",
    "joined",
    "left",
    "broker_kills",
    "commit_timeouts",
    "spoilt_snapshots",
    "slow_disk",
    "full_disk",
    "clock_jumps",
    "downtimes",
    "record_kills",
    "recall_kills",
    "record_gave_up",
    "recall_gave_up",
    "put_away",
    "asked",
    "gave_up",
    "starts",
    "cold_starts",
)
DISK_MB = 32
LAND_S = 90.0
HOT_MB, AHEAD_MS = 0.001, 2_000
"""So little may stay in memory that everything that may leave does."""
LINE_S = 2.0
PROPERTIES = {
    "session.timeout.ms": str(int(SESSION_S * 1000)),
    "heartbeat.interval.ms": "300",
    "max.poll.interval.ms": "30000",
    "log_level": "3",
}
"""Of the workers' clients: members that are gone are noticed soon, also by a group that waits for all to join again,
and the logs hold errors only.
"""


@dataclass(slots=True)
class Report:
    """What was done and found, over all rounds."""

    seed: int
    wanted: int
    findings: Findings = field(default_factory=Findings)
    phases: Counter[Phase] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    rounds: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """How many workers were killed."""
        return self.counts["kills"]

    @property
    def ok(self) -> bool:
        """Whether nothing is amiss, and nothing was left out that should have been tried."""
        spared = self.kills >= ENOUGH and any(not self.phases[phase] for phase in KILLED)
        return self.findings.ok and not self.sentences and not spared and self.kills >= self.wanted

    def as_object(self) -> dict[str, Any]:
        """Give it as plain data."""
        found = self.findings
        phases = {phase.name.lower(): self.phases[phase] for phase in Phase if phase}
        return {
            "kills": self.kills,
            "lost": found.lost,
            "duplicated": found.duplicated,
            "wrong": found.wrong,
            "broken_chains": found.broken_chains,
            "residual": found.residual,
            "phases": phases,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            **{name: self.counts[name] for name in OTHER},
            "rounds": self.rounds,
            "records": self.records,
            "steps": found.steps,
            "outputs": found.outputs,
            "predictions": found.predictions,
            "revisions": found.revisions,
            "states": found.states,
            "resent": found.resent,
            "panes": found.panes,
            "beyond": found.beyond,
            "exits": {name: count for name, count in sorted(self.counts.items()) if name.startswith("exit_")},
            "problems": [*self.sentences, *found.sentences],
            "notes": self.notes,
            "ok": self.ok,
        }

    def as_text(self) -> str:
        """Give it for people."""
        found = self.findings
        verdict = (("lost", found.lost), ("duplicated", found.duplicated), ("wrong", found.wrong))
        lines = [f"{name:<16}{value:>9}" for name, value in verdict]
        lines += [f"{'broken chains':<16}{found.broken_chains:>9}", f"{'residual':<16}{found.residual:>9}", ""]
        lines += [f"{'killed in ' + phase.name.lower():<20}{self.phases[phase]:>5}" for phase in (*KILLED, Phase.START)]
        lines += ["", *(f"{name.replace('_', ' '):<20}{self.counts[name]:>5}" for name in OTHER), ""]
        lines += [
            f"{self.kills} kills in {self.rounds} rounds, {self.seconds:.0f} s, seed {self.seed}: "
            f"{self.records} records, {found.steps} steps, {found.outputs} outputs taken again, "
            f"{found.states} states, {found.predictions} predictions against the twin "
            f"({found.beyond} requests not comparable), {found.panes} panes"
        ]
        lines += self.notes
        problems = [*self.sentences, *found.sentences]
        lines += [f"  {sentence}" for sentence in problems[:30]]
        lines += [f"  … and {len(problems) - 30} more (--json gives all)"] if len(problems) > 30 else []
        lines.append("nothing is amiss" if self.ok else "NOT well")
        return "\n".join(lines)


class Campaign:
    """Runs rounds in a directory. `report` grows; `logs` and `settings` are those of the last round."""

    def __init__(self, directory: Path, *, kills: int, seed: int, record: bool = True, quiet: bool = False) -> None:
        self.directory, self.kills, self.seed, self.record, self.quiet = directory, kills, seed, record, quiet
        self.report = Report(seed, kills)
        self.settings: Settings | None = None
        self.logs: Logs | None = None
        self.mismatches: list[Mismatch] = []
        self._began = self._said = time.monotonic()
        self._round: Round | None = None
        self._live: Settings | None = None
        self._number = 0

    def run(self) -> Report:
        """Run. What went wrong is in the report, whatever it was; nothing is left running."""
        try:
            with contextlib.ExitStack() as stack:
                kafka = stack.enter_context(LocalKafka(self.directory / "kafka"))
                nursery = stack.enter_context(Nursery(self.directory / "nursery"))
                disk = stack.enter_context(self._small_disk())
                clickhouse = None
                if self.record:
                    clickhouse = stack.enter_context(
                        LocalClickHouse(self.directory / "clickhouse", memory_bytes=1 << 30)
                    )
                if self.kills >= LIVE_FROM:
                    self._live = self._live_settings(kafka, clickhouse)
                    announce(self._live)
                while self.report.kills < self.kills and not self.report.sentences and self.report.findings.ok:
                    self._one(kafka, nursery, disk, clickhouse)
        except (WeirError, KafkaException, OSError, RuntimeError) as error:
            self.report.sentences.append(f"{type(error).__name__}: {error}")
        finally:
            self.report.seconds = time.monotonic() - self._began
        return self.report

    def _one(self, kafka: LocalKafka, nursery: Nursery, disk: Path | None, clickhouse: LocalClickHouse | None) -> None:
        report = self.report
        self._number += 1
        kills = min(ROUND_KILLS, self.kills - report.kills)
        name = f"{self.seed}/{self._number}"
        feed: Feed
        if self._live is not None and self._live_due():
            kills = min(kills, LIVE_KILLS)
            self.settings, self._live = self._live, None
            feed = Live(self.settings, Random(f"{name}/live"))
        else:
            planned = plan(name, kills)
            self.settings = self._settings(planned.history.bounds, kafka, clickhouse)
            feed = Planned(self.settings, planned)
        self._round = Round(
            self.settings,
            kafka,
            nursery,
            feed,
            kills,
            Random(f"{name}/kills"),
            self._tell,
            small_disk=disk,
            first=self._number == 1,
            jump_s=JUMP_S if isinstance(feed, Live) else 0,
        )
        done, judged = self._round, True
        companions = Companions(nursery, self.settings, name) if self.record else None
        try:
            done.run()
        except WeirError:
            if companions is not None:
                done.crew.problems.append(companions.tails())
            raise
        except KeyboardInterrupt:
            judged = False  # nobody will, so it does not count
            raise
        finally:
            self._round = None
            if judged:
                self._count(done)
            if companions is not None and (not judged or report.sentences):
                companions.close()
        if report.sentences:
            return
        self._say(f"round {self._number}: {done.counts['kills']} kills; reading what was said")
        try:
            self._judge(Counter(done.feed.sent))
        finally:
            if companions is not None:
                companions.close()
                report.counts.update(companions.counts)
                report.sentences += companions.problems
        if report.findings.ok:  # the next round needs the room on the small disk
            shutil.rmtree(self.directory / "snapshots" / self.settings.namespace, ignore_errors=True)

    def _count(self, done: Round) -> None:
        report = self.report
        report.counts.update(done.counts)
        report.phases.update(done.crew.phases)
        report.sentences += done.crew.problems
        report.records += sum(done.feed.sent.values())

    def _judge(self, sent: Counter[str]) -> None:
        assert self.settings is not None
        self.logs = read_logs(self.settings)
        found = verification(self.settings, measures=self.record)
        self.mismatches = found.report.mismatches
        findings = audit(self.settings, self.logs, sent, self.mismatches)
        self.report.counts.update(told_of_recall(self.logs))
        if self.record:
            found = self._landed(found)
            _count_landed(findings, found)
        findings.predictions, findings.revisions = found.report.identities, found.report.revisions
        findings.beyond = found.report.beyond
        self.report.findings.add(findings)
        self.report.rounds += 1

    def _landed(self, found: Verification) -> Verification:
        """Verify until everything has landed."""
        assert self.settings is not None
        deadline = time.monotonic() + LAND_S
        while (found.residuals is None or found.residual or found.measures is None) and time.monotonic() < deadline:
            time.sleep(0.3)
            found = verification(self.settings, measures=True)
        return found

    # --- surroundings

    def _live_due(self) -> bool:
        """Say whether the round with a broker's clock is next: as soon as its policies are in force."""
        return time.monotonic() - self._began > NOTICE_S and self._number > 1

    def _live_settings(self, kafka: LocalKafka, clickhouse: LocalClickHouse | None) -> Settings:
        """Give the settings of the round with a broker's clock."""
        settings = self._settings(BOUNDS, kafka, clickhouse)
        return settings.model_copy(update={"namespace": "live", "clock": "broker", "join": JOIN})

    def _settings(self, bounds: Any, kafka: LocalKafka, clickhouse: LocalClickHouse | None) -> Settings:
        at = ClickHouse()
        if clickhouse is not None:
            password = SecretStr(clickhouse.password)
            at = ClickHouse(host=clickhouse.host, port=clickhouse.port, user=clickhouse.user, password=password)
        return Settings(
            namespace=f"faults{self._number}",
            clock="virtual",
            partitions=PARTITIONS,
            data_dir=self.directory,
            kafka=Kafka(bootstrap=kafka.bootstrap, properties=PROPERTIES),
            clickhouse=at,
            join=Join(
                skew_ms=bounds.skew_ms,
                early_label_ms=bounds.early_label_ms,
                grace_ms=bounds.grace_ms,
                max_event_bytes=bounds.max_event_bytes,
            ),
            runtime=Runtime(commit_ms=20, snapshot_s=0.4, transaction_timeout_ms=2_000),
            recall=Recall(enabled=clickhouse is not None, hot_mb=HOT_MB, ahead_ms=AHEAD_MS),
        )

    @contextlib.contextmanager
    def _small_disk(self) -> Iterator[Path | None]:
        """Put the snapshots on a file system of their own, small enough to be filled, where one may be mounted."""
        place = self.directory / "snapshots"
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
        if mounted is None or mounted.returncode:
            why = "only root may mount a small file system" if mounted is None else mounted.stderr.strip()
            self.report.notes.append(f"full disk: not tried ({why})")
            yield None
            return
        try:
            yield place
        finally:
            if not self.report.ok:  # what is on it would be gone
                for path in snapshots_in(self.directory):
                    kept = self.directory / "kept" / path.relative_to(place)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(path.read_bytes())
            subprocess.run(["umount", "--lazy", str(place)], check=True)

    # --- progress

    def _tell(self) -> None:
        if time.monotonic() - self._said < LINE_S or self._round is None:
            return
        done, report = self._round, self.report
        phases = report.phases + done.crew.phases
        kills, seconds = report.kills + done.counts["kills"], time.monotonic() - self._began
        left = f"about {(self.kills - kills) * seconds / kills:.0f} s left" if kills else "starting"
        places = " ".join(f"{phase.name.lower()} {phases[phase]}" for phase in KILLED)
        self._say(f"{kills}/{self.kills} kills, {seconds:.0f} s, {left}: {places}; fed {sum(done.feed.sent.values())}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        if not self.quiet:
            print(f"faults: {text}", file=sys.stderr, flush=True)


def _count_landed(findings: Findings, found: Verification) -> None:
    """Add what has landed to the findings."""
    if found.residuals is None:
        findings.sentences.append(f"the residual is unknown: {found.problem}")
    else:
        findings.residual += found.residual
    if found.measures is None:
        findings.sentences.append(f"measures cannot be counted again: {found.measures_problem}")
    else:
        findings.panes += found.measures.equal
        findings.wrong += len(found.measures.differing)
        findings.sentences += found.measures.differing[:10]


def print_report(report: Report, *, as_json: bool) -> None:
    """Print it for people on standard error or, as the last line of standard output, as one JSON object."""
    print(report.as_text(), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print(json.dumps(report.as_object()), flush=True)
