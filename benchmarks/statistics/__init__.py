"""Whether what is promised of alarms and gates holds, and what it costs: `python -m benchmarks.statistics`.

`simulated` makes panes of streams in which nothing changes (or the rate drifts as declared), `real` of rows of a real
set, `nulls` judges weeks of them with the real detector and counts alarms beside the budget, `canaries` looks at A/A
rollouts, `delays` compares detectors at an equal rate of false alarms, `coverage` replays real sets and counts how
often forecasts' intervals held, `counted` has the arithmetic of rates.
"""
