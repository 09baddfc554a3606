"""The demo from set-up to the last line: its own directory, its own namespace, real parts, nothing scripted.

What is told to the system before the replay: a join policy, a decide policy that switches automation on, version 1
(trained on the first rows) as the first promotion, and one webhook. Everything after that it finds out by itself.
"""

from __future__ import annotations

import json as jsonlib
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

import numpy as np
from pydantic import SecretStr

from schemas.control import DecidePolicySet, PolicySet
from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.lifecycle import DecidePolicy, Deployment, Promote
from schemas.policy import JoinPolicy
from schemas.settings import AlertDelivery, Api, Join, Serve, Settings, Webhook
from services.cli.policy import send_control
from services.cli.up import Running, announce, running
from services.demo.receiver import Receiver
from services.demo.replay import Replay
from services.demo.report import Result, false_alarms, result_of
from services.demo.story import Story
from services.demo.stream import (
    DRIFT_AT,
    DRIFT_SIZE,
    FEATURES,
    LATE_ROWS,
    ORIGIN_MS,
    ROW_MS,
    TRAINED,
    Stream,
    make_stream,
    read_elec2,
)
from services.kafka import Sender
from services.local.datasets import elec2

MODEL = "elec2"
ENDPOINT = "default"
NAMES = ("record", "join", "judge", "decide", "train", "serve", "alert", "api")

JOIN_POLICY = JoinPolicy(
    model=MODEL,
    name="demo",
    horizon_ms=60 * ROW_MS,
    lateness_ms=120 * ROW_MS,
    retain_ms=1_200 * ROW_MS,
    on_timeout="unlabelled",
    carry="features",
)
DECIDE_POLICY = DecidePolicy(
    model=MODEL,
    name="demo",
    automation="full",
    endpoint=ENDPOINT,
    retrain_on=["quality"],
    settle_ms=2_000 * ROW_MS,
    window_ms=2_400 * ROW_MS,
    cooldown_ms=3_000 * ROW_MS,
    margin=0.05,
    canary_weight=0.5,
    max_shadow_ms=5_000 * ROW_MS,
    max_canary_ms=8_000 * ROW_MS,
)
JUDGE = {"budget": 1.0, "epsilon_error": 0.03, "window_panes": 20, "trial_window_ms": 48 * ROW_MS, "live_ms": 60_000}


def run(
    *,
    seed: int,
    drift_at: int | None,
    drift_size: float | None,
    shuffle: bool,
    rows: int | None,
    json: bool,
    exit_: bool,
) -> int:
    """Run the demo and give the exit code. With `json` the last line of standard output is one object."""
    if rows is not None and rows <= TRAINED:
        raise WeirError(f"--rows must be more than {TRAINED}: the first {TRAINED} train version 1", code=USAGE)
    began = time.monotonic()
    features, labels = read_elec2(elec2())
    stream = make_stream(
        features,
        labels,
        seed=seed,
        drift_at=DRIFT_AT if drift_at is None else drift_at,
        drift_size=DRIFT_SIZE if drift_size is None else drift_size,
        shuffle=shuffle,
        rows=rows,
    )
    directory = Path(tempfile.mkdtemp(prefix="weir-demo-"))
    stopped = threading.Event()
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            Receiver() as receiver,
            running(_settings(directory, receiver), NAMES, embedded=True, say=announce) as system,
        ):
            result = _replay(system, stream, receiver, began)
            print(result.table(), flush=True)
            if shuffle:
                print(false_alarms(stream, system.settings, JUDGE, result), flush=True)
            if not exit_:
                print(f"\n  The page is at {system.page}\n  Ctrl-C ends the demo.\n", flush=True)
                stopped.wait()
        if json:
            print(jsonlib.dumps(result.as_json()), flush=True)
        return 0
    except KeyboardInterrupt:
        announce("demo", "ended before its time; everything is stopped")
        return 130
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        shutil.rmtree(directory, ignore_errors=True)


def _replay(system: Running, stream: Stream, receiver: Receiver, began: float) -> Result:
    settings = system.settings
    _tell(f"{len(stream) - TRAINED:,} rows of Elec2, one per virtual second; automation is ON in this demo's policy.")
    _tell(f"page   {system.page}")
    _introduce(settings, stream)
    story = Story(settings, _tell)
    story.start()
    replay = Replay(settings, stream)
    try:
        replay.ready()
        total, started, told = len(stream) - TRAINED, time.monotonic(), 0.0
        for done in replay.run():
            now = time.monotonic()
            if now - told > 5 or done == total:
                told = now
                rate = done / (now - started)
                announce("replay", f"{done:,} of {total:,} rows ({done / total:.0%}), {rate:.0f} rows/s")
        return result_of(settings, stream, story, replay, receiver, time.monotonic() - began)
    finally:
        story.stop()
        replay.close()


def _introduce(settings: Settings, stream: Stream) -> None:
    """Train version 1 on the first rows, freeze its reference, set the policies, ask serving for it."""
    from services.train.initial import train_initial

    before_ms = ORIGIN_MS - 600_000
    send_control(
        settings,
        [
            PolicySet(policy=JOIN_POLICY, at_ms=before_ms),
            DecidePolicySet(policy=DECIDE_POLICY, at_ms=before_ms),
        ],
        append_ms=before_ms,
    )
    artifact = train_initial(
        settings,
        MODEL,
        "v1",
        features={name: stream.features[:TRAINED, column] for column, name in enumerate(FEATURES)},
        labels=stream.labels[:TRAINED],
        at_ms=np.array([Stream.at(row) for row in range(TRAINED)]),
        subjects=[Stream.subject(row) for row in range(TRAINED)],
        labelled_at_ms=np.array([Stream.at(row + LATE_ROWS) for row in range(TRAINED)]),
    )
    promote = Promote(
        endpoint=ENDPOINT,
        model=MODEL,
        revision=1,
        deployments=[Deployment(deployment="v1", version="v1", weight=1.0, artifact=str(artifact.path))],
        reason="version 1 was trained on the first rows",
        at_ms=before_ms,
    )
    with Sender(settings, "demo") as sender:
        sender.send("promote", encode(promote), key=ENDPOINT.encode(), append_ms=before_ms)


def _settings(directory: Path, receiver: Receiver) -> Settings:
    webhook = Webhook(name="demo", url=receiver.url, secret=SecretStr(receiver.secret), allow_private=True)
    return Settings(
        namespace="demo",
        clock="virtual",
        partitions=2,
        data_dir=directory,
        join=Join(pane_ms=48 * ROW_MS, early_label_ms=600_000, grace_ms=5_000),
        judge=JUDGE,
        serve=Serve(port=0, endpoint=ENDPOINT),
        api=Api(port=0),
        alert=AlertDelivery(webhooks=[webhook], repeat_ms=3_600_000),
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    print(text, flush=True)
