"""What `weir policy set` sends, and what it refuses before the join would."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from schemas.errors import WeirError
from schemas.event import encode
from schemas.settings import Settings
from services.cli.policy import read_policies, set_policy
from services.cli.standing import list_policies
from services.kafka import Sender, read_to_end

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


def test_policies_are_listed_with_what_is_in_force(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_policies(on_kafka, model=None, as_json=False)
    assert capsys.readouterr().out.startswith("no policy is set for any model")
    set_policy(on_kafka, write(tmp_path / "p.toml", horizon_ms=60_000), as_json=True)
    assert [one["version"] for one in json.loads(capsys.readouterr().out)] == [1]
    for automation in ("observe", "retrain"):
        (tmp_path / "d.toml").write_text(f'[decide]\nmodel = "m"\nautomation = "{automation}"\n')
        set_policy(on_kafka, tmp_path / "d.toml")
    capsys.readouterr()
    list_policies(on_kafka, model="m", as_json=False)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "m  [decide] d@1  superseded"
    assert second == "m  [decide] d@2  in force, automation: retrain"
    assert third.startswith("m  [join] p@1  in force from 20")
    list_policies(on_kafka, model="other", as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_a_policy_that_not_every_partition_has_is_told_and_sent_again(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "d.toml"
    file.write_text('[decide]\nmodel = "m"\n')
    (command,) = read_policies(file, now_ms=0)
    with Sender(on_kafka) as sender:
        sender.send("control", encode(command), partition=0)
    list_policies(on_kafka, model=None, as_json=False)
    missing = list(range(1, on_kafka.partitions))
    assert f"not in partitions {missing}: set it again" in capsys.readouterr().out
    file.write_text('[decide]\nmodel = "m"\nversion = 1\n')
    set_policy(on_kafka, file)
    capsys.readouterr()
    list_policies(on_kafka, model=None, as_json=False)
    assert "not in partitions" not in capsys.readouterr().out
