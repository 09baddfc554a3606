"""A process of the loop in a thread of the test: started, watched, stopped, and what it raised is raised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DEADLINE_S = 60.0


@contextmanager
def in_thread(run: Callable[[], object], stop: threading.Event) -> Iterator[threading.Thread]:
    """Run something until the block ends, which sets `stop`; then raise what it raised."""
    errors: list[BaseException] = []

    def go() -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
