"""Networks of the paper, initialised as its Appendix G says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "linear": nn.Identity}


def fully_connected(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, activation: str, generator: torch.Generator
) -> nn.Sequential:
    """Fully-connected network: weights N(0, 1 / fan_in), biases zero.

    References:
        Cohen et al. 2022 (arXiv 2207.14484), Appendix G.1 (hidden = 5 layers of 200, tanh).
    """
    widths = [num_inputs, *hidden, num_outputs]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        linear = torch.nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.normal_(linear.weight, std=fan_in**-0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class Point(nn.Module):
    """A model that is nothing but its parameters: a point x (p,) of an analytic loss."""

    def __init__(self, start: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.x = nn.Parameter(start.clone())

    def forward(self) -> torch.Tensor:
        return self.x
