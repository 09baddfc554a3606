"""What a restore begins with, what it refuses and says, and that every way ends in the same state."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import xxhash

from schemas.settings import Settings
from services.local.kafka import LocalKafka
from streams.runtime.backlog import lags
from streams.runtime.health import answer
from streams.runtime.manifest import Parts, decode
from streams.runtime.objects import Files
from tests.streams.runtime.harness import assert_exactly_once, fresh, running, send, snapshots

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka: LocalKafka, tmp_path: Path) -> Settings:
    return fresh(kafka.bootstrap, tmp_path, partitions=1, runtime={"snapshot_s": 1000})


def live(settings: Settings, *values: bytes) -> dict[str, object]:
    """Send, read everything, stop cleanly (which writes a snapshot). Gives how the life began."""
    send(settings, "predictions", list(values))
    with running(settings) as run:
        run.until(
            lambda: run.worker.progress.ready and not sum(lags(settings, "join", ("predictions",)).values()), "the end"
        )
    return run.worker.progress.restored[0]


def harm(manifest: Path, what: str) -> None:
    """Damage a snapshot."""
    [pack] = decode(manifest.read_bytes()).packs
    if what == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-3])
    elif what == "part":
        content = bytearray((manifest.parent / pack).read_bytes())
        content[len(content) // 2] ^= 1
        (manifest.parent / pack).write_bytes(content)
    else:
        (manifest.parent / pack).unlink()


@pytest.mark.parametrize(
    ("what", "why"), [("manifest", "its checksum differs"), ("part", "the checksum of the part"), ("pack", "is gone")]
)
def test_snapshot_then_the_one_before_then_the_log(settings: Settings, what: str, why: str) -> None:
    live(settings, b"a")
    live(settings, b"b", b"due:5")
    older, newer = snapshots(settings)
    harm(newer, what)
    how = live(settings, b"c")
    assert how["origin"] == f"snapshot of step {int(older.stem)}"
    refused = str(how["refused"])
    assert f"snapshot of step {int(newer.stem)}: " in refused
    assert why in refused
    for path in snapshots(settings):
        harm(path, what)
    how = live(settings, b"d")
    assert how["origin"] == "the first step"
    assert len(how["refused"]) == 2  # type: ignore[arg-type]
    assert_exactly_once(settings)


def test_snapshot_of_format_1_opens_and_the_next_is_whole(settings: Settings) -> None:
    live(settings, b"a", b"b")
    [path] = snapshots(settings)
    manifest = decode(path.read_bytes())
    body = Parts(manifest, Files(path.parent).reader)["state"]
    header = msgspec.json.encode(msgspec.structs.replace(manifest.header, v=1))
    content = b"".join((b"WEIRSNAP", len(header).to_bytes(4, "big"), header, body))
    path.write_bytes(content + xxhash.xxh3_128_digest(content))
    for pack in path.parent.glob("*.parts"):
        pack.unlink()
    how = live(settings, b"c")
    assert how == {"step": manifest.header.step, "origin": f"snapshot of step {manifest.header.step}"} | {
        "replayed": 0,
        "refused": [],
    }
    assert len(snapshots(settings)) == 2
    assert decode(snapshots(settings)[-1].read_bytes()).header.v == 2
    assert_exactly_once(settings)


def test_readyz_says_how_it_was_restored(settings: Settings) -> None:
    live(settings, b"a")
    [path] = snapshots(settings)
    harm(path, "pack")
    with running(settings) as run:
        run.until(lambda: run.worker.progress.ready, "readiness")
        status, _, body = answer(run.worker.progress, "/readyz")
    assert status == 200
    how = json.loads(body)["restored"]["0"]
    assert how["origin"] == "the first step"
    assert how["refused"][0].endswith("is gone")
