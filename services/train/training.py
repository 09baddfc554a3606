"""Training: a plain torch loop, and a small choice among what it makes.

**Choice.** The world may have changed inside the data window, and nobody says when. So each network is fitted on all of
the rows to fit on, on their later half and on their latest quarter, and the one with the least weighted log loss on
the validation tail is taken; a logistic regression is always among them. The winner is then fitted once more, as long
and on the same share, with the validation tail added, because the latest rows are the most alike to what comes. The
hold-out comes after all of these and decides nothing: what is measured there is the candidate's honest figure.

**Same inputs, same weights.** Seeds, order of batches, one thread and torch's deterministic algorithms are fixed, so
the same rows give the same bits on the same machine and version of torch. Across machines they agree to rounding only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from services.train.artifact import LIMIT, Network, Weights
from services.train.network import build, weights_of
from services.train.rows import Floats, Rows, Split

SHARES: Final = (1.0, 0.5, 0.25)
"""How much of the rows to fit on is used, counted from the latest."""
LEAST_FITTED: Final = 100
HIDDEN: Final = [16]
LEAST_BATCH: Final = 128
MOST_STEPS: Final = 32
"""Steps an epoch: beyond `LEAST_BATCH` times this many rows the batches grow instead."""
STEP: Final = {"logistic": 5e-2, "mlp": 1e-2}
DECAY: Final = 1e-4
BETAS: Final = (0.9, 0.999)
PATIENCE: Final = 5


@dataclass(frozen=True, slots=True)
class Inputs:
    """How rows become the network's input: see `artifact.Card`."""

    names: list[str]
    flags: list[str]
    mean: list[float]
    scale: list[float]

    @classmethod
    def learn(cls, rows: Rows) -> Inputs:
        """Learn means and scales (1 where nothing varies) from present values; flag what is ever missing."""
        missing = np.isnan(rows.x)
        count = np.maximum((~missing).sum(axis=0), 1)
        mean = np.where(missing, 0.0, rows.x).sum(axis=0) / count
        spread = np.sqrt((np.where(missing, 0.0, rows.x - mean) ** 2).sum(axis=0) / count)
        scale = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(mean)), spread, 1.0)
        flags = [name for i, name in enumerate(rows.names) if missing[:, i].any()]
        return cls(rows.names, flags, mean.tolist(), scale.tolist())

    def matrix(self, rows: Rows) -> Floats:
        """Give [n, features + flags]."""
        missing = np.isnan(rows.x)
        scaled = np.where(missing, 0.0, (rows.x - np.array(self.mean)) / np.array(self.scale))
        scaled = scaled.clip(-LIMIT, LIMIT)
        flagged = missing[:, [self.names.index(name) for name in self.flags]]
        return np.hstack([scaled, flagged.astype(np.float64)])


@dataclass(frozen=True, slots=True)
class Fitted:
    """One trained network. `loss` is its weighted log loss on the rows that stopped it, `share` the part fitted on."""

    network: Network
    inputs: Inputs
    weights: Weights
    loss: float
    share: float
    rows: int
    epochs: int


def train(parts: Split, *, seed: int, epochs: int, device: str = "cpu") -> list[Fitted]:
    """Give the model: the best of `choices`, fitted again up to the hold-out; then the best logistic one, likewise.

    Where the logistic regression is the best the list has one entry. Raises as `choices` does.
    """
    found = choices(parts.fitted, parts.validated, seed=seed, epochs=epochs, device=device)
    logistic = next(one for one in found if one.network.kind == "logistic")
    before = parts.before
    with deterministic(device):
        return [
            fit(
                _latest(before, one.share),
                None,
                one.network,
                seed=seed,
                epochs=one.epochs,
                share=one.share,
                device=device,
            )
            for one in (found[:1] if found[0] is logistic else [found[0], logistic])
        ]


def choices(fitted: Rows, validated: Rows, *, seed: int, epochs: int, device: str = "cpu") -> list[Fitted]:
    """Fit every combination of network and share of rows; the best comes first, and of equals the simpler.

    Raises `ArithmeticError` when not one of them gives a finite loss.
    """
    found: list[Fitted] = []
    with deterministic(device):
        for share in SHARES:
            part = _latest(fitted, share)
            if share < 1.0 and (len(part) < LEAST_FITTED or len(set(part.y.tolist())) < 2):
                continue
            found += [
                fit(part, validated, network, seed=seed, epochs=epochs, share=share, device=device)
                for network in (Network(kind="logistic", inputs=0), Network(kind="mlp", inputs=0, hidden=HIDDEN))
            ]
    found = [one for one in found if math.isfinite(one.loss)]
    if not found:
        raise ArithmeticError(f"no network learnt anything from {len(fitted)} rows: every loss is infinite")
    return sorted(found, key=lambda one: one.loss)


def fit(
    part: Rows, validated: Rows | None, network: Network, *, seed: int, epochs: int, share: float = 1.0, device: str
) -> Fitted:
    """Train one network until the validation loss has not fallen for `PATIENCE` epochs; keep its best weights.

    Without rows to validate it trains for all epochs. The network's inputs are learnt from `part`. Call it inside
    `deterministic`.
    """
    inputs = Inputs.learn(part)
    network = replace(network, inputs=len(inputs.names) + len(inputs.flags))
    checked = part if validated is None else validated
    x, y, w = _tensors(inputs, part, device)
    seen, truth, counted = _tensors(inputs, checked, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(network)
    module.to(device)
    order = torch.Generator().manual_seed(seed)
    batch_rows = max(LEAST_BATCH, math.ceil(len(part) / MOST_STEPS))
    optimizer = AdamW(module, STEP[network.kind], steps=epochs * math.ceil(len(part) / batch_rows))
    best, weights, best_epoch = math.inf, weights_of(module), 0
    for epoch in range(1, epochs + 1):
        module.train()
        for index in torch.randperm(len(part), generator=order).split(batch_rows):  # type: ignore[no-untyped-call]
            batch = index.to(device)  # [≤ batch_rows]
            _loss(module, x[batch], y[batch], w[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        module.eval()
        with torch.inference_mode():
            loss = float(_loss(module, seen, truth, counted))
        if loss < best or validated is None:
            best, weights, best_epoch = loss, weights_of(module), epoch
        if epoch - best_epoch >= PATIENCE:
            break
    return Fitted(network, inputs, weights, best, share, len(part), best_epoch)


class AdamW:
    """Adam with decoupled decay (Loshchilov and Hutter 2019), its step falling to 0 along a cosine.

    Our own, because the first optimizer of `torch.optim` loads torch's compiler: 5 s of CPU for a run of one.
    """

    def __init__(self, module: nn.Module, rate: float, *, steps: int) -> None:
        self._state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in module.parameters()]
        self._rate, self._steps, self._done = rate, steps, 0

    @torch.no_grad()
    def step(self) -> None:
        """Move along the gradients, and clear them."""
        rate = self._rate * 0.5 * (1 + math.cos(math.pi * self._done / self._steps))
        self._done += 1
        first, second = 1 - BETAS[0] ** self._done, 1 - BETAS[1] ** self._done
        for p, mean, square in self._state:
            assert p.grad is not None
            mean.lerp_(p.grad, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
            p.mul_(1 - rate * DECAY)
            p.addcdiv_(mean, (square / second).sqrt_().add_(1e-8), value=-rate / first)
            p.grad = None


@contextmanager
def deterministic(device: str = "cpu") -> Iterator[None]:
    """Fix what would let two runs differ, and put it back: one thread, deterministic algorithms.

    `use_deterministic_algorithms` would do the same, and load torch's compiler to tell it: 5 s of CPU.
    """
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    threads, before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.set_num_threads(threads)


def device_of(wanted: str, cells: int) -> str:
    """Give the device: the wanted one, else a GPU when there is one and the table is large enough to gain from it."""
    return wanted or ("cuda" if cells >= LARGE_CELLS and torch.cuda.is_available() else "cpu")


LARGE_CELLS: Final = 20_000_000


def _loss(module: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Weighted mean log loss; a batch whose weights are all 0 has none."""
    losses = nn.functional.binary_cross_entropy_with_logits(module(x), y, reduction="none")  # [rows]
    return (losses * w).sum() / w.sum().clamp_min(1e-9)


def _latest(rows: Rows, share: float) -> Rows:
    return rows.take(slice(len(rows) - round(len(rows) * share), None))


def _tensors(inputs: Inputs, rows: Rows, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Give x [rows, inputs], y [rows], weight [rows]."""
    columns = (inputs.matrix(rows), rows.y, rows.weight)
    x, y, w = (torch.tensor(column, dtype=torch.float32, device=device) for column in columns)
    return x, y, w
