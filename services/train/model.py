"""A loaded model: features in, scores out. Checked against the trainer's own scores before it answers anybody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from schemas.control import Reference
from schemas.errors import WeirError
from services.train.artifact import Artifact, Card, load

TOLERANCE: Final = 1e-5
"""How far a probe's score may lie from the trainer's: kernels of other machines and batch sizes round differently."""


class BadFeatures(ValueError):
    """A row that the model cannot score; `row` is its place in the batch. The text says what was expected."""

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row


class Model:
    """Scores rows on one device. Reading only: threads may share it; `imputed` then counts approximately.

    Raises `WeirError` when the artifact's weights are not its network's.
    """

    def __init__(self, artifact: Artifact, *, device: str = "cpu") -> None:
        import torch

        from services.train import network

        self.card: Card = artifact.card
        self.device = device
        self.imputed: Counter[str] = Counter()
        """How often each feature was missing and the mean was taken instead."""
        card = artifact.card
        self._columns = list(zip(card.features, card.mean, card.scale, strict=True))
        self._flags = [card.features.index(name) for name in card.flags]
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: draw them from nobody's stream
            module = network.build(card.network)
        try:
            network.put_weights(module, artifact.weights)
        except ValueError as error:
            raise WeirError(
                f"the weights of {card.model!r} version {card.version!r} do not fit its network: {error}",
                fix="train the version again",
            ) from None
        self._torch: Any = torch
        self._module: Any = module.to(device).eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path, *, sha256: str = "", device: str = "cpu") -> Model:
        """Read an artifact and make its model ready. Raises as `artifact.load` does."""
        return cls(load(path, sha256=sha256), device=device)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.card.model

    @property
    def version(self) -> str:
        """The version's name."""
        return self.card.version

    @property
    def reference(self) -> Reference:
        """The distributions that live traffic is compared with."""
        return self.card.reference

    @property
    def threshold(self) -> float:
        """A score from here on means the positive class."""
        return self.card.threshold

    @property
    def features(self) -> list[str]:
        """The features that it reads, in order; others are ignored."""
        return self.card.features

    def vector(self, features: Mapping[str, Any]) -> list[float]:
        """Give the network's input for one row, so that a server can refuse a row before it joins a batch.

        Missing, null and not-finite values become the mean and are flagged; booleans are 0 and 1. Raises `BadFeatures`
        for text or a nested value, and when not one feature is given.
        """
        row, missing, limit = [], [], self.card.limit
        for i, (name, mean, scale) in enumerate(self._columns):
            value = features.get(name)
            if value is not None and not isinstance(value, int | float):
                raise BadFeatures(
                    f"feature {name!r} must be a number, true, false or null, got {type(value).__name__} {value!r:.60}"
                )
            try:
                given = value is not None and math.isfinite(value)
            except OverflowError:
                given = False
            if given and value is not None:
                row.append(max(-limit, min(limit, (value - mean) / scale)))
            else:
                row.append(0.0)
                missing.append(i)
        if len(missing) == len(self._columns):
            raise BadFeatures(
                f"none of the features of {self.model!r} was given a value; it reads {', '.join(self.features)}"
            )
        for i in missing:
            self.imputed[self.card.features[i]] += 1
        return row + [1.0 if i in missing else 0.0 for i in self._flags]

    def scores(self, vectors: Sequence[Sequence[float]]) -> list[float]:
        """Score rows that `vector` made: the probability of the positive class, in [0, 1]."""
        if self._module is None:
            raise RuntimeError(f"version {self.version!r} of {self.model!r} was unloaded")
        if not vectors:
            return []
        torch = self._torch
        with torch.inference_mode():
            x = torch.tensor(vectors, dtype=torch.float32, device=self.device)  # [rows, inputs]
            found: list[float] = torch.sigmoid(self._module(x).double()).tolist()
        return found

    def predict(self, features: Sequence[Mapping[str, Any]]) -> list[float]:
        """Score rows of features by name. Raises `BadFeatures` that names the row and what was expected."""
        vectors = []
        for i, row in enumerate(features):
            try:
                vectors.append(self.vector(row))
            except BadFeatures as error:
                raise BadFeatures(f"row {i}: {error}" if len(features) > 1 else str(error), i) from None
        return self.scores(vectors)

    def warm_up(self) -> None:
        """Score the trainer's probe rows, singly and as a batch: lazy parts of torch are loaded, scores compared.

        Raises `WeirError` when a score differs by more than `TOLERANCE`: this model would answer wrongly.
        """
        probe = self.card.probe
        vectors = [self.vector(row) for row in probe.rows]
        self.imputed.clear()
        singly = [self.scores([vector])[0] for vector in vectors]
        for found in (singly, self.scores(vectors)):
            for i, (mine, said) in enumerate(zip(found, probe.scores, strict=True)):
                if not abs(mine - said) <= TOLERANCE:
                    raise WeirError(
                        f"{self.model!r} version {self.version!r} scores probe row {i} {mine!r}, its trainer {said!r}",
                        fix="train the version again with this code, or serve it with the code it was trained with",
                    )

    def unload(self) -> None:
        """Let go of the weights. Idempotent; scoring afterwards raises `RuntimeError`."""
        self._module = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unload()
