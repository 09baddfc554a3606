"""Everything that has landed about one request, read from ClickHouse in a dozen small queries.

The request's own records come from the look-up table of `recall` where that is filled (milliseconds), else from the
tables themselves, whose bloom filters on `request_id` leave out most of what is not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from schemas.lifecycle import Alert, Candidate, Promote, Retrain
from schemas.measures import Drift, Measures, Metric, Review, Trial
from schemas.records import DeadLetter
from schemas.settings import Settings
from services.record.timers import RAW, Timers, records, timers_of
from streams.join.naive import Record
from streams.join.partition import partition_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

INPUTS = ("predictions", "labels", "signals")
EventT = TypeVar("EventT", bound=msgspec.Struct)

PARTS = 200_000
"""At most so many records of `measures` are read for one pane."""


@dataclass(slots=True)
class Landed:
    """The records about one request: inputs and feedback as they came, in the order of position.

    `control` holds the policies and freezes of `partition`, the request's own; `timers` is how far the join has come
    there.
    """

    request_id: str
    partition: int
    records: list[tuple[str, Record]] = field(default_factory=list)
    feedback: list[Record] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    control: list[Record] = field(default_factory=list)
    timers: Timers = field(default_factory=Timers)
    fast: bool = False


class Reader:
    """Asks one namespace's database. Serves one thread."""

    def __init__(self, settings: Settings, client: HttpClient) -> None:
        self.settings = settings
        self.client = client

    def landed(self, request_id: str) -> Landed:
        """Read what has landed of a request."""
        found = Landed(request_id, partition_of(request_id.encode(), self.settings.partitions))
        found.fast = self._look_up(found) if self._recallable() else False
        if not found.fast:
            for topic in INPUTS:
                found.records += [(topic, record) for record in self._of_request(topic, request_id)]
            found.feedback = self._of_request("feedback", request_id)
        found.records.sort(
            key=lambda one: (one[1].append_ms, INPUTS.index(one[0]), one[1].partition, one[1].offset, one[1].index)
        )
        found.feedback.sort(key=lambda one: (one.partition, one.offset, one.index))
        found.dead_letters = self._dead_letters(request_id, found.records)
        partitions = sorted({found.partition, *(record.partition for _, record in found.records)})
        found.control = self.control(partitions)
        found.timers = self.timers(found.partition, found.control)
        return found

    def _recallable(self) -> bool:
        from services.recall.table import VERSION

        there = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'recallable_version'"
        if not int(str(self.client.command(there))):
            return False
        return int(str(self.client.command("SELECT max(version) FROM recallable_version"))) == VERSION

    def _look_up(self, found: Landed) -> bool:
        from services.recall.answer import FEEDBACK, KINDS
        from services.recall.table import Recallable
        from services.record.land import Away

        store = Recallable(self.settings)
        try:
            stored = store.find([found.request_id]).get(found.request_id, [])
        except Away:
            return False
        finally:
            store.close()
        for one in {one.place: one for one in stored}.values():
            record = Record(one.partition, one.offset, one.append_ms, one.key, one.value, one.headers, one.index)
            if one.topic == FEEDBACK:
                found.feedback.append(record)
            else:
                found.records.append((KINDS[one.topic], record))
        return True

    def _of_request(self, topic: str, request_id: str) -> list[Record]:
        found: list[Record] = []
        # Apart, because only the first has an index.
        for mine in (
            "request_id = {id:String}",
            "unreadable != '' AND JSONExtractString(ifNull(body, ''), 'request_id') = {id:String}",
        ):
            sql = f"SELECT {RAW} FROM landed_{topic} WHERE {mine} LIMIT 1 BY partition, offset, idx"
            found += records(self.arrow(sql, {"id": request_id}))
        return found

    def _dead_letters(self, request_id: str, found: Sequence[tuple[str, Record]]) -> list[DeadLetter]:
        by_id = "SELECT body FROM landed_dead_letters WHERE unreadable = '' AND request_id = {id:String}"
        bodies = self._bodies(by_id, {"id": request_id})
        if found:
            places = ", ".join(
                f"('{topic}', {one.partition}, {one.offset}, {one.index})" for topic, one in found[:1_000]
            )
            bodies += self._bodies(
                "SELECT body FROM landed_dead_letters WHERE unreadable = '' AND request_id = '' AND "
                f"(toString(source_topic), source_partition, source_offset, source_idx) IN ({places})"
            )
        letters = [msgspec.json.decode(body, type=DeadLetter) for body in dict.fromkeys(bodies)]
        return sorted(letters, key=lambda one: (one.at_ms, one.topic, one.partition, one.offset, one.index))

    def control(self, partitions: Sequence[int]) -> list[Record]:
        """Give the policies and freezes that some partitions have heard, in the order of position."""
        numbers = ", ".join(map(str, partitions))
        sql = (
            f"SELECT {RAW} FROM control WHERE kind IN ('policy_set', 'frozen', 'thawed') AND partition IN ({numbers}) "
            "ORDER BY partition, offset"
        )
        return list(records(self.arrow(sql)))

    def timers(self, partition: int, control: Sequence[Record], below: int | None = None) -> Timers:
        """Find where a partition's timers stood after the newest landed step, or the newest below an offset."""
        return timers_of(self.arrow, partition, control, below)

    # What came of it.

    def trials(self, request_id: str) -> list[Trial]:
        """Give the last word of each trial of a request."""
        sql = (
            "SELECT body FROM landed_trials WHERE unreadable = '' AND request_id = {id:String} "
            "ORDER BY partition, offset"
        )
        said = self._events(sql, Trial, {"id": request_id})
        return list({(one.model, one.layer, one.arm, one.subject): one for one in said}.values())

    def measures(self, model: str, pane_ms: int, from_ms: int, to_ms: int) -> list[Measures]:
        """Give the records of `measures` with a pane that begins at `pane_ms`, told between two clocks."""
        sql = (
            "SELECT body FROM measures WHERE unreadable = '' AND (clock_ms = 0 OR (clock_ms >= {a:Int64} "
            "AND clock_ms <= {b:Int64})) AND position(body, {pane:String}) > 0 "
            f"AND position(body, {{model:String}}) > 0 LIMIT {PARTS}"
        )
        named = msgspec.json.encode(model).decode()
        asked = {"a": from_ms, "b": to_ms, "pane": f'"pane_ms":{pane_ms},', "model": f'"model":{named}'}
        return self._events(sql, Measures, asked)

    def metrics(self, model: str, version: str, deployment: str, from_ms: int, to_ms: int) -> list[Metric]:
        """Give the last figure of each closed window that holds a pane."""
        sql = (
            "SELECT body FROM metrics WHERE unreadable = '' AND closed AND model = {m:String} AND version = {v:String} "
            "AND deployment = {d:String} AND from_ms <= {a:Int64} AND to_ms >= {b:Int64} "
            "ORDER BY at_ms DESC, partition, offset DESC LIMIT 1 BY role, slice, metric, estimator, from_ms, to_ms"
        )
        return self._events(sql, Metric, {"m": model, "v": version, "d": deployment, "a": from_ms, "b": to_ms})

    def drift(self, model: str, version: str, deployment: str, from_ms: int, to_ms: int) -> list[Drift]:
        """Give what detectors said of windows that hold a pane."""
        sql = (
            "SELECT body FROM drift WHERE unreadable = '' AND model = {m:String} AND version = {v:String} "
            "AND deployment = {d:String} AND from_ms <= {a:Int64} AND to_ms >= {b:Int64} "
            "ORDER BY at_ms, partition, offset"
        )
        asked = {"m": model, "v": version, "d": deployment, "a": from_ms, "b": to_ms}
        return list({one.id: one for one in self._events(sql, Drift, asked)}.values())

    def reviews(self, model: str, version: str, deployment: str, from_ms: int, to_ms: int) -> list[Review]:
        """Give the last review of each decision that was made on a pane."""
        sql = (
            "SELECT body FROM reviews WHERE unreadable = '' AND model = {m:String} AND version = {v:String} "
            "AND deployment = {d:String} AND from_ms <= {a:Int64} AND to_ms >= {b:Int64} AND topic != 'gates' "
            "ORDER BY at_ms DESC, partition, offset DESC LIMIT 1 BY decision_id"
        )
        asked = {"m": model, "v": version, "d": deployment, "a": from_ms, "b": to_ms}
        return self._events(sql, Review, asked)

    def layers(self, model: str, layers: Sequence[str]) -> list[Review]:
        """Give the last review of each gate of some layers."""
        sql = (
            "SELECT body FROM reviews WHERE unreadable = '' AND model = {m:String} AND topic = 'gates' "
            "AND has({l:Array(String)}, toString(layer)) ORDER BY at_ms DESC, partition, offset DESC "
            "LIMIT 1 BY decision_id"
        )
        return self._events(sql, Review, {"m": model, "l": list(layers)}) if layers else []

    def alerts(self, model: str, at_ms: Sequence[int]) -> list[Alert]:
        """Give the alerts of a model that were raised at some moments."""
        if not at_ms:
            return []
        moments = ", ".join(map(str, at_ms))
        sql = f"SELECT body FROM alerts WHERE unreadable = '' AND model = {{m:String}} AND at_ms IN ({moments})"
        return list({one.id: one for one in self._events(sql, Alert, {"m": model})}.values())

    def retrains(self, model: str, at_ms: int) -> list[Retrain]:
        """Give the runs whose data window holds a moment."""
        sql = (
            "SELECT body FROM retrain WHERE unreadable = '' AND model = {m:String} AND from_ms <= {a:Int64} "
            "AND to_ms > {a:Int64} ORDER BY at_ms"
        )
        return list({one.retrain_id: one for one in self._events(sql, Retrain, {"m": model, "a": at_ms})}.values())

    def candidates(self, model: str) -> dict[str, Candidate]:
        """Give what was trained of a model, by run."""
        sql = "SELECT body FROM candidates WHERE unreadable = '' AND model = {m:String} ORDER BY at_ms"
        return {one.retrain_id: one for one in self._events(sql, Candidate, {"m": model})}

    def promotes(self, model: str) -> list[Promote]:
        """Give every desired state of the endpoints that serve a model."""
        sql = "SELECT body FROM promote WHERE unreadable = '' AND model = {m:String} ORDER BY at_ms, revision"
        return self._events(sql, Promote, {"m": model})

    # How it is asked.

    def arrow(self, sql: str, asked: Mapping[str, Any] | None = None) -> Any:
        """Give an Arrow table whose strings are bytes."""
        return self.client.query_arrow(sql, dict(asked or {}), use_strings=False)

    def _bodies(self, sql: str, asked: Mapping[str, Any] | None = None) -> list[bytes]:
        return list(self.arrow(sql, asked).column(0).to_pylist())

    def _events(self, sql: str, kind: type[EventT], asked: Mapping[str, Any]) -> list[EventT]:
        decoder = msgspec.json.Decoder(kind)
        return [decoder.decode(body) for body in self._bodies(sql, asked)]
