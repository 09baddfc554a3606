"""The command line's surface: help, errors meant for people, exit codes, and settings with their origins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def weir(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_process(tmp_path: Path) -> None:
    from services.cli.processes import PROCESSES

    done = weir("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in (*PROCESSES, "up", "demo", "verify", "dlq", "topics", "policy"))


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    (tmp_path / "weir.toml").write_text('namespace = "from-file"\npartitions = 8\n[kafka]\nbootstrap = "file:1"\n')
    done = weir(
        "config",
        "show",
        "--origin",
        "--json",
        "--namespace",
        "from-flag",
        cwd=tmp_path,
        WEIR_KAFKA__BOOTSTRAP="environment:2",
    )
    shown = json.loads(done.stdout)
    assert shown["namespace"] == {"value": "from-flag", "origin": "flag"}
    assert shown["kafka.bootstrap"] == {"value": "environment:2", "origin": "environment WEIR_KAFKA__BOOTSTRAP"}
    assert shown["partitions"]["value"] == "8"
    assert shown["partitions"]["origin"].startswith("file ")
    assert shown["clock"] == {"value": "broker", "origin": "default"}


@pytest.mark.parametrize(
    ("words", "file", "code", "told"),
    [
        (("config", "show"), "namespac = 'x'\n", 2, "correct namespac in weir.toml (did you mean `namespace`?)"),
        (("config", "show"), "[join]\nskew = 1\n", 2, "correct join.skew in weir.toml (did you mean `join.skew_ms`?)"),
        (("config", "show"), "namespace = \n", 2, "fix: correct weir.toml"),
        (("config", "show"), "log_level = 'loud'\n", 2, "log_level: Input should be 'debug', 'info'"),
        (("config", "show"), "api.port = 99999\n", 2, "api.port: Input should be less than or equal to 65535"),
        (("config", "show"), "join.skew_ms = -1\n", 2, "join.skew_ms: Input should be greater than or equal to 0"),
        (("trace", ""), "", 2, "the request id is empty"),
        (("config", "show", "--config", "absent.toml"), "", 2, "does not exist"),
        (("up", "--only", "joins"), "", 2, "no process joins"),
        (("policy", "set", "absent.toml"), "", 2, "absent.toml"),
        (("dlq", "ls", "--bootstrap", "127.0.0.1:1"), "", 3, "127.0.0.1:1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_say_what_and_how_to_fix(
    words: tuple[str, ...], file: str, code: int, told: str, tmp_path: Path
) -> None:
    (tmp_path / "weir.toml").write_text(file)
    done = weir(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_topics_plan_needs_no_kafka(tmp_path: Path) -> None:
    done = weir("topics", "plan", "--json", "--namespace", "team", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "team.predictions" in done.stdout
    json.loads(done.stdout)
