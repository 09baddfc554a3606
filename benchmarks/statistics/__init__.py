"""Whether what is promised of alarms and gates holds, and what it costs: `python -m benchmarks.statistics`.

`simulated` makes panes of streams in which nothing changes (or the rate moves as declared), `nulls` judges weeks of
them with the real detector and counts alarms beside the budget, `real` does so with rows of a real data set, `canaries`
looks at A/A rollouts, `delays` compares detectors at an equal rate of false alarms, `counted` has the arithmetic.
"""
