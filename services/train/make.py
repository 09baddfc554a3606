"""From labelled rows to an artifact: split, train, evaluate, freeze the reference. No I/O."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from schemas.control import Reference
from schemas.event import encode
from services.train import evaluate, training
from services.train.artifact import Artifact, Card, Lineage, Probe
from services.train.model import Model
from services.train.rows import Rows, Split, split
from streams.measure.ledger import SCORE, Ledger
from streams.measure.reference import learn

PROBES = 8


def make(
    rows: Rows,
    *,
    model: str,
    version: str,
    lineage: Lineage,
    epochs: int,
    maturity: float,
    created_at_ms: int,
    champion: Model | None = None,
) -> Artifact:
    """Train a version and describe it. The same arguments give the same bytes on the same machine.

    The champion, or else what it answered live, is measured on the same hold-out. Raises `DatasetRefused` when the rows
    cannot teach.
    """
    parts = split(rows)
    fits = training.train(parts, seed=lineage.seed, epochs=epochs, device=lineage.device)
    best, held = fits[0], parts.held_out
    card = Card(
        model=model,
        version=version,
        network=best.network,
        features=best.inputs.names,
        flags=best.inputs.flags,
        mean=best.inputs.mean,
        scale=best.inputs.scale,
        reference=Reference(id="none", model=model, version=version, n=0),
        lineage=lineage,
        probe=Probe(rows=[], scores=[]),
        created_at_ms=created_at_ms,
    )
    made = Model(Artifact(card, best.weights))
    scores = evaluate.scores_of(made, held)
    baselines = evaluate.baselines(parts.before, held)
    for other in fits[1:]:
        simple = replace(
            card, network=other.network, flags=other.inputs.flags, mean=other.inputs.mean, scale=other.inputs.scale
        )
        told = evaluate.brief(evaluate.ledger(held, evaluate.scores_of(Model(Artifact(simple, other.weights)), held)))
        baselines |= {f"logistic.{kind}": value for kind, value in told.items()}
    measured = partial(
        evaluate.measure, rows=held, model=model, run=lineage.retrain_id, maturity=maturity, at_ms=created_at_ms
    )
    rival = _champion(champion, held, lineage.base_version)
    asked = [i for i in np.linspace(0, len(held) - 1, PROBES).astype(int).tolist() if held.features(i)]
    probe_rows = [held.features(i) for i in asked]
    finished = replace(
        card,
        reference=freeze(parts, best.share, scores, model, version, card.threshold, created_at_ms),
        metrics=measured(evaluate.ledger(held, scores, card.threshold), version=version),
        champion=[] if rival is None else measured(rival, version=lineage.base_version),
        baselines={name: round(value, 6) for name, value in baselines.items()},
        probe=Probe(rows=probe_rows, scores=made.predict(probe_rows)),
    )
    return Artifact(finished, best.weights)


def _champion(champion: Model | None, held: Rows, version: str) -> Ledger | None:
    """Count the champion on the hold-out: its model's scores, else those that it gave live to these rows."""
    if champion is not None:
        return evaluate.ledger(held, evaluate.scores_of(champion, held), champion.threshold)
    live = evaluate.logged_scores(held, version) if version else None
    return None if live is None else evaluate.ledger(held, live, float(held.thresholds[0]))


def freeze(
    parts: Split, share: float, scores: list[float | None], model: str, version: str, threshold: float, at_ms: int
) -> Reference:
    """Freeze the reference: features as in all rows since the first that was fitted on, scores and errors as held out.

    Features need many rows and no model; an error counts only where the model had not seen the answer.
    """
    before, held = parts.before, parts.held_out
    recent = before.take(slice(len(before) - round(len(before) * share), None))
    seen = {name: recent.column(name) + held.column(name) for name in held.names}
    n = len(recent) + len(held)
    of_features = learn(model, version, seen, [None] * n, [None] * n, at_ms=at_ms)
    of_scores = learn(model, version, {}, scores, held.y.tolist(), at_ms=at_ms, threshold=threshold)
    whole = replace(
        of_features,
        id="unnamed",
        counts=of_features.counts | {SCORE: of_scores.counts[SCORE]},
        base_rate=of_scores.base_rate,
        error_rate=of_scores.error_rate,
        error_n=of_scores.error_n,
    )
    return replace(whole, id="ref-" + hashlib.sha256(encode(whole)).hexdigest()[:20])


@cache
def code_version() -> str:
    """Give the version of the trainer: the distribution's, and a hash of the files that decide what it learns."""
    home = Path(__file__).parent
    found = hashlib.sha256()
    for name in ("dataset", "rows", "network", "training", "evaluate", "make"):
        found.update((home / f"{name}.py").read_bytes())
    try:
        released = version("weir")
    except PackageNotFoundError:
        released = "0"
    return f"{released}+{found.hexdigest()[:12]}"
