"""Which questions wait, and which may be answered: pure.

A partition's questions are answered in their order. That costs nothing: they come from the steps of one join, so their
offsets only grow, and when the first has not landed no later one has. Partitions do not wait for each other. Those
whose first question waits longest go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.recall import RecallRequested

Place = tuple[str, int]
"""Logical topic and partition."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question at its offset. `needs` says below which offset each topic must have landed."""

    offset: int
    append_ms: int
    question: RecallRequested
    needs: Mapping[str, int]

    def lacks(self, landed: Mapping[Place, int]) -> dict[str, tuple[int, int]]:
        """Say what has not landed: topic → (landed, needed)."""
        number = self.question.partition
        reached = {topic: landed.get((topic, number), 0) for topic in self.needs}
        return {topic: (reached[topic], need) for topic, need in self.needs.items() if reached[topic] < need}


@dataclass(slots=True)
class Line:
    """The questions of one partition: everything below `answered` is answered, below `position` has been read."""

    answered: int
    position: int
    waiting: deque[Waiting] = field(default_factory=deque)

    def ready(self, landed: Mapping[Place, int], most: int) -> list[Waiting]:
        """Give the first questions that may be answered."""
        found: list[Waiting] = []
        for one in self.waiting:
            if len(found) == most or one.lacks(landed):
                break
            found.append(one)
        return found

    def pop(self, count: int) -> None:
        """Let the first questions go: they are answered."""
        for _ in range(count):
            self.waiting.popleft()
        self.answered = self.waiting[0].offset if self.waiting else self.position


class Lines:
    """The lines of all partitions that are ours."""

    def __init__(self, starts: Mapping[int, int] | None = None) -> None:
        self.by_partition = {number: Line(start, start) for number, start in (starts or {}).items()}

    def __len__(self) -> int:
        return sum(len(line.waiting) for line in self.by_partition.values())

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Put questions at the end of their lines, in the order of offsets."""
        for one in waiting:
            self.by_partition[one.question.partition].waiting.append(one)

    def moved(self, number: int, position: int) -> None:
        """Remember up to where a partition has been read; where nothing waits, all of that is answered."""
        line = self.by_partition.get(number)
        if line is not None and position > line.position:
            line.position = position
            if not line.waiting:
                line.answered = position

    def heads(self) -> list[Waiting]:
        """Give the first question of each line, the oldest first."""
        heads = [line.waiting[0] for line in self.by_partition.values() if line.waiting]
        return sorted(heads, key=lambda one: (one.append_ms, one.question.partition))

    def bulk(self, landed: Mapping[Place, int], most: int) -> list[Waiting]:
        """Give at most so many questions that may be answered, the lines that wait longest first."""
        found: list[Waiting] = []
        for head in self.heads():
            if len(found) < most:
                found += self.by_partition[head.question.partition].ready(landed, most - len(found))
        return found

    def pop(self, answered: Sequence[Waiting]) -> None:
        """Let answered questions go; they came from `bulk`."""
        counts: dict[int, int] = {}
        for one in answered:
            counts[one.question.partition] = counts.get(one.question.partition, 0) + 1
        for number, count in counts.items():
            self.by_partition[number].pop(count)
