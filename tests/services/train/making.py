"""Small artifacts and rows that several tests make."""

import numpy as np

from schemas.control import Reference
from services.train.artifact import Artifact, Card, Lineage, Network, Probe


def artifact(version: str = "1", *, retrain_id: str = "run-1", model: str = "spam", bias: float = 0.0) -> Artifact:
    """Give a logistic model of `a` (mean 1, scale 2) and `b` (flagged): its score is σ(a' + 2 b + flag / 2 + bias)."""
    weights = {
        "out.weight": np.array([[1.0, 2.0, 0.5]], dtype=np.float32),
        "out.bias": np.array([bias], dtype=np.float32),
    }
    card = Card(
        model=model,
        version=version,
        network=Network(kind="logistic", inputs=3),
        features=["a", "b"],
        flags=["b"],
        mean=[1.0, 0.0],
        scale=[2.0, 1.0],
        reference=Reference(id="ref-1", model=model, version=version, n=10),
        lineage=Lineage(retrain_id=retrain_id, from_ms=0, to_ms=1, dataset="d", rows=10),
        probe=Probe(rows=[{"a": 1.0, "b": 0.0}], scores=[1 / (1 + float(np.exp(-bias)))]),
        created_at_ms=5,
    )
    return Artifact(card, weights)
