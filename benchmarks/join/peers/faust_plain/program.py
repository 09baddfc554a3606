# mypy: ignore-errors
"""Two agents share a table of what waits, keyed by request id."""

import argparse
import sys
from collections import defaultdict, deque

import faust

parser = argparse.ArgumentParser()
for name in ("bootstrap", "predictions", "labels", "output", "group", "state"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--partitions", type=int)
parser.add_argument("--timeout-ms", type=int)
given = parser.parse_args()

app = faust.App(
    given.group,
    broker=f"kafka://{given.bootstrap}",
    store="memory://",
    datadir=given.state,
    topic_partitions=given.partitions,
    topic_replication_factor=1,
    topic_disable_leader=True,
    table_standby_replicas=0,
    broker_commit_interval=1.0,
    stream_wait_empty=False,
    web_enabled=False,
    autodiscover=False,
)
text = {"key_type": str, "key_serializer": "raw", "value_serializer": "json"}
predictions = app.topic(given.predictions, **text)
labels = app.topic(given.labels, **text)
output = app.topic(given.output, **text)
# request id → {"prediction", "label", "until_ms", "partition"}; neither of the two once it is answered
waiting = app.Table("waiting", partitions=given.partitions, key_type=str, value_type=dict)

due = defaultdict(deque)  # partition → (until_ms, request id) in the order in which they came
seen_ms = defaultdict(dict)  # partition → topic → Kafka timestamp
known = set()  # partitions whose `due` has been filled after a start


async def emit(request, prediction, label, kind, labelled_at_ms):
    """Send a row of feedback."""
    row = {
        **prediction,
        "label": label,
        "label_kind": kind,
        "predicted_at_ms": prediction["at_ms"],
        "labelled_at_ms": labelled_at_ms,
    }
    await output.send(key=request, value=row)


async def expire(message):
    """Answer what has waited long enough in this event's partition; a table takes no writes outside of a stream."""
    partition, now = message.partition, int(message.timestamp * 1000)
    if partition not in known:
        known.add(partition)
        held = sorted(
            (state["until_ms"], request) for request, state in waiting.items() if state["partition"] == partition
        )
        due[partition].extend(held)
    seen_ms[partition][message.topic] = now
    if len(seen_ms[partition]) < 2:
        return
    least_ms, queue = min(seen_ms[partition].values()), due[partition]
    while queue and queue[0][0] < least_ms:
        _, request = queue.popleft()
        state = waiting.pop(request, None)
        if state and state.get("prediction"):
            await emit(request, state["prediction"], 0, "timeout", None)


async def take(event, is_prediction):
    """Bring a prediction or label together with its other half."""
    message, body = event.message, event.value
    request = body["request_id"]
    state = waiting.get(request)
    if state is None:
        until_ms = body["at_ms"] + given.timeout_ms
        state = {"until_ms": until_ms, "partition": message.partition, "answered": False}
        due[message.partition].append((until_ms, request))
    if not state["answered"]:
        state["prediction" if is_prediction else "label"] = body
        prediction, label = state.get("prediction"), state.get("label")
        if prediction and label:
            await emit(request, prediction, label["label"], "explicit", label["at_ms"])
            state = {"until_ms": state["until_ms"], "partition": state["partition"], "answered": True}
        waiting[request] = state
    await expire(message)


@app.agent(predictions)
async def on_prediction(stream):
    async for event in stream.events():
        await take(event, True)


@app.agent(labels)
async def on_label(stream):
    async for event in stream.events():
        await take(event, False)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "--loglevel", "warn", "--without-web"]
    app.main()
