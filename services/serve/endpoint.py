"""What one endpoint should serve and what it does serve: shared between the requests and the one who follows `promote`.

Each attribute has one writer, and replacing a reference is atomic, so that no lock is on the path of a request. The
last state that was served is kept in a file: a server that starts while Kafka is away answers as before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from schemas.event import decode, encode
from schemas.lifecycle import Promote
from services.serve.loading import Served
from services.train.artifact import sync_directory, write_durably


@dataclass(slots=True)
class Endpoint:
    """`desired` is the highest revision read, `served` the one that answers, `error` why the former is not the latter.

    `reported` is the last one whose serving was put into the outbox; whoever waits for `converged` and for an empty
    outbox has then waited for the report too. `previous` is kept loaded for an instant rollback. `position` is the next
    offset of `promote` to read, −1 before the end of the topic was seen once.
    """

    name: str
    kept_in: Path
    desired: Promote | None = None
    served: Served | None = None
    previous: Served | None = None
    reported: Promote | None = None
    error: str = ""
    position: int = -1
    newest_at_ms: int = 0
    """The greatest event time answered so far."""

    @property
    def converged(self) -> bool:
        """Whether what answers is the highest revision that was read, and has been reported."""
        served, desired = self.served, self.desired
        answers = served is not None and desired is not None and served.promote == desired
        return answers and self.reported == desired and not self.error

    def swap(self, served: Served) -> None:
        """Let another state answer from the next request on."""
        self.previous = self.served
        self.served = served
        self.error = ""

    def keep(self, promote: Promote) -> None:
        """Note what is served. Raises `OSError`."""
        self.kept_in.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.kept_in.with_suffix(".new")
        write_durably(temporary, encode(promote))
        os.replace(temporary, self.kept_in)
        sync_directory(self.kept_in.parent)

    def kept(self) -> Promote | None:
        """Give what was served last; None when there is nothing, or nothing that can be read."""
        try:
            promote = decode(self.kept_in.read_bytes(), Promote)
        except (OSError, msgspec.DecodeError):
            return None
        return promote if promote.endpoint == self.name else None
