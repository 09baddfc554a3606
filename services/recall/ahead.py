"""The next bulk is looked up while the one before is answered.

A look-up keeps ClickHouse busy, answering keeps this process busy; one after the other, each would wait for the other.
A look-up runs in a thread of its own, with a client of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from schemas.settings import Settings
from services.recall.answer import Stored
from services.recall.table import Recallable

Found = Mapping[str, list[Stored]]
"""Request id → what has landed of it; absent: nothing."""
Insist = Callable[[Callable[[], Found]], Found]


class Ahead:
    """Looks up bulks of request ids in their order, `depth` of them ahead. For one thread."""

    def __init__(self, settings: Settings, depth: int = 1) -> None:
        self._settings, self._depth = settings, depth
        self._threads = ThreadPoolExecutor(depth, "recall-ahead")
        self._own = threading.local()
        self._stores: list[Recallable] = []

    def find(self, bulks: Iterable[Sequence[str]], insist: Insist) -> Iterator[Found]:
        """Give what is found of each bulk; bulks are taken as they are needed. `insist` gets what may raise `Away`,
        and calls it again.
        """
        running: deque[tuple[Sequence[str], Future[Found]]] = deque()
        for ids in bulks:
            running.append((ids, self._threads.submit(self._find, ids)))
            if len(running) > self._depth:
                yield insist(self._waiting(*running.popleft()))
        while running:
            yield insist(self._waiting(*running.popleft()))

    def _waiting(self, ids: Sequence[str], first: Future[Found]) -> Callable[[], Found]:
        tries = deque([first])

        def found() -> Found:
            return (tries.popleft() if tries else self._threads.submit(self._find, ids)).result()

        return found

    def _find(self, ids: Sequence[str]) -> Found:
        store: Recallable | None = getattr(self._own, "store", None)
        if store is None:
            store = self._own.store = Recallable(self._settings)
            self._stores.append(store)
        return store.find(ids)

    def close(self) -> None:
        """Wait for what runs, drop what does not run yet, and let go of the connections."""
        self._threads.shutdown(cancel_futures=True)
        for store in self._stores:
            store.close()
