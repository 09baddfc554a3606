"""A Pathway program: labels at once by a join, negatives by a buffer that lets a prediction out when its time is over.

A buffer's time is the greatest that it has seen of its own topic. On a backlog the two topics are read minutes of event
time apart (a synchronization group over both never lets a record in), so a negative may come before a label that is
there: the label's row follows.
"""

from __future__ import annotations

import argparse
from typing import Any

import pathway as pw  # type: ignore[import-not-found] # it has an environment of its own

BATCH_MS = 100
BACKLOG = 10_000
KEPT = 10  # how many timeouts long state is kept: on a backlog the topics are read apart

CARRIED = ("request_id", "model", "version", "deployment", "score", "subject", "slices", "features")


class Prediction(pw.Schema):  # type: ignore[misc]
    """A prediction; the request id is the key of its row."""

    request_id: str = pw.column_definition(primary_key=True)
    at_ms: int
    model: str
    version: str | None = pw.column_definition(default_value=None)
    deployment: str | None = pw.column_definition(default_value=None)
    score: float
    subject: str | None = pw.column_definition(default_value=None)
    slices: pw.Json | None = pw.column_definition(default_value=None)
    features: pw.Json | None = pw.column_definition(default_value=None)


class Label(pw.Schema):  # type: ignore[misc]
    """A label; a request may have several, so the request id is no key."""

    request_id: str
    at_ms: int
    label: int


def arguments() -> argparse.Namespace:
    """Read what the harness gives."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--timeout-ms", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    """Build the graph and run it until the process is ended."""
    given = arguments()
    kafka = {"bootstrap.servers": given.bootstrap}
    reading = {
        **kafka,
        "group.id": given.group,
        "auto.offset.reset": "earliest",
        # No partition may be read a megabyte (the default) ahead of the others.
        "max.partition.fetch.bytes": "65536",
    }

    def read(topic: str, schema: type[pw.Schema]) -> pw.Table:
        return pw.io.kafka.read(
            reading,
            topic,
            schema=schema,
            format="json",
            autocommit_duration_ms=BATCH_MS,
            max_backlog_size=BACKLOG,  # recommended for a topic that has a backlog
        )

    predictions, labels = read(given.predictions, Prediction), read(given.labels, Label)
    # `filter_out_results_of_forgetting` keeps what has become old from being taken back.
    old_ms = KEPT * given.timeout_ms
    # A second copy of a label changes nothing in the group, so nothing follows from it.
    once = (
        recent(labels, old_ms)
        .groupby(pw.this.request_id)
        .reduce(pw.this.request_id, label=pw.reducers.min(pw.this.label), labelled_at_ms=pw.reducers.min(pw.this.at_ms))
    )
    explicit = (
        recent(predictions, old_ms)
        .join(once, pw.left.request_id == pw.right.request_id)
        .select(**carried(pw.left), label=pw.right.label, label_kind="explicit", labelled_at_ms=pw.right.labelled_at_ms)
        .filter_out_results_of_forgetting()
    )
    silent = (
        recent(predictions.buffer(pw.this.at_ms, given.timeout_ms), given.timeout_ms)
        .difference(once)
        .select(**carried(pw.this), label=0, label_kind="timeout", labelled_at_ms=None)
        .filter_out_results_of_forgetting()
        .to_stream()  # a negative that is taken back is no row: the label's row, which replaces it, is
        .filter(pw.this.is_upsert)
    )
    writing = {**kafka, "partitioner": "murmur2_random"}
    for rows in (explicit, silent):
        pw.io.kafka.write(rows, writing, given.output, format="json", key=rows.request_id)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


def recent(table: pw.Table, old_ms: int) -> pw.Table:
    """Let rows leave the state of what follows when they are old."""
    return table.forget(pw.this.at_ms, old_ms, mark_forgetting_records=True)


def carried(of: Any) -> dict[str, pw.ColumnReference]:
    """Name what a row has of its prediction."""
    return {**{name: getattr(of, name) for name in CARRIED}, "predicted_at_ms": of.at_ms}


if __name__ == "__main__":
    main()
