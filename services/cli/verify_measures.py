"""`weir verify --measures`: what `measure` emitted, against the same integers counted by SQL from what has landed."""

from __future__ import annotations

import time
from collections.abc import Callable

from schemas.errors import WeirError
from schemas.settings import Settings
from services.clickhouse import connect
from services.record.recount import Compared, compare, measured, recount, references_of
from services.record.residual import landed_offsets
from services.record.standing import Cuts

READ = ("control", "predictions", "feedback", "measures")
LANDING_S = 30.0
POLL_S = 0.1
ANSWER_S = 600


def compared(settings: Settings, cuts: Cuts, say: Callable[[str], None], landing_s: float = LANDING_S) -> Compared:
    """Wait until what the steps in `cuts` read and said has landed, then compare.

    Raises `WeirError` when it does not land in time, or ClickHouse does not answer.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    from services.clickhouse import first_line

    _wait(settings, say, landing_s)
    client = connect(settings, answer_s=ANSWER_S)
    try:
        say("counting the ledgers again")
        counted = recount(client, settings, references_of(client), cuts)
        return compare(measured(client, cuts), counted)
    except (ClickHouseError, HTTPError) as error:
        raise WeirError(f"the ledgers cannot be counted again: {first_line(error)}") from None
    finally:
        client.close()


def _wait(settings: Settings, say: Callable[[str], None], landing_s: float) -> None:
    from services.kafka import places_of
    from streams.runtime.kafka import ends, make_admin

    admin = make_admin(settings, "verify")
    places = {place: (topic, place[1]) for topic in READ for place in places_of(settings, topic)}
    last = {places[place]: stable for place, (stable, _) in ends(admin, list(places)).items()}
    deadline = time.monotonic() + landing_s
    told = False
    while True:
        landed = landed_offsets(settings, READ)
        behind = sum(max(0, offset - landed.get(place, 0)) for place, offset in last.items())
        if not behind:
            return
        if time.monotonic() > deadline:
            raise WeirError(
                f"{behind} offsets of {', '.join(READ)} have not landed after {landing_s:g} s",
                fix="start `weir record`, or wait until it has caught up",
            )
        if not told:
            told = True
            say(f"waiting for {behind} offsets to land")
        time.sleep(POLL_S)
