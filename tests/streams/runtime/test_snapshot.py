"""Snapshot files: whole or refused, the last two kept, the one before when the newest is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.runtime.snapshot import Header, Snapshot, SnapshotStore, SnapshotUnreadable, decode, encode


def snapshot(step: int, body: bytes = b"state") -> Snapshot:
    header = Header(
        stage="join",
        processor="1",
        partition=3,
        step=step,
        offsets={"labels": 5},
        steps_offset=step * 2,
        clock_ms=1000 + step,
        seen_ms={"labels": 999},
        wake_at_ms=None,
        counters={"labels.joined": 4},
    )
    return Snapshot(header, body)


def store(root: Path, log: str = "log-id") -> SnapshotStore:
    return SnapshotStore(root, "team", "join", log)


@given(body=st.binary(max_size=200))
def test_bytes_come_back(body: bytes) -> None:
    assert decode(encode(snapshot(1, body))) == snapshot(1, body)


@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    content = bytearray(encode(snapshot(1)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotUnreadable):
        decode(bytes(content))


@given(length=st.integers(0, len(encode(snapshot(1))) - 1))
def test_any_cut_is_noticed(length: int) -> None:
    with pytest.raises(SnapshotUnreadable):
        decode(encode(snapshot(1))[:length])


def test_last_two_are_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (9, 10, 11):
        kept.write(snapshot(step))
    assert [found.header.step for found in kept.newest(3, up_to_step=99)] == [11, 10]
    assert not list(tmp_path.rglob("*.tmp"))


def test_broken_newest_falls_back_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = store(tmp_path)
    kept.write(snapshot(1))
    path = kept.write(snapshot(2))
    path.write_bytes(path.read_bytes()[:-3])
    assert [found.header.step for found in kept.newest(3, up_to_step=2)] == [1]
    said = capsys.readouterr()
    assert "snapshot_unreadable" in said.out + said.err


def test_snapshot_ahead_of_what_is_committed_is_not_used(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.write(snapshot(4))
    kept.write(snapshot(5))
    assert [found.header.step for found in kept.newest(3, up_to_step=4)] == [4]


def test_namespace_made_anew_does_not_find_its_former_life(tmp_path: Path) -> None:
    store(tmp_path, "first").write(snapshot(4))
    assert list(store(tmp_path, "second").newest(3, up_to_step=9)) == []


@pytest.mark.parametrize("log", ["/etc", "a/b", "..", ""])
def test_nothing_is_written_outside_the_root(tmp_path: Path, log: str) -> None:
    with pytest.raises(ValueError, match="plain names"):
        store(tmp_path, log)


def test_failed_write_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store(tmp_path)
    kept.write(snapshot(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write(snapshot(2))
    assert [found.header.step for found in kept.newest(3, up_to_step=9)] == [1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_leftover_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    directory = kept.write(snapshot(1)).parent
    leftover = directory / f"{2:020d}.snapshot.{2**22 + 1}.tmp"  # above any process id
    leftover.write_bytes(b"half")
    kept.write(snapshot(3))
    assert not leftover.exists()
