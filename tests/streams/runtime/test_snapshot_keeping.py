"""When snapshots are taken, of what, and what a failed one means for the next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from streams.runtime import keeping
from streams.runtime.clock import VirtualClock
from streams.runtime.health import Progress
from streams.runtime.keeping import Keeping
from streams.runtime.objects import Files
from streams.runtime.phase import Untold
from streams.runtime.processor import Batch, Body, Dump, Stepped
from streams.runtime.restore import Restored
from streams.runtime.snapshot import SnapshotStore


class Cells:
    """A processor whose state is named cells, each a part."""

    stage: str = "join"
    version: str = "1"
    inputs: tuple[str, ...] = ("predictions",)

    def __init__(self) -> None:
        self.dumps: list[tuple[bool, list[str]]] = []
        self.changed: set[str] = set()
        self.takes_s = 0.0

    def empty(self, partition: int) -> dict[str, bytes]:
        return {}

    def step(self, state: dict[str, bytes], batch: Batch, clock_ms: int) -> Stepped:
        raise NotImplementedError

    def write(self, state: dict[str, bytes], **cells: bytes) -> None:
        state.update(cells)
        self.changed |= set(cells)

    def dump(self, state: dict[str, bytes], *, whole: bool) -> Dump:
        time.sleep(self.takes_s)
        names = sorted(state if whole else self.changed)
        self.changed.clear()
        self.dumps.append((whole, names))
        parts: dict[str, Body | None] = {name: state[name] for name in names}
        return Dump(parts)

    def load(self, partition: int, parts: Mapping[str, bytes]) -> dict[str, bytes]:
        return dict(parts)


class Bench:
    def __init__(self, root: Path, every_s: float = 10.0) -> None:
        self.processor, self.progress = Cells(), Progress("join", "0")
        self.store = SnapshotStore(Files(root), "team", "join", "log")
        self.keeping = Keeping(self.processor, self.store, every_s, self.progress, Untold())
        self.states = {0: Restored(self.processor.empty(0), VirtualClock())}
        self.keeping.begin(self.states)

    def moved(self, **cells: bytes) -> None:
        """Take a step, and a snapshot of it."""
        self.processor.write(self.states[0].state, **cells)
        self.states[0].step += 1
        self.keeping.all(self.states)

    def kept(self) -> dict[str, bytes]:
        _, parts = next(SnapshotStore(Files(self.store_root), "team", "join", "log").newest(0, up_to_step=99))
        return dict(parts)

    @property
    def store_root(self) -> Path:
        assert isinstance(self.store.objects, Files)
        return self.store.objects.root


def test_what_did_not_change_is_not_dumped_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.moved(a=b"1", b=b"2")
    bench.moved(b=b"3")
    bench.keeping.all(bench.states)  # no step since
    assert bench.processor.dumps == [(True, ["a", "b"]), (False, ["b"])]
    assert bench.kept() == {"a": b"1", "b": b"3"}
    bench.keeping.close()


def test_after_a_failed_write_everything_is_dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.moved(a=b"1", b=b"2")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "put", full)
        bench.moved(b=b"3")
    assert bench.progress.snapshot_failures == 1
    bench.moved(c=b"4")
    bench.moved(a=b"5")
    assert [whole for whole, _ in bench.processor.dumps] == [True, False, True, False]
    assert bench.kept() == {"a": b"5", "b": b"3", "c": b"4"}
    bench.keeping.close()


def test_base_that_is_gone_is_healed_by_a_whole_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.moved(a=b"1" * 100, b=b"2")
    for pack in tmp_path.rglob("*.parts"):
        pack.unlink()
    bench.moved(b=b"3")
    assert bench.progress.snapshot_failures == 1
    bench.moved(b=b"4")
    assert bench.kept() == {"a": b"1" * 100, "b": b"4"}
    bench.keeping.close()


def test_a_long_pause_makes_the_next_one_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PAUSES", 100)
    bench = Bench(tmp_path, every_s=0.5)
    bench.processor.takes_s = 0.02
    began = time.monotonic()
    bench.moved(a=b"1")
    due_in_s = bench.keeping._due_at[0] - began
    assert 2.0 <= due_in_s <= 0.5 * keeping.MOST_RARELY + 5
    bench.processor.takes_s = 0.0
    began = time.monotonic()
    bench.moved(a=b"2")
    assert bench.keeping._due_at[0] - began < due_in_s
    bench.keeping.close()
