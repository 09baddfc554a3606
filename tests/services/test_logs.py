"""Logs: a line of one kind is not repeated within its pause."""

import logging

from services.logs import Sparing


def test_one_line_of_a_kind_within_the_pause() -> None:
    now = [0.0]
    sparing = Sparing(10.0, lambda: now[0])

    def passes(text: str) -> bool:
        return sparing.filter(logging.LogRecord("librdkafka", logging.WARNING, "", 0, text, None, None))

    assert passes("FAIL: connection refused")
    assert not passes("FAIL: connection refused again")
    assert passes("GETPID: retrying")
    now[0] = 10.0
    assert passes("FAIL: connection refused")
