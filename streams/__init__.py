"""The arithmetic of Weir, and the loops that carry it.

Reading order: `runtime` (how a pure processor is fed, exactly once), `join` (predictions meet what turned out to be
true), `measure` (integers that merge and retract), `judge` (metrics, detectors, verdicts), `decide` (retrain, promote).
"""
