"""The log on disk: what was written is read again after any kill, in order, and what is done is deleted."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serve import segments
from services.serve.segments import Record, Segments


def record(seq: int, body: bytes = b"x" * 40) -> Record:
    """Give a record."""
    return Record(seq, 5 * seq, seq % 2, b"k%d" % seq, body)


def test_what_is_written_is_read_in_order_across_files(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=300)
    made = [record(seq) for seq in range(20)]
    for one in made:
        log.append([one])
    assert list(log.read(0)) == made
    assert list(log.read(7)) == made[7:]
    assert len(list(tmp_path.glob("*.events"))) > 2


def test_a_restart_finds_what_waits_and_goes_on_counting(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=300)
    log.append([record(seq) for seq in range(10)])
    log.pass_to(4)
    log.write_cursor()
    again = Segments(tmp_path)  # the first was killed: never closed
    assert (again.cursor, again.next_seq, again.waiting) == (4, 10, 6)
    again.append([record(10)])
    assert [one.seq for one in again.read(again.cursor)] == [4, 5, 6, 7, 8, 9, 10]


def test_what_is_done_is_deleted(tmp_path: Path) -> None:
    log = Segments(tmp_path, segment_bytes=300)
    for seq in range(20):
        log.append([record(seq)])
    before = log.size
    log.pass_to(15)
    assert log.size < before / 2
    assert [one.seq for one in log.read(15)] == [15, 16, 17, 18, 19]
    log.pass_to(20)
    log.close()
    assert not list(tmp_path.glob("*.events"))
    assert Segments(tmp_path).next_seq == 20


def test_a_torn_tail_is_left_out(tmp_path: Path) -> None:
    log = Segments(tmp_path)
    log.append([record(0), record(1), record(2)])
    (path,) = tmp_path.glob("*.events")
    os.truncate(path, path.stat().st_size - 1)
    again = Segments(tmp_path)
    assert (again.waiting, again.damaged, again.next_seq) == (2, 1, 2)
    again.append([record(2)])
    assert [one.seq for one in again.read(0)] == [0, 1, 2]


@given(st.integers(0, 250), st.integers(1, 255))
def test_a_damaged_byte_never_gives_a_wrong_record(at: int, by: int) -> None:
    made = [record(0), record(1), record(2)]
    body = bytearray(b"".join(segments._pack(one) for one in made))
    body[at % len(body)] ^= by
    found = list(segments._records(bytes(body)))
    assert found == made[: len(found)]
    assert len(found) < 3


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Segments(tmp_path)
    log.append([record(0)])
    size, write = log.size, os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) > 30:
            return write(fd, bytes(data[:20]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            log.append([record(1)])
    assert log.size == size
    log.append([record(2)])  # number 1 went another way
    assert [one.seq for one in log.read(0)] == [0, 2]
    assert [one.seq for one in Segments(tmp_path).read(0)] == [0, 2]
