"""The landed records of one model in one partition, in the order in which Kafka took them, a stretch of time at a time.

Only what can matter is read: predictions of the window, and the labels and signals that may concern the model from the
time on at which they could have waited for the first of them. Nothing at or above the offsets of the join's newest
landed step is read, so that both sides have seen the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.feedback import Feedback
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import INPUTS
from services.record.timers import RAW, records
from services.replay.plan import Plan
from services.trace.landed import Reader
from streams.join.naive import Record

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

ROWS = 100_000
"""About how many rows a stretch has."""
SAID = 50_000


@dataclass(frozen=True, slots=True)
class Part:
    """A partition: the step up to which is read, the clock of its timers, its control records."""

    number: int
    step: Step
    clock_ms: int
    control: Sequence[Record]


class Landed:
    """Reads one model's records. Serves one thread."""

    def __init__(self, settings: Settings, client: HttpClient) -> None:
        self.settings = settings
        self._reader = Reader(settings, client)

    def parts(self) -> list[Part]:
        """Give the partitions in which the join has taken a step that landed."""
        found = []
        for number in range(self.settings.partitions):
            control = self._reader.control([number])
            timers = self._reader.timers(number, control)
            if timers.step is not None:
                read = [one for one in control if one.offset < timers.step.offsets.get("control", 0)]
                found.append(Part(number, timers.step, timers.clock_ms, read))
        return found

    def models(self) -> list[str]:
        """Give the models that have predictions, by name."""
        table = self._reader.arrow("SELECT DISTINCT toString(model) FROM landed_predictions WHERE unreadable = ''")
        return sorted(name.decode() for name in table.column(0).to_pylist())

    def rows(self, plan: Plan, part: Part) -> tuple[int, int, int]:
        """Count what will be read of a partition; give that and the first and last Kafka timestamp."""
        total, first, last = 0, [], []
        for topic in INPUTS:
            where = self._where(plan, part, topic)
            table = self._reader.arrow(
                f"SELECT count(), min(append_ms), max(append_ms) FROM landed_{topic} WHERE {where}"
            )
            [row] = table.to_pylist()
            count, start, end = row.values()
            total += count
            if count:
                first.append(start)
                last.append(end)
        return total, min(first, default=0), max(last, default=0)

    def stretch(self, plan: Plan, part: Part, from_ms: int, to_ms: int) -> dict[str, list[Record]]:
        """Give, by topic, the records that Kafka took in [from_ms, to_ms), in offset order."""
        found = {}
        for topic in INPUTS:
            sql = (
                f"SELECT {RAW} FROM landed_{topic} "
                f"WHERE {self._where(plan, part, topic)} AND append_ms >= {from_ms} AND append_ms < {to_ms} "
                "ORDER BY offset, idx LIMIT 1 BY offset, idx"
            )
            found[topic] = list(records(self._reader.arrow(sql)))
        return found

    def said(self, plan: Plan, part: Part) -> Iterator[Feedback]:
        """Give the landed feedback about predictions of the window, in the order in which it was said."""
        decoder = msgspec.json.Decoder(Feedback)
        after = (-1, 0)
        window = plan.window
        while True:
            sql = (
                f"SELECT offset, idx, body FROM landed_feedback WHERE partition = {part.number} "
                f"AND (offset, idx) > {after} "
                "AND unreadable = '' AND model = {m:String} "
                f"AND predicted_at_ms >= {window.from_ms} AND predicted_at_ms < {window.to_ms} "
                f"AND joined_at_ms <= {part.step.clock_ms} "
                f"ORDER BY offset, idx LIMIT 1 BY offset, idx LIMIT {SAID}"
            )
            table = self._reader.arrow(sql.replace("{m:String}", _quoted(plan.model)))
            offsets = table.column("offset").to_pylist()
            for body in table.column("body").to_pylist():
                yield decoder.decode(body)
            if len(offsets) < SAID:
                return
            after = offsets[-1], table.column("idx")[-1].as_py()

    def last_said_ms(self, part: Part) -> int:
        """Give the clock of the last feedback of a partition that has landed, of whatever model."""
        sql = f"SELECT max(joined_at_ms) FROM landed_feedback WHERE partition = {part.number}"
        found: Any = self._reader.arrow(sql).column(0)[0].as_py()
        return int(found)

    def _where(self, plan: Plan, part: Part, topic: str) -> str:
        join, window = self.settings.join, plan.window
        where = f"partition = {part.number} AND offset < {part.step.offsets.get(topic, 0)} AND unreadable = ''"
        if topic == "predictions":
            return (
                f"{where} AND model = {_quoted(plan.model)} AND at_ms >= {window.from_ms} AND at_ms < {window.to_ms} "
                f"AND append_ms >= {window.from_ms - join.skew_ms}"
            )
        first = window.from_ms - join.skew_ms - join.early_label_ms
        last = window.to_ms + plan.reach_ms + join.skew_ms + join.grace_ms
        about = f"(isNull(model) OR model = {_quoted(plan.model)})"
        return f"{where} AND {about} AND append_ms >= {first} AND append_ms <= {last}"


def _quoted(text: str) -> str:
    from services.record.standing import quoted

    return quoted(text)
