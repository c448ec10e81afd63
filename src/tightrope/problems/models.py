"""Networks of the paper, initialised as its Appendix G says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import skip_init

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
        layers += [drawn(skip_init(nn.Linear, fan_in, fan_out), generator), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def convolutional(
    hidden: Sequence[int], num_outputs: int, activation: str, generator: torch.Generator
) -> nn.Sequential:
    """Convolutional network on (n, 3, 32, 32) images: weights N(0, 1 / fan_in), biases zero.

    Three times convolution, activation and max-pooling (64 filters of 5x5 and 96 of 3x3, both unpadded, and 128 of
    3x3, padded to keep the size; windows of 3x3 with stride 2), then fully-connected layers on what is left: 3x3x128.

    References:
        Cohen et al. 2022 (arXiv 2207.14484), Appendix G.1 (hidden = 512, 256; relu). It leaves open that pooling
        covers the border ("same"); the architecture's sources do not: MaxPoolingCNN of google/init2winit and the
        3c3d network of DeepOBS, 895,210 parameters with ten outputs.
    """
    layers: list[nn.Module] = []
    for num_channels, num_filters, size, padding in ((3, 64, 5, 0), (64, 96, 3, 0), (96, 128, 3, 1)):
        convolution = skip_init(nn.Conv2d, num_channels, num_filters, size, padding=padding)
        # With these sizes ceil_mode is "same" padding: the last window reaches one row and column over the border.
        pooling = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers += [drawn(convolution, generator), ACTIVATIONS[activation](), pooling]
    return nn.Sequential(*layers, *fully_connected(128 * 3 * 3, hidden, num_outputs, activation, generator))


def small_convolutional(
    hidden: Sequence[int], num_outputs: int, activation: str, generator: torch.Generator
) -> nn.Sequential:
    """Convolutional network on (n, 1, 8, 8) images: weights N(0, 1 / fan_in), biases zero.

    Twice convolution (16 and 32 filters of 3x3, padded to keep the size), activation and max-pooling of 2x2, then
    fully-connected layers on what is left: 2x2x32.
    """
    layers: list[nn.Module] = []
    for num_channels, num_filters in ((1, 16), (16, 32)):
        convolution = skip_init(nn.Conv2d, num_channels, num_filters, 3, padding=1)
        layers += [drawn(convolution, generator), ACTIVATIONS[activation](), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *fully_connected(32 * 2 * 2, hidden, num_outputs, activation, generator))


def drawn(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """The layer with weights N(0, 1 / fan_in) and biases, if it has any, zero."""
    weight = layer.get_parameter("weight")
    nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class Point(nn.Module):
    """A model that is nothing but its parameters: a point x (p,) of an analytic loss."""

    def __init__(self, start: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.x = nn.Parameter(start.clone())

    def forward(self) -> torch.Tensor:
        return self.x
