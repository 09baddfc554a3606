"""Retrain events become candidates: a pinned data set, a deterministic training run, an artifact with its evidence.

Reading order: `artifact` (what a model is on disk), `network` and `training` (how it is made), `dataset` (from what),
`evaluate` (how good it is), `initial` (version 1), `run` (the process).
"""
