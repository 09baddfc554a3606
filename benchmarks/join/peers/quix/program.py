# mypy: ignore-errors
"""Predictions joined with the labels of an interval around them."""

import argparse

from quixstreams import Application

parser = argparse.ArgumentParser()
for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--partitions", type=int)
parser.add_argument("--timeout-ms", type=int)
given = parser.parse_args()

app = Application(
    broker_address=given.bootstrap,
    consumer_group=given.group,
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_interval=1.0,  # the default of 5 s would hold every row back for that long
    state_dir=given.state,
    loglevel="WARNING",
    producer_extra_config={"compression.type": "lz4"},
)


def merged(prediction, label):
    """Give the row of feedback."""
    return {
        **prediction,
        "label": label["label"],
        "label_kind": "explicit",
        "predicted_at_ms": prediction["at_ms"],
        "labelled_at_ms": label["at_ms"],
    }


predictions = app.dataframe(app.topic(given.predictions, value_deserializer="json", key_deserializer="str"))
labels = app.dataframe(app.topic(given.labels, value_deserializer="json", key_deserializer="str"))
joined = predictions.join_interval(
    labels,
    how="inner",
    on_merge=merged,
    grace_ms=2 * given.timeout_ms,
    backward_ms=5_000,
    forward_ms=given.timeout_ms,
)
joined.to_topic(app.topic(given.output, value_serializer="json", key_serializer="str"))

if __name__ == "__main__":
    app.run()
