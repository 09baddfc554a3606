"""Snapshots in parts: whole or refused, written once and shared, the last two kept, on files and on object storage."""

from __future__ import annotations

import os
import random
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore

from schemas.errors import WeirError
from schemas.settings import Settings
from streams.runtime import snapshot as module
from streams.runtime.manifest import Header, Manifest, Part, SnapshotUnreadable, decode, encode
from streams.runtime.objects import Files, Objects, Stored, objects_of
from streams.runtime.snapshot import Snapshot, SnapshotStore

GOLDEN = Path(__file__).parent / "golden"


def header(step: int) -> Header:
    return Header(
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


def manifest(step: int) -> Manifest:
    part = Part("p1", 7, 9, b"d" * 16)
    return Manifest(header(step), {"p1": 16, "p2": 3}, {"a": part, "b": replace_pack(part, "p2")})


def replace_pack(part: Part, pack: str) -> Part:
    return Part(pack, part.offset, part.length, part.digest)


BUCKET = os.environ.get("WEIR_TEST_S3", "")
"""A bucket to test S3 with, as `s3://…`; `AWS_…` says how to reach it."""


@pytest.fixture(params=["files", "obstore files", "obstore memory", *(["s3"] if BUCKET else [])])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Give an empty place of each kind."""
    if request.param == "files":
        return Files(tmp_path)
    if request.param == "obstore files":
        return Stored(LocalStore(tmp_path))
    if request.param == "obstore memory":
        return Stored(MemoryStore())
    return objects_of(Settings.model_validate({"runtime": {"snapshots": f"{BUCKET}/{uuid.uuid4().hex}"}}))


def store(objects: Objects, log: str = "log-id") -> SnapshotStore:
    return SnapshotStore(objects, "team", "join", log)


def whole(step: int, body: bytes = b"state") -> Snapshot:
    return Snapshot(header(step), {"state": body})


def steps(found: SnapshotStore, up_to_step: int = 99) -> list[int]:
    return [one.header.step for one, _ in found.newest(3, up_to_step=up_to_step)]


def read(found: SnapshotStore) -> dict[str, bytes]:
    _, parts = next(found.newest(3, up_to_step=99))
    return dict(parts)


def names(objects: Objects, kind: str) -> list[str]:
    return [name for name in objects.names("team/join/log-id/00003") if name.endswith(kind)]


# --- the manifest as bytes


def test_bytes_come_back() -> None:
    assert decode(encode(manifest(1))) == manifest(1)


@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    content = bytearray(encode(manifest(1)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotUnreadable):
        decode(bytes(content))


@given(length=st.integers(0, len(encode(manifest(1))) - 1))
def test_any_cut_is_noticed(length: int) -> None:
    with pytest.raises(SnapshotUnreadable):
        decode(encode(manifest(1))[:length])


def test_format_1_still_opens(tmp_path: Path) -> None:
    folder = tmp_path / "team/join/log-id/00003"
    folder.mkdir(parents=True)
    (folder / f"{7:020d}.snapshot").write_bytes((GOLDEN / "format-1.snapshot").read_bytes())
    found = store(Files(tmp_path))
    [(one, parts)] = found.newest(3, up_to_step=99)
    assert (one.header.step, one.header.steps_offset, one.header.wake_at_ms) == (7, 14, 1_700_000_003_500)
    assert list(parts) == ["state"]
    assert "state" in parts
    assert "columns" not in parts
    assert parts["state"].startswith(b'1["abc", ')
    found.write(whole(8))
    assert steps(found) == [8, 7]


# --- parts


def test_only_what_changed_is_written(objects: Objects) -> None:
    found = store(objects)
    first = found.write(Snapshot(header(1), {"a": bytes(3000), "b": b"b" * 1000, "c": b"c" * 1000}))
    second = found.write(Snapshot(header(2), {"b": b"new", "c": None, "d": b""}, first))
    assert second.parts["a"] == first.parts["a"]
    assert sum(second.packs.values()) == 5003
    assert read(found) == {"a": bytes(3000), "b": b"new", "d": b""}


def test_body_may_be_any_memory(objects: Objects) -> None:
    records = np.zeros(3, dtype=[("id", "<i8"), ("at", "<i4")])
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    found = store(objects)
    found.write(Snapshot(header(1), {"records": records, "matrix": matrix, "view": memoryview(b"abc")[1:]}))
    assert read(found) == {"records": records.tobytes(), "matrix": matrix.tobytes(), "view": b"bc"}


@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_changes_comes_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK_BYTES", 300)
    monkeypatch.setattr(module, "MOST_PACKS", 4)
    dice = random.Random(seed)
    objects = Stored(MemoryStore())
    found = store(objects)
    state: dict[str, bytes] = {}
    base: Manifest | None = None
    for step in range(1, 80):
        changed: dict[str, bytes | None] = {}
        for _ in range(dice.randint(0, 6)):
            name = f"p{dice.randrange(12)}"
            changed[name] = None if dice.random() < 0.2 else dice.randbytes(dice.randrange(150))
        state = {name: body for name, body in (state | changed).items() if body is not None}
        if dice.random() < 0.1:
            base, found = None, store(objects)  # another process, or a write that failed
        base = found.write(Snapshot(header(step), changed if base else dict(state), base))
        assert read(found) == state
        assert steps(found) == [step, step - 1][: min(step, 2)]
        assert len(base.packs) <= 4 + 3
        assert set(base.packs) <= set(names(objects, ".parts"))
        assert sum(base.packs.values()) <= 2 * sum(map(len, state.values()))
        assert len(names(objects, ".parts")) <= 2 * (4 + 4)


def test_large_state_is_cut_into_packs(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACK_BYTES", 100)
    bodies = {f"p{number}": bytes([number]) * (30 + number * 20) for number in range(6)}
    found = store(objects)
    assert [*found.write(Snapshot(header(1), bodies)).packs.values()] == [80, 70, 90, 110, 130]
    assert read(found) == bodies


# --- what is kept, and what cannot be read


def test_last_two_are_kept_with_their_packs(objects: Objects) -> None:
    found, base = store(objects), None
    for step in (1, 2, 3, 10, 11):
        base = found.write(Snapshot(header(step), {f"p{step}": b"x"}, base))
    assert steps(found) == [11, 10]
    assert steps(found, 10) == [10]
    assert steps(found, 9) == []
    assert read(found) == {f"p{step}": b"x" for step in (1, 2, 3, 10, 11)}


def test_snapshots_of_another_topic_of_the_same_name_are_not_seen(objects: Objects) -> None:
    store(objects).write(whole(1))
    assert steps(store(objects, "log-made-anew")) == []


def test_failed_write_leaves_the_last_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = store(Files(tmp_path))
    found.write(whole(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            found.write(whole(2))
    assert steps(found) == [1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_rest_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    found = store(Files(tmp_path))
    found.write(whole(1))
    [folder] = tmp_path.rglob("00003")
    (folder / "00000000000000000002.snapshot.999999999.tmp").write_bytes(b"half")
    (folder / f"00000000000000000003.snapshot.{os.getppid()}.tmp").write_bytes(b"being written")
    found.write(whole(4))
    assert [path.name for path in folder.glob("*.tmp")] == [f"00000000000000000003.snapshot.{os.getppid()}.tmp"]


def test_pack_without_a_manifest_is_removed_once_it_is_older(objects: Objects) -> None:
    found = store(objects)
    objects.put("team/join/log-id/00003/00000000000000000005-dead-0.parts", [b"killed before its manifest"])
    found.write(whole(5))
    assert len(names(objects, ".parts")) == 2  # of the same step: somebody may be about to name it
    found.write(whole(6))
    found.write(whole(7))
    assert len(names(objects, ".parts")) == 2


def test_unreadable_manifest_does_not_count_as_kept(tmp_path: Path) -> None:
    found = store(Files(tmp_path))
    for step in (1, 2):
        found.write(whole(step))
    [folder] = tmp_path.rglob("00003")
    (folder / f"{2:020d}.snapshot").write_bytes(b"WEIRSNAP torn")
    again = store(Files(tmp_path))
    again.write(whole(3))
    assert steps(again) == [3, 1]


def told(found: SnapshotStore) -> tuple[list[int], list[str]]:
    refused: list[str] = []
    read = []
    for one, parts in found.newest(3, up_to_step=99, refused=lambda which, why: refused.append(f"{which}: {why}")):
        try:
            dict(parts)
            read.append(one.header.step)
        except SnapshotUnreadable as error:
            refused.append(f"{one.header.step}: {error}")
    return read, refused


@pytest.mark.parametrize("harm", ["manifest torn", "manifest gone", "part altered", "part cut", "pack gone"])
def test_harm_is_noticed_and_the_one_before_is_there(tmp_path: Path, harm: str) -> None:
    found = store(Files(tmp_path))
    base = found.write(Snapshot(header(1), {"a": b"a" * 99, "b": b"b" * 10}))
    base = found.write(Snapshot(header(2), {"b": b"B" * 10}, base))
    [folder] = tmp_path.rglob("00003")
    manifest, pack = folder / f"{2:020d}.snapshot", folder / base.parts["b"].pack
    if harm == "manifest torn":
        manifest.write_bytes(manifest.read_bytes()[:-1])
    elif harm == "manifest gone":
        manifest.unlink()
    elif harm == "part altered":
        pack.write_bytes(b"B" * 9 + b"?")
    elif harm == "part cut":
        pack.write_bytes(b"B" * 9)
    else:
        pack.unlink()
    read, refused = told(store(Files(tmp_path)))
    assert read == [1]
    assert len(refused) == (harm != "manifest gone")
    again = store(Files(tmp_path))
    told(again)
    again.write(whole(3))
    assert told(again) == ([3, 1], [])  # what cannot be read does not count as kept


def test_increment_on_what_is_gone_is_refused_and_a_whole_one_heals(objects: Objects) -> None:
    found = store(objects)
    base = found.write(Snapshot(header(1), {"a": b"a" * 99, "b": b"b"}))
    objects.delete([f"team/join/log-id/00003/{pack}" for pack in base.packs])
    with pytest.raises(SnapshotUnreadable, match="parts of the snapshot of step 1 are gone"):
        found.write(Snapshot(header(2), {"b": b"B"}, base))
    found.write(Snapshot(header(2), {"a": b"a" * 99, "b": b"B"}))
    assert told(found)[0] == [2]


def test_follower_with_an_old_base_finds_its_parts_where_they_are_now(objects: Objects) -> None:
    active, follower = store(objects), store(objects)
    body = {"a": b"a" * 50, "b": b"b" * 40, "c": b"c" * 30}
    old = active.write(Snapshot(header(1), body))
    later = active.write(Snapshot(header(2), {"a": b"A" * 50, "b": b"B" * 40}, old))
    later = active.write(Snapshot(header(3), {"d": b"d"}, later))
    active.write(Snapshot(header(4), {"d": None}, later))
    assert not set(old.packs) & set(names(objects, ".parts"))
    follower.write(Snapshot(header(5), {"a": b"A" * 50, "b": b"5" * 40}, old))
    assert read(follower) == {"a": b"A" * 50, "b": b"5" * 40, "c": b"c" * 30}
    with pytest.raises(SnapshotUnreadable, match=r"are gone: \['b'\]"):
        follower.write(Snapshot(header(6), {"a": b"?"}, old))


def test_altered_part_is_not_carried_over(objects: Objects) -> None:
    found = store(objects)
    base = found.write(Snapshot(header(1), {"a": b"a" * 10, "b": b"b" * 99}))
    [pack] = base.packs
    objects.put(f"team/join/log-id/00003/{pack}", [b"?" * 109])
    with pytest.raises(SnapshotUnreadable, match="checksum of the part 'a'"):
        found.write(Snapshot(header(2), {"b": b"B"}, base))  # less than half is left: `a` moves


def test_two_writers_leave_each_other_what_they_need(objects: Objects) -> None:
    asleep, awake = store(objects), store(objects)
    base = asleep.write(Snapshot(header(5), {"a": b"a" * 99, "b": b"1"}))
    later = awake.write(Snapshot(header(7), {"b": b"7"}, base))
    asleep.write(Snapshot(header(6), {"b": b"6"}, base))
    later = awake.write(Snapshot(header(8), {"b": b"8"}, later))
    assert told(awake)[0] == [8, 7]
    assert read(awake) == {"a": b"a" * 99, "b": b"8"}


# --- the place


def test_settings_name_the_place(tmp_path: Path) -> None:
    def place(url: str) -> Objects:
        settings = Settings(data_dir=tmp_path)
        return objects_of(
            settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"snapshots": url})})
        )

    assert place("").where == str(tmp_path / "snapshots")
    assert place("file:///var/lib/a%20b").where == "/var/lib/a b"
    assert place("s3://bucket/prefix").where == "s3://bucket/prefix"
    with pytest.raises(WeirError, match="snapshots cannot be kept at 'nowhere'"):
        place("nowhere")


def test_missing_object_is_the_same_error_everywhere(objects: Objects) -> None:
    with pytest.raises(FileNotFoundError):
        objects.get("a/b")
    assert objects.names("a") == []
    objects.delete(["a/b"])
