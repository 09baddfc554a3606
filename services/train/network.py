"""Networks for tabular rows. `x` is [rows, inputs] float32, what comes out is [rows] logits of the positive class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from services.train.artifact import Network, Weights


class Logistic(nn.Module):
    """A weighted sum: the baseline that a larger network must beat on rows it was not fitted on."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x).squeeze(1)  # [rows, inputs] → [rows, 1] → [rows]
        return logits


class Mlp(nn.Module):
    """Hidden layers with SiLU, beside a weighted sum: what is linear need not be learnt through the layers."""

    def __init__(self, inputs: int, hidden: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide_in, wide_out in zip([inputs, *hidden[:-1]], hidden, strict=True):
            layers += [nn.Linear(wide_in, wide_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(hidden[-1], 1)
        self.skip = nn.Linear(inputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.head(self.layers(x))  # [rows, inputs] → [rows, hidden[-1]] → [rows, 1]
        logits: Tensor = (deep + self.skip(x)).squeeze(1)  # [rows]
        return logits


def build(network: Network) -> nn.Module:
    """Make the module that a network describes, with torch's initial weights."""
    if network.kind == "logistic":
        return Logistic(network.inputs)
    if not network.hidden or min(network.hidden) < 1:
        raise ValueError(f"an mlp needs hidden widths of at least 1, got {network.hidden}")
    return Mlp(network.inputs, network.hidden)


def weights_of(module: nn.Module) -> Weights:
    """Give the weights as arrays on the CPU, by name."""
    return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in module.state_dict().items()}


def put_weights(module: nn.Module, weights: Weights) -> None:
    """Set all weights. Raises `ValueError` when names or shapes are not the network's."""
    state: dict[str, Any] = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
