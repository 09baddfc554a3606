"""False alarms beside the budget, A/A canaries beside alpha, delays beside other detectors.

    python -m benchmarks.statistics                # about five minutes of two free cores, ten of slow ones
    python -m benchmarks.statistics --json         # tables on standard error, one JSON object as the last line
    python -m benchmarks.statistics --scale 0.1    # a tenth of the runs: quicker, and less sure
    python -m benchmarks.statistics --only canaries

`null_false_alarms` and `null_budget` are per 30 days, over the runs whose rate is at the very limit of what the null
allows, the worst case of the theorem, with a budget of 5 per 30 days, so that something is counted; the table has the
others, and the shipped 0.05. `aa_wrong_share` is the worst
of the canaries' shares that ever decided; `alpha` bounds either side (`alpha` to promote and its half of
`alpha_rollback`). `delay_e_sr` and `delay_adwin` are median events from a rise of 10 to 15 % to the alarm, both tuned
to one false alarm in 300,000 events. `coverage_90` is how often the 90 % intervals of projected figures held, over the
replays of Elec2 and the Nebraska weather with delayed labels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

from benchmarks.statistics import canaries, coverage, delays, nulls, real, seasons
from benchmarks.statistics.canaries import Canary
from benchmarks.statistics.counted import Rate
from benchmarks.statistics.coverage import Fared
from benchmarks.statistics.delays import CHANGES, PER, Delay
from benchmarks.statistics.nulls import Weeks
from benchmarks.statistics.seasons import Seasonal
from schemas.lifecycle import DecidePolicy
from streams.judge.gates import GATES

PARTS = ("nulls", "canaries", "delays", "seasons", "coverage")
SHIPPED, COUNTABLE = 0.05, 5.0


def coverage_90(replays: Sequence[tuple[str, Sequence[Fared]]]) -> float | None:
    """Give the share of projected figures whose 90 % interval held what came, over all sets and metrics."""
    of = [one for _, found in replays for one in found if one.estimator == "projected"]
    panes = sum(one.panes for one in of)
    return round(sum(one.held for one in of) / panes, 4) if panes else None


def jobs(parts: Sequence[str], scale: float) -> dict[str, list[Callable[[], tuple[float, Any]]]]:
    """Give what is to be run, by part, each by itself in a process."""

    def runs(count: int) -> int:
        return max(round(count * scale), 2)

    found: dict[str, list[Callable[[], Any]]] = {part: [] for part in parts}
    if "delays" in parts:  # the longest first
        order = sorted(range(len(delays.ways())), key=lambda place: delays.ways()[place].name != "HDDM_A")
        found["delays"] = [partial(_delay, place, runs(200), scale) for place in order]
    if "nulls" in parts:
        budgets = (SHIPPED, COUNTABLE)
        found["nulls"] = [partial(nulls.steady, 20 + seed, runs(50), budgets) for seed in range(4)]
        found["nulls"] += [partial(real.weeks, 30 + seed, 2, runs(12), budgets) for seed in range(2)]
        found["nulls"] += [partial(nulls.moving, 40, runs(75), COUNTABLE)]
    if "canaries" in parts:
        found["canaries"] = [
            partial(canaries.run, share, rate, runs(500), 40_000, 200)
            for share in canaries.SHARES
            for rate in canaries.RATES
        ]
    if "coverage" in parts:
        found["coverage"] = [partial(coverage.replay_of, place, 1) for place in range(len(coverage.SETS))]
    if "seasons" in parts:
        found["seasons"] = [
            partial(seasons.judged, 60, runs(40), kind, budget, rise=rise)
            for kind in seasons.KINDS
            for budget in (SHIPPED, COUNTABLE)
            for rise in seasons.RISES
        ]
    return {part: [partial(_timed, job) for job in of_part] for part, of_part in found.items()}


def _delay(place: int, runs: int, scale: float) -> Delay:
    return delays.measure(delays.ways()[place], runs, scale)


def _timed(job: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = job()
    return time.process_time() - began, found


def merged(found: Sequence[Weeks]) -> list[Weeks]:
    """Put the weeks of a kind together.

    >>> week = Weeks("a", "b", 1.0, 2, Rate.of(1, 0.5), 1.0)
    >>> merged([week, week])[0].alarms.value, merged([week, week])[0].weeks
    (2.0, 4)
    """
    kinds: dict[tuple[str, str, float, float | None], list[Weeks]] = {}
    for one in found:
        kinds.setdefault((one.name, one.how, one.budget, one.promised), []).append(one)
    return [
        Weeks(name, how, budget, sum(one.weeks for one in group), _pooled(group), promised)
        for (name, how, budget, promised), group in kinds.items()
    ]


def _pooled(group: Sequence[Weeks]) -> Rate:
    return Rate.of(sum(one.alarms.count for one in group), sum(one.alarms.exposure for one in group))


def told(weeks: Sequence[Weeks]) -> dict[str, float | None]:
    """Give the figures of the runs at the limit, pooled, with a budget large enough to count by."""
    held = [one for one in weeks if one.how == nulls.AT_LIMIT and one.budget == COUNTABLE]
    if not held:
        return {"null_false_alarms": None, "null_budget": None}
    months = sum(one.alarms.exposure for one in held)
    promised = sum((one.promised or 0.0) * one.alarms.exposure for one in held) / months
    return {"null_false_alarms": round(_pooled(held).value, 3), "null_budget": round(promised, 3)}


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the runs")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be given again)")
    given = parser.parse_args()
    began = time.monotonic()
    say = partial(print, file=sys.stderr, flush=True)
    say(f"python -m benchmarks.statistics {' '.join(sys.argv[1:])}".rstrip())
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "river", "scikit-learn"))
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}\n")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        futures = {
            part: [pool.submit(job) for job in of_part]
            for part, of_part in jobs(given.only or PARTS, given.scale).items()
        }
        done = {part: [future.result() for future in of_part] for part, of_part in futures.items()}
    cpu_s = sum(seconds for of_part in done.values() for seconds, _ in of_part)
    weeks = merged([one for _, found in done.get("nulls", []) for one in found])
    gates: list[Canary] = [found for _, found in done.get("canaries", [])]
    order = [way.name for way in delays.ways()]
    found = sorted((one for _, one in done.get("delays", [])), key=lambda one: order.index(one.name))
    replays: list[tuple[str, list[Fared]]] = [found for _, found in done.get("coverage", [])]
    policy = DecidePolicy(model="m")
    alpha = policy.alpha + policy.alpha_rollback / GATES
    if weeks:
        _print_weeks(weeks, say)
    if gates:
        _print_canaries(gates, policy, say)
    if found:
        _print_delays(found, say)
    if replays:
        _print_coverage(replays, say)
    if "seasons" in done:
        _print_seasons([one for _, both in done["seasons"] for one in both], say)
    say(f"{time.monotonic() - began:.0f} s, {cpu_s:.0f} s of CPU")
    if given.json:
        rise = {one.name: one.median["10 to 15 %"] for one in found}
        answer = {
            **told(weeks),
            "aa_wrong_share": max((one.either / one.runs for one in gates), default=None),
            "alpha": alpha,
            "coverage_90": coverage_90(replays),
            "delay_e_sr": rise.get("e_sr"),
            "delay_adwin": rise.get("ADWIN"),
        }
        print(json.dumps(answer))


def _print_weeks(weeks: Sequence[Weeks], say: Callable[[str], None]) -> None:
    say(f"false alarms per 30 days, {sum(_once(weeks).values())} simulated weeks of minute panes of 60 rows")
    say(f"{'stream':36} {'limit':22} {'budget':>6} {'weeks':>6} {'alarms':>6} {'rate [95 %]':>22} {'promised':>9}")
    for one in weeks:
        rate = f"{one.alarms.value:.2f} [{one.alarms.low:.2f}, {one.alarms.high:.2f}]"
        promised = "nothing" if one.promised is None else f"{one.promised:g}"
        say(f"{one.name:36} {one.how:22} {one.budget:6g} {one.weeks:6} {one.alarms.count:6} {rate:>22} {promised:>9}")
    pooled = told(weeks)
    say(f"at the limit, budget {COUNTABLE:g}: {pooled['null_false_alarms']} of {pooled['null_budget']} promised\n")


def _once(weeks: Sequence[Weeks]) -> dict[tuple[str, str], int]:
    """Count each simulated week once: budgets, and ways of judging a moving rate, read the same ones."""
    return {(one.name, one.how if one.promised is not None else ""): one.weeks for one in weeks}


def _print_canaries(gates: Sequence[Canary], policy: DecidePolicy, say: Callable[[str], None]) -> None:
    runs, looks = gates[0].runs, gates[0].looks
    say(f"A/A canaries that ever decided, {runs} runs of 40,000 subjects, {looks} looks, bar 0")
    say(f"{'share':>6} {'base rate':>9} {'better':>7} {'worse':>7} {'either':>7} {'95 %':>16}")
    for one in gates:
        better, worse, either = (f"{count / runs:7.3f}" for count in (one.better, one.worse, one.either))
        ends = f"[{one.low:.3f}, {one.high:.3f}]"
        say(f"{one.share:6g} {one.rate:9g} {better} {worse} {either} {ends:>16}")
    pooled = sum(one.either for one in gates) / sum(one.runs for one in gates)
    rollback = policy.alpha_rollback / GATES
    say(f"pooled {pooled:.4f}; allowed: {policy.alpha:g} to promote, {rollback:g} to roll back\n")


def _print_delays(found: Sequence[Delay], say: Callable[[str], None]) -> None:
    say(f"median events until the alarm (share missed within {delays.LIMIT:,}), all know {delays.LEARN:,} events")
    names = "".join(f"{name:>27}" for name in CHANGES)
    say(f"{'detector':20} {'tuned to':>20} {f'alarms/{PER:,}':>16} {names}")
    for one in found:
        cells = "".join(f"{f'{_number(one.median[name])} ({one.missed[name]:.0%})':>27}" for name in CHANGES)
        say(f"{one.name:20} {f'{one.parameter} {one.value:.4g}':>20} {one.false_alarms:16.2f} {cells}")
    say("")


def _print_coverage(replays: Sequence[tuple[str, Sequence[Fared]]], say: Callable[[str], None]) -> None:
    say("figures told when a pane's traffic had closed, beside the realised ones: panes are independent")
    heads = f"{'panes':>6} {'90 % held':>9} {'width':>6} {'bias':>7} {'so far':>7}"
    say(f"{'set':9} {'estimator':10} {'metric':24} {heads}")
    for name, found in replays:
        for one in found:
            figures = f"{one.panes:6} {one.coverage:9.3f} {one.width:6.3f} {one.bias:7.3f} {one.bias_so_far:7.3f}"
            say(f"{name:9} {one.estimator:10} {one.metric:24} {figures}")
    say(
        f"projected, all: {coverage_90(replays)} of 0.9; `so far` is the bias of the figure over labels that had come\n"
    )


def _print_seasons(found: Sequence[Seasonal], say: Callable[[str], None]) -> None:
    say(f"a cycle of the day and the week, {found[0].runs} streams, 12 weeks without a change; then a rise, and the")
    say(f"median days until the alarm (share missed within {seasons.RISE_WEEKS} weeks)")
    rises = "".join(f"{f'rise x{rise:g}':>16}" for rise in seasons.RISES)
    say(f"{'weeks differ by':22} {'season':13} {'budget':>6} {'alarms in 30 days [95 %]':>26} {rises}")
    rows: dict[tuple[str, str, float], list[Seasonal]] = {}
    for one in found:
        rows.setdefault((one.kind, one.season, one.budget), []).append(one)
    for (kind, season, budget), group in rows.items():
        alarms = group[0].alarms  # the same weeks before every rise
        rate = f"{alarms.value:.2f} [{alarms.low:.2f}, {alarms.high:.2f}]"
        cells = "".join(f"{f'{_days(one.delay_days)} ({one.missed / one.runs:.0%})':>16}" for one in group)
        say(f"{kind:22} {season:13} {budget:6g} {rate:>26} {cells}")
    say("")


def _days(value: float | None) -> str:
    return "never" if value is None else f"{value:.2g}"


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    main()
