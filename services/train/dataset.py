"""Which rows teach: predictions joined with the last word on them, as of recorded offsets, to be read again the same.

A row is a request's standing primary prediction in the window [`from_ms`, `to_ms`) whose outcome is settled and binary
(`services.train.teaching`: final, or said before its deadline and not revised by the timers that have passed it).
Void, unlabelled and other provisional outcomes teach nothing here, nor does an outcome of weight 0. A request that
several deployments answered counts once (the earliest prediction, then the first name). The last revision is the
greatest below the pinned offset of its partition; what is said later is not in this data set, whenever it is read. Of
several label names the policy's `label_name` teaches. Where the policy lets only a share of silence's negatives be
said, each weighs as many as it stands for, so that the model is calibrated for the traffic and needs no correction.

**Pins.** They are Kafka's ends of `predictions`, `feedback` and `steps` when the run began, once `record` has landed
everything below them. Where the recorder does not get there in time, what it has landed is pinned instead, and said so.
The newest pinned step of a partition says where its timers stood. All that they had said must be below the pin of
`feedback`: so steps are asked for first, and what was written of `feedback` by then, committed or not, is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import structlog

from schemas.control import Control, PolicySet
from schemas.errors import ENVIRONMENT, WeirError
from schemas.lifecycle import Retrain
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.clickhouse import Unreachable, connect, first_line
from services.kafka import places_of
from services.record.timers import RAW, records, timers_of
from services.train.rows import DatasetRefused, Rows
from services.train.teaching import Waits, is_settled, waits_of, weight_of
from streams.measure.reading import binary
from streams.runtime import kafka
from streams.runtime.offsets import GroupOffsets

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

LANDING_S: Final = 60.0
LEAST_PRESENT: Final = 0.05
"""A feature needs a value in this share of the rows."""
_POLL_S = 0.05
_PINNED = ("predictions", "feedback")
_STEPS = "steps"

Pins = dict[str, int]
"""`topic/partition` → the first offset that is not in the data set."""

_log = structlog.get_logger()

_STANDING = """
    SELECT request_id, deployment, at_ms, version, score, threshold, subject, features, features_text
    FROM predictions
    WHERE unreadable = '' AND model = {model:String} AND role = 'primary'
      AND at_ms >= {from_ms:Int64} AND at_ms < {to_ms:Int64}
      AND offset < transform(partition, {p_partitions:Array(Int32)}, {p_offsets:Array(Int64)}, toInt64(0))
    ORDER BY at_ms, xxHash64(event_id) LIMIT 1 BY request_id, deployment
"""
_LAST = f"""
    SELECT partition, request_id, deployment, name, predicted_at_ms, status, label_json, labelled_at_ms,
           toString(policy) AS policy, ifNull(toString(label_kind), '') AS kind, weight, log_odds_correction
    FROM feedback
    WHERE unreadable = '' AND model = {{model:String}} AND role = 'primary' AND item IS NULL
      AND offset < transform(partition, {{f_partitions:Array(Int32)}}, {{f_offsets:Array(Int64)}}, toInt64(0))
      AND request_id IN (SELECT request_id FROM ({_STANDING}))
    ORDER BY revision DESC LIMIT 1 BY request_id, deployment, name
"""
_ROWS = f"""
    SELECT s.request_id AS request_id, s.at_ms AS at_ms, toString(s.version) AS version, s.score AS score,
           s.threshold AS threshold, s.subject AS subject, toString(l.name) AS name, l.label_json AS label_json,
           l.weight AS weight, l.log_odds_correction AS log_odds_correction, l.kind AS kind,
           toString(l.status) AS status, l.policy AS policy, l.partition AS partition,
           ifNull(l.labelled_at_ms, s.at_ms) AS labelled_at_ms,
           CAST(mapKeys(s.features), 'Array(String)') AS names, mapValues(s.features) AS numbers,
           CAST(mapKeys(s.features_text), 'Array(String)') AS word_names, mapValues(s.features_text) AS words
    FROM ({_STANDING}) AS s INNER JOIN ({_LAST}) AS l ON s.request_id = l.request_id AND s.deployment = l.deployment
    WHERE l.predicted_at_ms = s.at_ms AND l.status != 'void' AND l.label_json != '' AND l.weight > 0
    ORDER BY s.at_ms, s.request_id, s.deployment, l.name
"""
_COUNT = f"SELECT uniqExact(request_id) FROM ({_STANDING})"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pinned rows. `predictions` counts the requests of the window, labelled or not; `label` is the label's name."""

    rows: Rows
    pins: Pins
    predictions: int
    label: str


def pin(settings: Settings, stop: threading.Event, *, landing_s: float = LANDING_S) -> Pins:
    """Pin what is in Kafka now, as soon as the recorder has landed it. Raises `KafkaException` when Kafka is away."""
    admin = kafka.make_admin(settings, "train")
    names = {place: f"{topic}/{place[1]}" for topic in (_STEPS, *_PINNED) for place in places_of(settings, topic)}
    of_steps, others = places_of(settings, _STEPS), [place for topic in _PINNED for place in places_of(settings, topic)]
    wanted = {place: stable for place, (stable, _) in kafka.ends(admin, of_steps).items()}
    # A step and its feedback are one transaction, but its end reaches one partition before the other.
    wanted |= {place: high for place, (_, high) in kafka.ends(admin, others).items()}
    deadline = time.monotonic() + landing_s
    with GroupOffsets(settings, "record", "train-pin") as recorder:
        while True:
            landed = recorder.committed(list(names))
            behind = [place for place in names if max(landed[place], 0) < wanted[place]]
            if not behind:
                break
            if time.monotonic() > deadline:
                # A group that never committed is not the recorder that fills these tables: trust the tables.
                wanted |= {place: landed[place] for place in behind if landed[place] >= 0}
                # What the timers had said may not be below the pin of feedback: then no step vouches for it.
                wanted |= {place: 0 for place in of_steps if {number for _, number in behind} & {place[1]}}
                _log.warning("recorder_behind", partitions=len(behind), effect="training on what has landed")
                break
            if stop.wait(_POLL_S):
                raise InterruptedError
    return {name: wanted[place] for place, name in names.items()}


def read(settings: Settings, retrain: Retrain, pins: Pins) -> Dataset:
    """Read a pinned data set.

    Raises `DatasetRefused` when it holds nothing to learn from, `Unreachable` when ClickHouse is away, `WeirError` when
    it refuses the query.
    """
    parameters = _parameters(retrain.model, retrain.from_ms, retrain.to_ms, pins)
    policies = _policies(settings, retrain)
    table = _settled(_query(settings, _ROWS, parameters), waits_of(retrain.model, policies), _clocks(settings, pins))
    predictions = count(settings, retrain.model, retrain.from_ms, retrain.to_ms, pins)
    window = f"of {retrain.model!r} in [{retrain.from_ms}, {retrain.to_ms})"
    if not len(table):
        raise DatasetRefused(
            f"{predictions} primary predictions {window}, and not one has a final label",
            fix="wait for labels, or check the join policy's label_name and horizon",
        )
    given = set(table.column("name").to_pylist())
    named = [policy.label_name for policy in policies if policy.label_name in given]
    label = named[0] if named else table.column("name")[-1].as_py()
    table = table.filter(_equal(table.column("name"), label))
    y = _labels(table.column("label_json").to_pylist())
    readable = y >= 0
    if not readable.any():
        raise DatasetRefused(
            f"the {len(table)} final labels {window} are not binary (the first is {table.column('label_json')[0]})",
            fix="this trainer learns labels 0 and 1; another trainer can follow `retrain` for this model",
        )
    if not readable.all():
        _log.warning("labels_not_binary", model=retrain.model, rows=int((~readable).sum()), of=len(table))
    names, x = _features(table)
    rows = Rows(
        names=names,
        x=x,
        y=y,
        weight=_numbers(table, "weight"),
        at_ms=_numbers(table, "at_ms").astype(np.int64),
        labelled_at_ms=_numbers(table, "labelled_at_ms").astype(np.int64),
        request_ids=table.column("request_id").to_pylist(),
        subjects=[
            subject or request_id
            for subject, request_id in zip(
                table.column("subject").to_pylist(), table.column("request_id").to_pylist(), strict=True
            )
        ],
        logged=_numbers(table, "score"),
        thresholds=np.nan_to_num(_numbers(table, "threshold"), nan=0.5),
        versions=table.column("version").to_pylist(),
    ).take(readable)
    rows = _one_a_request(rows)
    kept = _informative(rows, window)
    return Dataset(kept, pins, predictions, label)


def _policies(settings: Settings, retrain: Retrain) -> list[JoinPolicy]:
    """Give each policy that the window may have had, the newest first."""
    sql = "SELECT DISTINCT body FROM control WHERE kind = 'policy_set' AND unreadable = '' AND model = {model:String}"
    found = [JoinPolicy(model=retrain.model)]
    for body in _query(settings, sql, {"model": retrain.model}).column(0).to_pylist():
        event = msgspec.json.decode(body, type=Control)
        if isinstance(event, PolicySet) and event.policy.effective_from_ms < retrain.to_ms:
            found.append(event.policy)
    return sorted(found, key=lambda policy: (policy.effective_from_ms, policy.version), reverse=True)


def _clocks(settings: Settings, pins: Pins) -> dict[int, int]:
    """Give where the timers of each partition stood at the pins; a partition without a pinned step is absent."""

    def ask(sql: str) -> Any:
        return _query(settings, sql, {}, text=False)

    pinned = {int(name.partition("/")[2]): at for name, at in pins.items() if name.startswith(f"{_STEPS}/") and at > 0}
    if not pinned:
        return {}
    control = list(
        records(
            ask(
                f"SELECT {RAW} FROM control "
                "WHERE kind IN ('frozen', 'thawed') AND unreadable = '' ORDER BY partition, offset"
            )
        )
    )
    return {partition: timers_of(ask, partition, control, below).clock_ms for partition, below in pinned.items()}


def _settled(table: Any, waits: Waits, clocks: Mapping[int, int]) -> Any:
    """Keep the rows that teach, with the weight that they have in training."""
    import pyarrow as pa

    mask, weights = [], []
    names = ("status", "kind", "policy", "name", "at_ms", "partition", "weight", "log_odds_correction")
    for status, kind, policy, name, at_ms, partition, weight, kept in zip(
        *(table.column(name).to_pylist() for name in names), strict=True
    ):
        wait_ms = waits.get((policy, name))
        due_ms = None if wait_ms is None else at_ms + wait_ms
        mask.append(is_settled(status, kind, due_ms, clocks.get(partition, 0)))
        weights.append(weight_of(kind, weight, kept))
    place = table.schema.get_field_index("weight")
    return table.set_column(place, "weight", pa.array(weights, pa.float64())).filter(pa.array(mask, pa.bool_()))


def count(settings: Settings, model: str, from_ms: int, to_ms: int, pins: Pins) -> int:
    """Count the requests with a primary prediction in a window, labelled or not."""
    table = _query(settings, _COUNT, _parameters(model, from_ms, to_ms, pins))
    return int(table.column(0)[0].as_py())


def _query(settings: Settings, sql: str, parameters: Mapping[str, Any], *, text: bool = True) -> Any:
    """Give an Arrow table."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    client: HttpClient = connect(settings)
    try:
        return client.query_arrow(sql, dict(parameters), use_strings=text)
    except ClickHouseError as error:
        if getattr(error, "code", None) is None:
            raise Unreachable(f"ClickHouse did not answer: {first_line(error)}", code=ENVIRONMENT) from None
        raise WeirError(
            f"ClickHouse refused to give the training rows: {first_line(error)}", code=ENVIRONMENT
        ) from None
    except (HTTPError, OSError) as error:
        raise Unreachable(f"ClickHouse did not answer: {first_line(error)}", code=ENVIRONMENT) from None
    finally:
        client.close()


def _parameters(model: str, from_ms: int, to_ms: int, pins: Pins) -> dict[str, Any]:
    found: dict[str, Any] = {"model": model, "from_ms": from_ms, "to_ms": to_ms}
    for topic in _PINNED:
        mine = sorted((int(name.rpartition("/")[2]), at) for name, at in pins.items() if name.startswith(f"{topic}/"))
        found[f"{topic[0]}_partitions"] = [partition for partition, _ in mine]
        found[f"{topic[0]}_offsets"] = [offset for _, offset in mine]
    return found


def _equal(column: Any, value: str) -> Any:
    import pyarrow.compute

    return pyarrow.compute.equal(column, value)


def _numbers(table: Any, name: str) -> Any:
    """Give a numeric column as float64, null as NaN. Milliseconds are exact there."""
    import pyarrow as pa

    return np.array(table.column(name).cast(pa.float64()).to_pylist(), dtype=np.float64)


def _labels(texts: list[str]) -> Any:
    """Read labels as `streams.measure` does: 1, 0, or −1 for neither."""
    known = {text: binary(msgspec.json.decode(text)) for text in set(texts)}
    return np.array([-1 if known[text] is None else known[text] for text in texts], dtype=np.int64)


def _features(table: Any) -> tuple[list[str], Any]:
    """Give the names of numeric features, sorted, and [n, names]. True and false are 1 and 0; other text is missing."""
    numbers = [dict(zip(k, v, strict=True)) for k, v in _pairs(table, "names", "numbers")]
    for row, (k, v) in zip(numbers, _pairs(table, "word_names", "words"), strict=True):
        row |= {name: float(word == "true") for name, word in zip(k, v, strict=True) if word in ("true", "false")}
    names = sorted({name for row in numbers for name in row})
    x = np.array([[row.get(name, np.nan) for name in names] for row in numbers], dtype=np.float64)
    x = x.reshape(len(numbers), len(names))
    x[~np.isfinite(x)] = np.nan
    return names, x


def _pairs(table: Any, keys: str, values: str) -> Any:
    return zip(table.column(keys).to_pylist(), table.column(values).to_pylist(), strict=True)


def _one_a_request(rows: Rows) -> Rows:
    seen: set[str] = set()
    first = [i for i, name in enumerate(rows.request_ids) if not (name in seen or seen.add(name))]  # type: ignore[func-returns-value]
    return rows if len(first) == len(rows) else rows.take(first)


def _informative(rows: Rows, window: str) -> Rows:
    present = np.isfinite(rows.x).mean(axis=0) if rows.names else np.zeros(0)
    which = [i for i, share in enumerate(present.tolist()) if share >= LEAST_PRESENT]
    if not which:
        raise DatasetRefused(
            f"the {len(rows)} labelled predictions {window} carry no numeric features",
            fix="put the model's inputs into `features` of each prediction event",
        )
    return replace(rows, names=[rows.names[i] for i in which], x=rows.x[:, which])
