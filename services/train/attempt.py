"""One training run: leased, planned, done, announced; whoever takes it over goes on where it is.

It has a directory beside the versions of its model, `registry/<model>/.runs/<retrain id>/`:

    owner.lock       held while somebody works on it; the kernel lets go when that process dies
    plan.json        what the run reads and makes (pins, version), written before it trains
    candidate.json   what it announces, written when all is done

The same pins give the same rows, the same rows the same weights, and a version that is saved already is not made again.
A data set that cannot teach, or a bug, ends in a candidate with `error`, not in a crash: the next event is not to
blame. ClickHouse or Kafka away is neither, and waited out; a disk that is full stops the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from confluent_kafka import KafkaException

from schemas.errors import ENVIRONMENT, WeirError
from schemas.event import decode, encode
from schemas.lifecycle import Candidate, Retrain
from schemas.settings import Settings
from services.clickhouse import Unreachable
from services.local.owner import DirectoryInUse, DirectoryOwner
from services.train import dataset
from services.train.artifact import (
    SUMS,
    Artifact,
    Lineage,
    folder,
    load,
    load_model,
    locate,
    locked,
    next_version,
    registry_of,
    runs_of,
    save,
    sync_directory,
    versions,
    write_durably,
)
from services.train.rows import DatasetRefused, split
from streams.runtime import kafka

PLAN, CANDIDATE = "plan.json", "candidate.json"
NO_VERSION = "none"
"""What a candidate without a model calls its version."""
_BACKOFF_S = (0.2, 5.0)
_POLL_S = 0.2

ResultT = TypeVar("ResultT")

_log = structlog.get_logger()


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was decided before the training: a successor decides nothing anew."""

    retrain: Retrain
    version: str
    pins: dataset.Pins
    dataset: str
    seed: int
    epochs: int
    device: str
    created_at_ms: int


def attend(settings: Settings, retrain: Retrain, stop: threading.Event) -> tuple[bytes, Artifact | None]:
    """Do a run, or finish what is left of it; give its candidate's bytes and, unless it failed, its artifact.

    Waits while another process works on the same run. Raises `InterruptedError` when `stop` is set meanwhile.
    """
    home = runs_of(registry_of(settings), retrain.model, retrain.retrain_id)
    with _lease(home, retrain, stop):
        finished = home / CANDIDATE
        if finished.exists():
            return _finished(settings, finished.read_bytes())
        artifact: Artifact | None = None
        try:
            artifact = _insist(lambda: _work(settings, retrain, home, stop), stop)
            candidate = _announced(artifact)
        except DatasetRefused as refused:
            _log.warning("dataset_refused", retrain_id=retrain.retrain_id, reason=refused.message)
            candidate = _failed(settings, retrain, f"{refused.message}; {refused.fix}")
        except (InterruptedError, KafkaException):
            raise
        except OSError as error:
            raise WeirError(
                f"the registry {home.parent.parent} cannot be written or read: {error}",
                fix="make room or mend the rights; the run then goes on where it is",
                code=ENVIRONMENT,
            ) from None
        except Exception as error:
            _log.exception("run_failed", retrain_id=retrain.retrain_id)
            said_by = error.message if isinstance(error, WeirError) else f"{type(error).__name__}: {error}"
            candidate = _failed(settings, retrain, said_by)
        body = encode(candidate)
        _put(finished, body)
        return body, artifact


def _finished(settings: Settings, body: bytes) -> tuple[bytes, Artifact | None]:
    said = decode(body, Candidate)
    if said.error:
        return body, None
    try:
        return body, load(locate(settings, said.model, said.version, said.artifact), sha256=said.sha256)
    except WeirError as error:
        _log.error("artifact_gone", version=said.version, reason=error.message, effect="announced as before")
        return body, None


def _work(settings: Settings, retrain: Retrain, home: Path, stop: threading.Event) -> Artifact:
    """Pin, plan, train, save; each only where it is not done yet."""
    from services.train.make import make

    root = registry_of(settings)
    plan = _planned(home)
    if plan is not None:
        saved = folder(root, retrain.model, plan.version)
        if (saved / SUMS).is_file() and load(saved).card.lineage.retrain_id == retrain.retrain_id:
            return load(saved)
        data = dataset.read(settings, retrain, plan.pins)
        if data.rows.digest() != plan.dataset:
            _log.warning("dataset_changed", retrain_id=retrain.retrain_id, effect="rows were erased or landed anew")
    else:
        data = dataset.read(settings, retrain, dataset.pin(settings, stop))
        split(data.rows)  # what cannot teach takes no version
        plan = _plan(settings, retrain, data, home)
    lineage = _lineage(plan, data)
    champion = None
    try:
        champion = load_model(settings, retrain.model, retrain.base_version) if retrain.base_version else None
    except WeirError as error:
        _log.warning("champion_not_loaded", version=retrain.base_version, reason=error.message)
    made = make(
        data.rows,
        model=retrain.model,
        version=plan.version,
        lineage=lineage,
        epochs=plan.epochs,
        maturity=min(1.0, len(data.rows) / max(1, data.predictions)),
        created_at_ms=plan.created_at_ms,
        champion=champion,
    )
    return save(root, made)


def _plan(settings: Settings, retrain: Retrain, data: dataset.Dataset, home: Path) -> Plan:
    """Decide everything that could turn out otherwise the next time, and reserve the version."""
    from services.train.training import device_of

    root = registry_of(settings)
    with locked(root, retrain.model):
        plans = (_planned(other) for other in runs_of(root, retrain.model).glob("*"))
        taken = [*versions(root, retrain.model), *(plan.version for plan in plans if plan), retrain.base_version]
        plan = Plan(
            retrain=retrain,
            version=next_version(taken),
            pins=data.pins,
            dataset=data.rows.digest(),
            seed=settings.train.seed + retrain.attempt - 1,
            epochs=settings.train.epochs,
            device=device_of(settings.train.device, data.rows.x.size),
            created_at_ms=_now_ms(settings, retrain),
        )
        _put(home / PLAN, msgspec.json.encode(plan, order="deterministic"))
    return plan


def _planned(home: Path) -> Plan | None:
    try:
        return msgspec.json.decode((home / PLAN).read_bytes(), type=Plan)
    except FileNotFoundError:
        return None


def _lineage(plan: Plan, data: dataset.Dataset) -> Lineage:
    import torch

    from services.train.make import code_version

    return Lineage(
        retrain_id=plan.retrain.retrain_id,
        base_version=plan.retrain.base_version,
        from_ms=plan.retrain.from_ms,
        to_ms=plan.retrain.to_ms,
        dataset=data.rows.digest(),
        rows=len(data.rows),
        pins=plan.pins,
        code=code_version(),
        seed=plan.seed,
        device=plan.device,
        torch=str(torch.__version__),
    )


def _announced(artifact: Artifact) -> Candidate:
    card = artifact.card
    return Candidate(
        model=card.model,
        version=card.version,
        retrain_id=card.lineage.retrain_id,
        artifact=str(artifact),
        sha256=artifact.sha256,
        framework=card.framework,
        metrics=card.metrics,
        champion=card.champion,
        baselines=card.baselines,
        reference=card.reference.id,
        dataset=card.lineage.dataset,
        rows=card.lineage.rows,
        at_ms=card.created_at_ms,
    )


def _failed(settings: Settings, retrain: Retrain, error: str) -> Candidate:
    return Candidate(
        model=retrain.model,
        version=NO_VERSION,
        retrain_id=retrain.retrain_id,
        artifact="",
        sha256="",
        error=error,
        at_ms=_now_ms(settings, retrain),
    )


def _now_ms(settings: Settings, retrain: Retrain) -> int:
    return retrain.at_ms if settings.clock == "virtual" else max(retrain.at_ms, int(time.time() * 1000))


def _lease(home: Path, retrain: Retrain, stop: threading.Event) -> DirectoryOwner:
    """Take the run, waiting for a live holder; a dead one holds nothing."""
    told = False
    while True:
        try:
            return DirectoryOwner(home, purpose=f"training run {retrain.retrain_id}", linger_s=0.0)
        except DirectoryInUse as held:
            if not told:
                _log.info("run_held", retrain_id=retrain.retrain_id, by=held.pid)
                told = True
        if stop.wait(_POLL_S):
            raise InterruptedError


def _insist(call: Callable[[], ResultT], stop: threading.Event) -> ResultT:
    """Call again while ClickHouse or Kafka is away."""
    wait_s, began = _BACKOFF_S[0], time.monotonic()
    while True:
        try:
            return call()
        except Unreachable as error:
            reason = error.message
        except KafkaException as error:
            if error.args[0].fatal():
                raise
            reason = kafka.reason(error)
        _log.warning("waiting", reason=reason, waited_s=round(time.monotonic() - began, 1))
        if stop.wait(wait_s):
            raise InterruptedError
        wait_s = min(2 * wait_s, _BACKOFF_S[1])


def _put(path: Path, body: bytes) -> None:
    """Write a file whole or not at all, durably."""
    beside = path.with_suffix(".writing")
    write_durably(beside, body)
    beside.rename(path)
    sync_directory(path.parent)
