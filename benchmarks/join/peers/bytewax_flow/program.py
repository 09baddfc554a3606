# mypy: ignore-errors
"""Both topics merged, one logic per request id: the label or the timeout, whichever comes first."""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulLogic
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

parser = argparse.ArgumentParser()
for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--partitions", type=int)
parser.add_argument("--timeout-ms", type=int)
given = parser.parse_args()

TIMEOUT = timedelta(milliseconds=given.timeout_ms)
SNAPSHOT = timedelta(seconds=10)  # what its documentation recommends


def row(prediction, label, kind, labelled_at_ms):
    """Give the row of feedback."""
    return {
        **prediction,
        "label": label,
        "label_kind": kind,
        "predicted_at_ms": prediction["at_ms"],
        "labelled_at_ms": labelled_at_ms,
    }


@dataclass(frozen=True)
class Waiting:
    """What is known of a request; `answered` keeps a second copy of a label silent until the timeout."""

    until: datetime
    prediction: dict | None = None
    label: dict | None = None
    answered: bool = False


class Outcome(StatefulLogic):
    """One request. Notifications follow the system's clock: an operator without a window has no other."""

    def __init__(self, state):
        self.state = state or Waiting(datetime.now(UTC) + TIMEOUT)

    def on_item(self, value):
        is_prediction, event = value
        state = self.state
        if state.answered:
            return [], StatefulLogic.RETAIN
        prediction = event if is_prediction else state.prediction
        label = state.label if is_prediction else event
        if prediction is None or label is None:
            self.state = Waiting(state.until, prediction, label)
            return [], StatefulLogic.RETAIN
        self.state = Waiting(state.until, answered=True)
        return [row(prediction, label["label"], "explicit", label["at_ms"])], StatefulLogic.RETAIN

    def on_notify(self):
        state = self.state
        if state.prediction is not None and not state.answered:
            return [row(state.prediction, 0, "timeout", None)], StatefulLogic.DISCARD
        return [], StatefulLogic.DISCARD

    def notify_at(self):
        return self.state.until

    def snapshot(self):
        return self.state


def keyed(is_prediction):
    """Give what turns a message into (request id, event)."""

    def of(message):
        return message.key.decode(), (is_prediction, orjson.loads(message.value))

    return of


flow = Dataflow("feedback")
tuning = {"fetch.queue.backoff.ms": "5"}  # the default of 1 s starves a fast reader
predictions = kop.input(
    "predictions", flow, brokers=[given.bootstrap], topics=[given.predictions], add_config=dict(tuning)
)
labels = kop.input("labels", flow, brokers=[given.bootstrap], topics=[given.labels], add_config=dict(tuning))
merged = op.merge(
    "merge",
    op.map("prediction", predictions.oks, keyed(True)),
    op.map("label", labels.oks, keyed(False)),
)
rows = op.stateful("join", merged, Outcome)
messages = op.map("encode", rows, lambda pair: KafkaSinkMessage(pair[0].encode(), orjson.dumps(pair[1])))
kop.output(
    "feedback",
    messages,
    brokers=[given.bootstrap],
    topic=given.output,
    add_config={"partitioner": "murmur2_random", "linger.ms": "5", "compression.type": "lz4"},
)

if __name__ == "__main__":
    recovery = Path(given.state) / "recovery"
    if not recovery.exists():
        recovery.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "bytewax.recovery", str(recovery), str(given.partitions)], check=True)
    cli_main(flow, epoch_interval=SNAPSHOT, recovery_config=RecoveryConfig(str(recovery), timedelta(0)))
