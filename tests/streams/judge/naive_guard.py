"""The outage guard's naive twin: keeps everything it was told and works out each look from the beginning.

It shares no code with `streams.judge.guard` and `streams.judge.forecast`: no arrays, no running sums, no pruning, no
special functions. It knows neither thaws by hand nor blind spots nor limits of sources, and is told everything in time.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from schemas.settings import Guard as Bounds

Arm = tuple[str, str, str]
DAY = 86_400_000
LENGTHS = (1, 5, 15, 60)


def bin_bounds() -> list[tuple[int, int]]:
    """Give each bin of ages as [from, to)."""
    found = [(age, age + 1) for age in range(16)]
    width = 2
    while found[-1][1] < 1536:
        for _ in range(8):
            start = found[-1][1]
            if start < 1536:
                found.append((start, start + width))
        width *= 2
    return found


AGES = bin_bounds()


def quantile(expected: float, phi: float, p: float) -> int:
    """Give the greatest count c with P(fewer than c) ≤ p, by adding up probabilities."""
    if expected <= 0 or math.isinf(phi):
        return 0
    total, count = 0.0, 0
    while True:
        if phi < 1e-9:
            log = count * math.log(expected) - expected - math.lgamma(count + 1)
        else:
            size = 1 / phi
            log = math.lgamma(count + size) - math.lgamma(size) - math.lgamma(count + 1)
            log += size * math.log(size / (size + expected)) + count * math.log(expected / (size + expected))
        total += math.exp(log)
        if total > p or count > expected:
            return count
        count += 1


@dataclass
class Naive:
    """Everything it was told, by pane; `told` is what it says of each pane: (pane, source, frozen or thawed)."""

    bounds: Bounds
    pane_ms: int
    predictions: dict[Arm, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    labels: dict[tuple[str, Arm], list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))
    begun: int | None = None
    now: int = 0
    quiet: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    anew: dict[str, int] = field(default_factory=dict)
    born: dict[tuple[str, Arm], int] = field(default_factory=dict)
    frozen: dict[str, tuple[int, int]] = field(default_factory=dict)
    back: Counter[str] = field(default_factory=Counter)
    told: list[tuple[int, str, str]] = field(default_factory=list)
    figures: dict[tuple[int, str], tuple[float, int, int]] = field(default_factory=dict)
    exposed: dict[tuple[Arm, int], list[float]] = field(default_factory=dict)
    below: set[tuple[int, str, Arm, int]] = field(default_factory=set)
    since: dict[str, int] = field(default_factory=dict)
    opened: dict[tuple[str, int], int] = field(default_factory=dict)
    known: dict[tuple[str, Arm, tuple[int, ...]], list[float]] = field(default_factory=dict)
    errors: dict[tuple[str, Arm, tuple[int, ...], int], tuple[int, float]] = field(default_factory=dict)

    def take(self, arm: Arm, predictions: list[tuple[int, int]], labels: dict[str, list[tuple[int, int, int]]]) -> None:
        """Take up [(pane, count)] and for each source [(pane, age's bin, count)]."""
        for pane, count in predictions:
            self.predictions[arm][pane] += count
        for source, cells in labels.items():
            self.born.setdefault((source, arm), self.now)
            for pane, age, count in cells:
                oldest = AGES[age][1] - 1 if age < len(AGES) else 1536
                if self.begun is not None and pane - self.begun >= oldest:
                    self.labels[source, arm].append((pane, age, count))

    def begin(self, pane: int) -> None:
        """Begin with a pane."""
        self.begun = self.now = pane

    # Learning. What was worked out for a pane is remembered, because it is asked for at every later look.

    def lessons(self, source: str, arm: Arm, until: int) -> list[int]:
        """Give the panes before `until` that this arm was learnt from."""
        first = max(self.born[source, arm], self.anew.get(source, 0))
        came = [at for at, _, n in self.labels[source, arm] if at >= first and at not in self.quiet[source]]
        first = min(came, default=until)
        return [pane for pane in range(first, until) if pane not in self.quiet[source]]

    def exposures(self, arm: Arm, pane: int) -> list[float]:
        """Give the predictions of each bin of ages, seen from a pane."""
        if (arm, pane) not in self.exposed:
            counts = self.predictions[arm]
            of_age = [sum(max(counts[pane - age], 0) for age in range(*bounds)) for bounds in AGES]
            self.exposed[arm, pane] = [*map(float, of_age), 1.0]
        return self.exposed[arm, pane]

    def rates(self, source: str, arm: Arm, lessons: list[int]) -> list[float]:
        """Give the labels per prediction of each bin of ages."""
        about = source, arm, tuple(lessons)
        if about not in self.known:
            keep = 0.5 ** (self.pane_ms / DAY)
            came, due = [0.0] * (len(AGES) + 1), [0.0] * (len(AGES) + 1)
            for place, pane in enumerate(lessons):
                weight = keep ** (len(lessons) - 1 - place)
                for at, age, n in self.labels[source, arm]:
                    if at == pane:
                        came[age] += weight * n
                for age, exposed in enumerate(self.exposures(arm, pane)):
                    due[age] += weight * exposed
            self.known[about] = [a / b if b else 0.0 for a, b in zip(came, due, strict=True)]
        return self.known[about]

    def expected(self, source: str, arm: Arm, lessons: list[int], pane: int, length: int) -> float:
        rates = self.rates(source, arm, lessons)
        return sum(
            rate * exposed
            for at in range(pane - length + 1, pane + 1)
            for rate, exposed in zip(rates, self.exposures(arm, at), strict=True)
            if rate
        )

    def least(self, arm: Arm, pane: int, length: int, age: int) -> float:
        if age == len(AGES):
            return length
        counts, (start, end) = self.predictions[arm], AGES[age]
        sums = [
            sum(max(counts[pane - a - back], 0) for back in range(length)) for a in range(max(start - 1, 0), end + 1)
        ]
        return min(sums) * (end - start)

    def came(self, source: str, arm: Arm, pane: int, length: int) -> int:
        return sum(n for at, _, n in self.labels[source, arm] if pane - length < at <= pane)

    def due(self, source: str, arm: Arm, pane: int, length: int) -> tuple[float, float, int]:
        lessons = self.lessons(source, arm, pane)
        expected = self.expected(source, arm, lessons, pane, length)
        rates = self.rates(source, arm, lessons)
        parts = [rate * self.least(arm, pane, length, age) for age, rate in enumerate(rates) if rate]
        least = min(expected, sum(parts))
        phi = self.dispersion(source, arm, lessons, length)
        p = self.bounds.false_freezes / (30 * DAY / self.pane_ms * len(LENGTHS))
        return expected, least, min(quantile(least, phi, p), math.floor(self.bounds.share * least))

    def dispersion(self, source: str, arm: Arm, lessons: list[int], length: int) -> float:
        keep = 0.5 ** (self.pane_ms / DAY)
        error = square = weight = labels = 0.0
        for place, pane in enumerate(lessons):
            labels = keep * labels + self.came(source, arm, pane, 1)
            since = self.opened.get((source, pane), 0)
            if place >= length and pane - length + 1 >= since and (pane, source, arm, length) not in self.below:
                about = source, arm, tuple(lessons[:place]), length
                if about not in self.errors:
                    expected = self.expected(source, arm, lessons[:place], pane, length)
                    self.errors[about] = (self.came(source, arm, pane, length), expected)
                came, expected = self.errors[about]
                error = keep * error + (came - expected) ** 2 - expected
                square, weight = keep * square + expected**2, keep * weight + 1
        if labels <= 0 or square <= 0:
            return math.inf
        phi, mean, independent = max(error / square, 0), math.sqrt(square / weight), weight / length
        return phi + 2 * math.sqrt(2 / independent) * (phi + 1 / mean) + 1 / labels

    # Looking.

    def look(self, now: int) -> None:
        """Look at every pane before `now`."""
        while self.now < now:
            pane, self.now = self.now, self.now + 1
            for source in sorted({source for source, _ in self.labels}):
                self.look_at(source, pane)

    def look_at(self, source: str, pane: int) -> None:
        warm = max(math.ceil(self.bounds.warm_up_ms / self.pane_ms), 20)
        arms = sorted(arm for name, arm in self.labels if name == source)
        fallen, back = 0, False
        figures = None
        opened = self.opened[source, pane] = self.since.get(source, self.begun or 0)
        lengths = [length for length in LENGTHS if pane - length + 1 >= opened]
        for length in lengths:
            judged, others = [], []
            for arm in arms:
                expected, least, bound = self.due(source, arm, pane, length)
                came = self.came(source, arm, pane, length)
                if bound > 0 and len(self.lessons(source, arm, pane)) >= warm:
                    judged.append((came, bound, least, expected))
                    if came < bound:
                        self.below.add((pane, source, arm, length))
                else:
                    others.append(arm)
            asked = length
            for longer in lengths:
                if longer >= length and sum(self.due(source, arm, pane, longer)[1] for arm in others) >= 12:
                    asked = longer
                    break
            seen_else = sum(self.came(source, arm, pane, asked) for arm in others)
            due_else = sum(self.due(source, arm, pane, asked)[1] for arm in others)
            down = bool(judged) and seen_else == 0 and all(came < bound for came, bound, _, _ in judged)
            sums = (sum(e for *_, e in judged), sum(b for _, b, _, _ in judged), sum(c for c, *_ in judged))
            if down and not fallen:
                fallen, figures = length, sums
            elif judged and figures is None:
                figures = sums
            if length <= self.frozen.get(source, (0, 0))[1]:
                flows = any(came >= (bound + least) / 2 for came, bound, least, _ in judged)
                back = back or flows or seen_else >= max(due_else, 12) / 2
        self.decide(source, pane, fallen, back)
        if source in self.frozen or fallen:
            self.quiet[source].add(pane)
        self.figures[pane, source] = figures or (0.0, 0, 0)

    def decide(self, source: str, pane: int, fallen: int, back: bool) -> None:
        if source not in self.frozen:
            if fallen:
                self.since[source] = pane + 1
                self.frozen[source] = pane + 1, fallen
                self.back[source] = 0
                self.told.append((pane, "frozen", source))
            return
        self.back[source] = self.back[source] + 1 if back else 0
        over = (pane + 1 - self.frozen[source][0]) * self.pane_ms >= self.bounds.max_freeze_ms
        if self.back[source] >= 3 or over:
            del self.frozen[source]
            self.since[source] = pane + 1
            self.told.append((pane, "thawed", source))
            if self.back[source] < 3:
                self.anew[source] = pane + 1
