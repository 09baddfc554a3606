"""Checks of ClickHouse and of what has landed there: tables, clocks, policies, dead letters."""

from __future__ import annotations

from collections.abc import Iterator

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from schemas.control import PolicySet
from schemas.errors import WeirError
from schemas.event import decode
from services.clickhouse import database_of, first_line, reading
from services.doctor.finding import Finding, House
from services.record.tables import is_migrated

SKEW_MS = 5_000
DAY_MS = 86_400_000
ANSWERS = "ClickHouse does not answer"


def clickhouse_answers(house: House) -> Iterator[Finding]:
    """History, verification and the page need it; the join and the judge do not."""
    try:
        version, theirs_ms = house.client.query("SELECT version(), toUnixTimestamp64Milli(now64(3))").result_rows[0]
    except (WeirError, ClickHouseError, HTTPError) as error:
        house.away["clickhouse"] = ANSWERS
        fix = error.fix if isinstance(error, WeirError) else ""
        says = error.message if isinstance(error, WeirError) else first_line(error)
        yield Finding("clickhouse", "fail", says, fix or "see clickhouse.* in weir config show")
        return
    yield Finding("clickhouse", "ok", f"ClickHouse {version} at {house.settings.clickhouse.host}")
    apart_ms = abs(int(theirs_ms) - house.now_ms)
    if apart_ms > SKEW_MS:
        says = f"this machine's clock and ClickHouse's are {apart_ms / 1000:.0f} s apart"
        yield Finding("clock", "warn", says, "run NTP on both: predictions far from Kafka's time are dead letters")
    else:
        yield Finding("clock", "ok", "this machine's clock and ClickHouse's agree")


def tables_are_there(house: House) -> Iterator[Finding]:
    """Made by `weir record`, once, by a user who may."""
    database = database_of(house.settings)
    try:
        ready = is_migrated(house.client, house.settings)
    except WeirError as error:
        house.away["tables"] = "the tables cannot be used"
        yield Finding("tables", "fail", error.message, error.fix)
        return
    if ready:
        yield Finding("tables", "ok", f"the tables of database {database} are up to date")
    else:
        house.away["tables"] = "the tables are not there yet"
        yield Finding("tables", "warn", f"database {database} is not set up", "start weir record, or weir up")


def models_have_policies(house: House) -> Iterator[Finding]:
    """A model without one waits an hour for its labels, and silence says nothing."""
    with reading(house.settings) as client:
        bodies = client.query("SELECT body FROM control WHERE kind = 'policy_set' AND unreadable = ''").result_rows
        asked = "SELECT DISTINCT toString(model) FROM landed_predictions WHERE unreadable = '' AND at_ms > {a:Int64}"
        seen = client.query(asked, parameters={"a": house.now_ms - 7 * DAY_MS}).result_rows
    known = {decode(body, PolicySet).policy.model for (body,) in bodies}
    models = sorted(str(model) for (model,) in seen)
    for model in models:
        if model not in known:
            says = f"{model} predicts and has no policy of its own: labels are waited for an hour, silence says nothing"
            yield Finding("policies", "warn", says, "weir policy set FILE", "docs/policies.md")
    if all(model in known for model in models):
        yield Finding("policies", "ok", f"{len(models)} models predicted in the last week, each with a policy")


def nothing_dies(house: House) -> Iterator[Finding]:
    """What the last day put aside."""
    with reading(house.settings) as client:
        asked = (
            "SELECT reason, count() FROM dead_letters WHERE unreadable = '' AND at_ms > {a:Int64} "
            "GROUP BY reason ORDER BY count() DESC LIMIT 10"
        )
        found = client.query(asked, parameters={"a": house.now_ms - DAY_MS}).result_rows
    for reason, count in found:
        says = f"{int(count):,} dead letters in a day: {reason}"
        yield Finding("dead letters", "warn", says, "weir dlq ls", "docs/bad-input.md")
    if not found:
        yield Finding("dead letters", "ok", "none in the last day")
