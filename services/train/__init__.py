"""Retrain events become candidates: a pinned data set, a deterministic training run, an artifact with its evidence.

Reading order: `artifact` (what a model is on disk), `model` (how it scores), `rows` and `dataset` (what it learns
from), `network` and `training` (how), `evaluate` and `make` (how good it is, and all together), `initial` (version 1),
`attempt` (one run, whatever is killed) and `run` (the process).
"""
