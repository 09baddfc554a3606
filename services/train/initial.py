"""Version 1: a model from rows that somebody already has, before any prediction was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from schemas.control import Reference, ReferenceSet
from schemas.errors import WeirError
from schemas.event import encode
from schemas.settings import Settings
from services.train.artifact import Artifact, Lineage, registry_of, save
from services.train.rows import Rows

if TYPE_CHECKING:
    from services.kafka import Sender

Column = Sequence[Any] | NDArray[Any]


def train_initial(
    settings: Settings,
    model: str,
    version: str,
    *,
    features: Mapping[str, Column],
    labels: Column,
    at_ms: Column,
    subjects: Sequence[str] | None = None,
    labelled_at_ms: Column | None = None,
    weight: Column | None = None,
    announce: bool = True,
) -> Artifact:
    """Train a version on labelled columns of one length (labels 0 or 1), save it, and freeze its reference.

    The same rows again give the version that is already there; other rows for a version that exists are refused with
    `WeirError`, as are rows that cannot teach. With `announce` the reference is put into every partition of `control`,
    at the time of the last row; without it nothing is sent and Kafka is not needed.
    """
    import torch

    from services.train.make import code_version, make
    from services.train.training import device_of

    rows = Rows.of(features, labels, at_ms, subjects=subjects, labelled_at_ms=labelled_at_ms, weight=weight)
    if not len(rows):
        raise WeirError(f"no rows to train {model!r} on", fix="give labelled rows")
    digest = rows.digest()
    until_ms = int(rows.at_ms[-1]) + 1
    device = device_of(settings.train.device, rows.x.size)
    lineage = Lineage(
        retrain_id=f"initial-{digest[:20]}",
        from_ms=int(rows.at_ms[0]),
        to_ms=until_ms,
        dataset=digest,
        rows=len(rows),
        code=code_version(),
        seed=settings.train.seed,
        device=device,
        torch=str(torch.__version__),
    )
    made = make(
        rows,
        model=model,
        version=version,
        lineage=lineage,
        epochs=settings.train.epochs,
        maturity=1.0,
        created_at_ms=until_ms,
    )
    saved = save(registry_of(settings), made)
    if announce:
        from services.kafka import Sender

        with Sender(settings, "train") as sender:
            send_reference(sender, settings, saved.card.reference, at_ms=until_ms)
    return saved


def send_reference(sender: Sender, settings: Settings, reference: Reference, *, at_ms: int) -> None:
    """Put a version's reference into every partition of `control`. Its id is a hash: said twice, it is the same.

    When this returns Kafka has it, so whatever is sent next finds it frozen.
    """
    body = encode(ReferenceSet(reference=reference, at_ms=at_ms))
    for partition in range(settings.partitions):
        sender.send("control", body, partition=partition, append_ms=at_ms)
    sender.flush()
