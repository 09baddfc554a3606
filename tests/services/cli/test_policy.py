"""What `weir policy set` sends, and what it refuses before the join would."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from schemas.errors import WeirError
from schemas.settings import Settings
from services.cli.policy import set_policy
from services.kafka import read_to_end

pytestmark = pytest.mark.kafka


def write(path: Path, **fields: object) -> Path:
    """Write a join policy for the model `m`."""
    lines = [f"{name} = {value}" for name, value in fields.items()]
    path.write_text("\n".join(["[join]", 'model = "m"', *lines]) + "\n")
    return path


def test_a_policy_without_notice_is_refused_with_the_moment_that_will_do(on_kafka: Settings, tmp_path: Path) -> None:
    soon_ms = int(time.time() * 1000) + 30_000
    for moment_ms in (1, soon_ms):
        with pytest.raises(WeirError, match=f"`effective_from_ms` is {moment_ms}: .* a minute's notice") as refused:
            set_policy(on_kafka, write(tmp_path / "p.toml", effective_from_ms=moment_ms))
        assert "or later" in refused.value.fix
    assert not list(read_to_end(on_kafka, "control"))
    set_policy(on_kafka, write(tmp_path / "p.toml", effective_from_ms=soon_ms + 600_000))
    assert len(list(read_to_end(on_kafka, "control"))) == on_kafka.partitions


def test_what_a_version_says_never_changes(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_policy(on_kafka, write(tmp_path / "p.toml", horizon_ms=60_000))
    with pytest.raises(WeirError, match=r"p@1 has been set with another content"):
        set_policy(on_kafka, write(tmp_path / "p.toml", horizon_ms=50_000, version=1))
    set_policy(on_kafka, write(tmp_path / "p.toml", horizon_ms=60_000, version=1))
    assert "p@1 is set already" in capsys.readouterr().out
    assert len(list(read_to_end(on_kafka, "control"))) == on_kafka.partitions
    set_policy(on_kafka, write(tmp_path / "p.toml", horizon_ms=50_000))
    assert "m: p@2 joins predictions from" in capsys.readouterr().out
