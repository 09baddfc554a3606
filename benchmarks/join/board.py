"""What a whole run found, as a table for people and one JSON object for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from confluent_kafka import libversion
from rich.console import Console
from rich.table import Table

from benchmarks.join.latency import Delays
from benchmarks.join.live import Lived
from benchmarks.join.peer import Peer
from benchmarks.join.race import Raced
from benchmarks.join.restore import Restored
from benchmarks.join.truth import Verdict
from services.local.jars import KAFKA_VERSION

WEIR = "weir_json"
ARROW = "weir_arrow"


@dataclass(slots=True)
class Found:
    """Everything about one peer. `skipped` is the line that says why there is nothing."""

    peer: Peer
    raced: Raced | None = None
    judged: Verdict | None = None
    lived: Lived | None = None
    skipped: str = ""


@dataclass(slots=True)
class Board:
    """Everything about one run."""

    command: str
    events: int
    partitions: int
    peers: dict[str, Found] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    delays: Delays | None = None
    restored: Restored | None = None
    more: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str) -> float | None:
        """Give a peer's events per CPU second."""
        found = self.peers.get(name)
        return found.raced.per_cpu_s if found is not None and found.raced is not None else None

    def bytes_per_open(self) -> float | None:
        """Give the bytes at a million open predictions, or at the size nearest to it."""
        if not self.curve:
            return None
        return min(self.curve, key=lambda point: abs(point["open"] - 1e6))["bytes_per_open"]

    def cost_ratio(self) -> float | None:
        """Give CPU per event at the largest state over that at the smallest."""
        if len(self.curve) < 2:
            return None
        points = sorted(self.curve, key=lambda point: point["open"])
        return points[-1]["us_per_event"] / points[0]["us_per_event"]

    def arrow_ratio(self) -> float | None:
        """Give the figure with envelopes over that without."""
        alone, enclosed = self.figure(WEIR), self.figure(ARROW)
        return enclosed / alone if alone and enclosed else None

    def as_json(self) -> dict[str, Any]:
        """Give the object for programs. Figures that were not measured are null."""
        weir = self.peers.get(WEIR)
        lived = weir.lived if weir is not None else None
        return {
            "weir_json": _rounded(self.figure(WEIR)),
            "weir_arrow": _rounded(self.figure(ARROW)),
            "arrow_over_json": _rounded(self.arrow_ratio(), 2),
            "peers": {name: _rounded(self.figure(name)) for name in self.peers if name not in (WEIR, ARROW)},
            "bytes_per_open": _rounded(self.bytes_per_open(), 1),
            "p50_ms": _rounded(self.delays.p50_ms if self.delays else None, 1),
            "p99_ms": _rounded(self.delays.p99_ms if self.delays else None, 1),
            "idle_negative_ms": _rounded(lived.idle_ms if lived else None, 1),
            "restore_per_s": _rounded(self.restored.per_s if self.restored else None),
            "cost_ratio_1e5_1e7": _rounded(self.cost_ratio(), 3),
            "cost_ratio_ends": [round(point["open"]) for point in (self.curve[:1] + self.curve[-1:])],
            "alone": {name: round(value) for name, value in self.alone.items()},
            **{name: self.more.get(name) for name in ("scale", "pauses", "hot", "day")},
            "detail": {
                "machine": machine(),
                "versions": versions(),
                "command": self.command,
                "events": self.events,
                "partitions": self.partitions,
                "peers": {name: _detail(found) for name, found in self.peers.items()},
                "curve": self.curve,
                "latency": asdict(self.delays) if self.delays else None,
                "restore": asdict(self.restored) if self.restored else None,
                "notes": self.notes,
            },
        }

    def show(self, console: Console) -> None:
        """Print the table and what stands beside it."""
        console.print(self._table())
        weir = self.figure(WEIR)
        for name, value in self.alone.items():
            of = f", Weir takes {value / weir:.1f} times as much CPU an event" if weir else ""
            console.print(f"  {name} alone: {value:,.0f} messages per CPU second{of}")
        if self.delays is not None:
            late = self.delays
            console.print(
                f"  latency at {late.per_s:,.0f} events/s (half of the capacity): p50 {late.p50_ms:.0f} ms, p99 "
                f"{late.p99_ms:.0f} ms, at most {late.most_ms:.0f} ms over {late.rows:,} labels; Weir took "
                f"{late.cpu_share:.2f} cores; the producer was at most {late.late_ms} ms late (counted)"
            )
        if self.restored is not None:
            back = self.restored
            console.print(
                f"  restore: {back.open:,} of {back.expected:,} open predictions in {back.restored_s:.2f} s "
                f"({back.per_s:,.0f}/s), ready {back.back_s:.1f} s after the process began; {back.pss_mb:,.0f} MB"
            )
        for point in self.curve:
            console.print(
                f"  {point['open']:>12,.0f} open: {point['us_per_event']:6.2f} µs an event, "
                f"{point['bytes_per_open']:,.0f} bytes each"
            )
        for name, rows in self.more.items():
            for row in rows:
                told = ", ".join(f"{key} {value:,.4g}" for key, value in row.items() if isinstance(value, int | float))
                console.print(f"  {name}: {told}")
        for note in self.notes:
            console.print(f"  {note}")
        if ratio := self.arrow_ratio():
            console.print(f"  envelopes: {ratio:.2f} times the events per CPU second of single records")
        console.print(f"  machine   {machine()}")
        console.print("  versions  " + ", ".join(f"{name} {value}" for name, value in versions().items()))
        console.print(f"  command   {self.command}")

    def _table(self) -> Table:
        table = Table(title=f"{self.events:,} events, {self.partitions} partitions, JSON in and out", box=None)
        table.add_column("peer", no_wrap=True)
        table.add_column("promise")
        for title in (
            *("events per\nCPU s", "Weir is\ntimes", "with\nstart-up", "events/s", "MB", "correct", "missing"),
            *("wrong", "more\nrows", "after kill:\nmissing", "more\nrows", "back\ns", "idle neg.\nms", "load"),
        ):
            table.add_column(title, justify="right")
        weir = self.figure(WEIR)
        for found in sorted(
            self.peers.values(), key=lambda found: (found.peer.name != WEIR, -(self.figure(found.peer.name) or 0))
        ):
            peer, raced, judged, lived = found.peer, found.raced, found.judged, found.lived
            if found.skipped:
                table.add_row(peer.title, f"skipped: {found.skipped}")
                continue
            figure, after = self.figure(peer.name), lived.verdict if lived else None
            table.add_row(
                f"{peer.title}\n  {peer.version}",
                peer.guarantee,
                _number(figure),
                "" if weir is None or not figure or peer.name == WEIR else f"{weir / figure:.1f}",
                _number(raced.whole_per_cpu_s if raced else None),
                _number(raced.per_s if raced else None),
                _number(raced.pss_mb if raced else None),
                *(
                    _number(getattr(judged, name) if judged else None)
                    for name in ("correct", "missing", "wrong", "more")
                ),
                *(_number(getattr(after, name) if after else None) for name in ("missing", "more")),
                f"{lived.back_s:.1f}" if lived and lived.back_s is not None else "–",
                _idle(lived),
                f"{raced.load:.1f}" if raced else "–",
            )
        return table


def machine() -> str:
    """Say what this machine is."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}"
    return f"{model or platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def versions() -> Mapping[str, str]:
    """Give the versions of what Weir runs on."""
    packages = {name: version(name) for name in ("weir", "confluent-kafka", "msgspec", "numpy", "numba")}
    return {"python": platform.python_version(), "kafka": KAFKA_VERSION, "librdkafka": str(libversion()[0]), **packages}


def _detail(found: Found) -> dict[str, Any]:
    return {
        "version": found.peer.version,
        "guarantee": found.peer.guarantee,
        "raced": asdict(found.raced) if found.raced else None,
        "judged": asdict(found.judged) if found.judged else None,
        "lived": asdict(found.lived) if found.lived else None,
        "skipped": found.skipped,
    }


def _idle(lived: Lived | None) -> str:
    if lived is None or lived.verdict is None:
        return "–"
    return "never" if lived.idle_ms is None else f"{lived.idle_ms:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _rounded(value: float | None, digits: int = 0) -> float | None:
    return None if value is None else round(value, digits) if digits else round(value)
