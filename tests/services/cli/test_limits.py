"""Limits of `[decide]` that could never be passed are refused with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import WeirError
from schemas.lifecycle import DecidePolicy
from services.cli.policy import read_policies


def read(directory: Path, line: str) -> DecidePolicy:
    """Read a policy with one more line."""
    file = directory / "d.toml"
    file.write_text(f'[decide]\nmodel = "m"\n{line}\n')
    (command,) = read_policies(file, now_ms=0)
    assert isinstance(command.policy, DecidePolicy)
    return command.policy


def test_limits_on_the_right_side_are_taken(tmp_path: Path) -> None:
    policy = read(tmp_path, "min_quality = {accuracy = 0.8, bias = -1.0}\nmax_loss = {log_loss = 0.4, bias = 1.0}")
    assert policy.min_quality == {"accuracy": 0.8, "bias": -1.0}
    assert policy.max_loss == {"log_loss": 0.4, "bias": 1.0}
    assert read(tmp_path, "min_quality = {'refund:auc' = 0.7}").min_quality == {"refund:auc": 0.7}


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ("min_quality = {log_loss = 0.4}", "'log_loss' is better when it is lower", "put it into `max_loss`"),
        ("max_loss = {auc = 0.8}", "'auc' is better when it is higher", "put it into `min_quality`"),
        ("min_quality = {acuracy = 0.8}", "there is no metric 'acuracy'", "did you mean 'accuracy'?"),
        ("min_quality = {'refund:acu' = 0.8}", "there is no metric 'refund:acu'", "did you mean 'refund:auc'?"),
        ("max_loss = {'refund:auc' = 0.8}", "'refund:auc' is better when it is higher", "put it into `min_quality`"),
        ("max_loss = {zzz = 0.8}", "there is no metric 'zzz'", "docs/metrics.md lists them"),
    ],
)
def test_limits_that_mean_nothing_are_refused(tmp_path: Path, line: str, said: str, fix: str) -> None:
    with pytest.raises(WeirError) as refused:
        read(tmp_path, line)
    assert said in str(refused.value)
    assert refused.value.fix == fix
