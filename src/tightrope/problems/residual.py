"""Residual networks: the paper's Wide ResNet, with BatchNorm or without, and ResNet-50.

Weights are N(0, 1 / fan_in), biases zero; convolutions have no bias. BatchNorm starts as torch has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .models import drawn

STEM = 16
"""Filters of a Wide ResNet's first convolution, or as many as its first group has if those are fewer."""


class WideBlock(nn.Module):
    """Two convolutions, activated before each; without BatchNorm, a learnable multiplier after them, from 1.

    The input is added as it is, or, where size or channels change, by a 1x1 convolution of the activated input.
    """

    def __init__(
        self, num_channels: int, num_filters: int, stride: int, is_normalised: bool, generator: torch.Generator
    ) -> None:
        nn.Module.__init__(self)
        is_same = stride == 1 and num_channels == num_filters
        self.activated = nn.Sequential(*_activation(num_channels, is_normalised))
        self.shortcut = None if is_same else _convolution(num_channels, num_filters, 1, stride, generator)
        self.branch = nn.Sequential(
            _convolution(num_channels, num_filters, 3, stride, generator),
            *_activation(num_filters, is_normalised),
            _convolution(num_filters, num_filters, 3, 1, generator),
        )
        self.multiplier = None if is_normalised else nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activated(x)
        x = x if self.shortcut is None else self.shortcut(y)
        y = self.branch(y)
        total: Tensor = x + (y if self.multiplier is None else self.multiplier * y)
        return total


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 with BatchNorm, added to the input and then activated.

    The stride is that of the 3x3 one; where size or channels change, the input passes a 1x1 convolution.
    """

    def __init__(self, num_channels: int, width: int, stride: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        num_filters = 4 * width
        self.branch = nn.Sequential(
            *_normalised(num_channels, width, 1, 1, generator),
            nn.ReLU(),
            *_normalised(width, width, 3, stride, generator),
            nn.ReLU(),
            *_normalised(width, num_filters, 1, 1, generator),
        )
        is_same = stride == 1 and num_channels == num_filters
        shortcut = [] if is_same else _normalised(num_channels, num_filters, 1, stride, generator)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.shortcut(x) + self.branch(x)
        return total.relu()


def wide_residual(
    num_channels: int,
    channels: Sequence[int],
    blocks: int,
    num_outputs: int,
    is_normalised: bool,
    generator: torch.Generator,
) -> nn.Sequential:
    """Wide ResNet: groups of blocks, each group after the first at half the size, then the mean over what is left.

    Args:
        num_channels: Of the images.
        channels: Of each group; the paper's are (160, 320, 640), a multiplier of 10.
        blocks: In each group; the paper has four.
        num_outputs: Of the last, linear, layer.
        is_normalised: With BatchNorm; without it, with scalar multipliers.
        generator: Draws the weights.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), Appendix G.1; Zagoruyko and Komodakis 2016 (arXiv 1605.07146), WRN-28-10:
        36,479,194 parameters with ten outputs. What G.1 leaves open is as in google/init2winit (a 1x1 shortcut, the
        multiplier before the addition), but for the padding of strided convolutions, which is symmetric here.
    """
    width = min(STEM, channels[0])
    layers: list[nn.Module] = [_convolution(num_channels, width, 3, 1, generator)]
    for group, num_filters in enumerate(channels):
        for block in range(blocks):
            stride = 2 if group > 0 and block == 0 else 1
            layers.append(WideBlock(width, num_filters, stride, is_normalised, generator))
            width = num_filters
    layers += _activation(width, is_normalised)
    return nn.Sequential(*layers, *_classifier(width, num_outputs, generator))


def bottleneck_residual(
    num_outputs: int,
    generator: torch.Generator,
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
) -> nn.Sequential:
    """ResNet of bottleneck blocks with BatchNorm on (n, 3, h, w) images; as it stands, ResNet-50.

    Args:
        num_outputs: Of the last, linear, layer.
        generator: Draws the weights.
        blocks: In each group; a group after the first has twice the width at half the size.
        width: Of the first group's 3x3 convolutions; a block has four times as many outputs.
    References:
        He et al. 2016 (arXiv 1512.03385), Table 1; 25,557,032 parameters with 1,000 outputs.
    """
    layers: list[nn.Module] = [*_normalised(3, width, 7, 2, generator), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    num_channels = width
    for group, num_blocks in enumerate(blocks):
        for block in range(num_blocks):
            stride = 2 if group > 0 and block == 0 else 1
            layers.append(Bottleneck(num_channels, width * 2**group, stride, generator))
            num_channels = 4 * width * 2**group
    return nn.Sequential(*layers, *_classifier(num_channels, num_outputs, generator))


def _convolution(num_channels: int, num_filters: int, size: int, stride: int, generator: torch.Generator) -> nn.Module:
    """Padded so that a stride of 1 keeps the size."""
    layer = skip_init(nn.Conv2d, num_channels, num_filters, size, stride, padding=size // 2, bias=False)
    return drawn(layer, generator)


def _normalised(
    num_channels: int, num_filters: int, size: int, stride: int, generator: torch.Generator
) -> list[nn.Module]:
    return [_convolution(num_channels, num_filters, size, stride, generator), nn.BatchNorm2d(num_filters)]


def _activation(num_channels: int, is_normalised: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(num_channels), nn.ReLU()] if is_normalised else [nn.ReLU()]


def _classifier(width: int, num_outputs: int, generator: torch.Generator) -> list[nn.Module]:
    """The mean over the image, and a linear layer on it."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), drawn(skip_init(nn.Linear, width, num_outputs), generator)]
