"""`weir trace REQUEST_ID`: read, tell, print."""

from __future__ import annotations

import msgspec

from schemas.errors import ENVIRONMENT, FAILURE, OK, USAGE, WeirError
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.settings import Settings
from services.clickhouse import connect, first_line
from services.trace.landed import Reader
from services.trace.lineage import policies_of, taught
from services.trace.panes import measured
from services.trace.shape import Story, TrialSaid
from services.trace.story import tell
from services.trace.unknown import likely
from services.trace.words import position
from streams.join.naive import Bounds


def trace(settings: Settings, request_id: str, *, as_json: bool) -> int:
    """Print the story of a request; give the exit code: 1 when nobody knows it. Raises `WeirError`."""
    if not request_id:
        raise WeirError("the request id is empty", fix="give the one that the app sent", code=USAGE)
    found = story(settings, request_id)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        from services.trace.show import show

        show(found)
    return OK if found.known else FAILURE


def story(settings: Settings, request_id: str) -> Story:
    """Read what has landed about a request and tell it. Raises `WeirError` when ClickHouse cannot be asked."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    client = connect(settings)
    try:
        return _story(Reader(settings, client), request_id)
    except (ClickHouseError, HTTPError) as error:
        raise WeirError(
            f"the request cannot be traced: {first_line(error)}",
            fix="start `weir record` once: it makes the tables that are missing",
            code=ENVIRONMENT,
        ) from None
    finally:
        client.close()


def _story(reader: Reader, request_id: str) -> Story:
    settings = reader.settings
    landed = reader.landed(request_id)
    bounds = Bounds.of(settings)
    found = tell(landed, bounds, settings.namespace)
    if not found.known:
        found.likely = likely(reader, landed, found)
        return found
    bodies = {
        position(("predictions", record.partition, record.offset, record.index)): record.value
        for topic, record in landed.records
        if topic == "predictions"
    }
    policies = policies_of(landed, bounds)
    for answer in found.answers:
        measured(reader, answer, decode(bodies[answer.position] or b"", Prediction))
        if answer.role == "primary":
            answer.taught = taught(reader, answer, landed, policies)
    found.trials = [
        TrialSaid(
            model=one.model,
            layer=one.layer,
            arm=one.arm,
            subject=one.subject,
            value=one.value,
            revision=one.revision,
            void=one.void,
        )
        for one in reader.trials(request_id)
    ]
    return found
