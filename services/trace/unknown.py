"""Why nobody knows a request: its id is written otherwise, it died, or it is still on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import WeirError
from schemas.settings import Settings
from services.trace.landed import INPUTS, Landed, Reader
from services.trace.shape import Story

if TYPE_CHECKING:
    from streams.runtime.kafka import Place

MOST = 5
BEHIND = "it may not have landed yet"
LEAST_PREFIX = 6
"""An id that begins another is a near miss from this length on."""
SEARCH_S = 20
AWAY_S = 3.0


def likely(reader: Reader, landed: Landed, story: Story) -> list[str]:
    """Give causes, the likeliest first; never empty."""
    found = []
    letters = story.dead_letters
    if letters:
        ids = ", ".join(one.id for one in letters[:MOST])
        found.append(f"every record about it died: {letters[0].reason} ({letters[0].detail}); see weir dlq show {ids}")
    elif story.events:
        found.append("its records have landed, and none of them is an event: " + story.events[0].why)
    near = _near(reader, landed.request_id)
    if near:
        found.append(f"ids that differ in case, blanks or length only: {', '.join(map(repr, near))}")
    late = behind(reader.settings, landed)
    if not found and not (late and late[0].startswith(BEHIND)):
        found.append(
            f"the id is not in what `record` has landed of partition {landed.partition}: was it produced to namespace "
            f"{reader.settings.namespace!r}, and is `request_id` in the body the same as in your logs?"
        )
    return found + late


def _near(reader: Reader, request_id: str) -> list[str]:
    """Search all ids for one that is nearly the same; gives up after a while."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    plain = "lower(replaceRegexpAll({0}, '\\\\s', ''))"
    id, given = plain.format("request_id"), plain.format("{id:String}")
    same = f"{id} = {given}"
    if len(request_id) >= LEAST_PREFIX:
        begins = f"length(request_id) >= {LEAST_PREFIX} AND startsWith({{id:String}}, request_id)"
        same += f" OR startsWith(request_id, {{id:String}}) OR ({begins})"
    found: dict[str, None] = {}
    for topic in INPUTS:
        sql = (
            f"SELECT DISTINCT request_id FROM landed_{topic} WHERE request_id != '' AND ({same}) LIMIT {MOST} "
            f"SETTINGS max_execution_time = {SEARCH_S}, timeout_overflow_mode = 'break'"
        )
        try:
            rows = reader.client.query(sql, {"id": request_id}).result_rows
        except ClickHouseError:
            continue  # a search that takes too long is no reason to say nothing
        found |= dict.fromkeys(str(row[0]) for row in rows if str(row[0]) != request_id)
    return list(found)[:MOST]


def behind(settings: Settings, landed: Landed) -> list[str]:
    """Compare what `record` has landed of the request's partition with Kafka's ends, where Kafka answers."""
    from confluent_kafka import KafkaException

    from schemas.topics import topic_name
    from services.record.residual import landed_offsets
    from streams.runtime.kafka import ends, make_admin, reason, wait_for_kafka

    try:
        wait_for_kafka(settings, timeout_s=AWAY_S)
        admin = make_admin(settings, "trace")
        places: dict[Place, str] = {
            (topic_name(settings.namespace, topic), landed.partition): topic for topic in INPUTS
        }
        last = {topic: ends(admin, [place])[place][0] for place, topic in places.items()}
        passed = landed_offsets(settings, INPUTS)
    except WeirError as error:
        return [f"whether `record` is behind cannot be told: {error.message}"]
    except KafkaException as error:
        return [f"whether `record` is behind cannot be told: {reason(error)}"]
    gaps = {topic: last[topic] - passed.get((topic, landed.partition), 0) for topic in INPUTS}
    if all(gap <= 0 for gap in gaps.values()):
        return []
    told = ", ".join(f"{gap} offsets of {topic}" for topic, gap in gaps.items() if gap > 0)
    return [f"{BEHIND}: in partition {landed.partition} `record` is behind by {told}"]
