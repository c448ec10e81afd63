"""A spectral density as a curve to draw: how many eigenvalues lie about each value, on an axis with both signs.

Legend: theta = nodes, tau = weights, p = number of eigenvalues, u = asinh(lambda / zero), linear about zero and
logarithmic far from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.curvature import SpectralDensity, SpectralEstimate

WIDTH = 0.2
"""Of the window in u: far from zero within 20 % of a value. Finer, a curve of 64 steps shows nodes, not features."""
ZERO = 1e-3
"""Eigenvalues within this part of the largest count as zero."""
NUM_POINTS = 1024


@dataclass(frozen=True)
class SpectrumCurve:
    """What `spectrum_panel` draws.

    Attributes:
        eigenvalue: (n,) ascending, equally spaced in u.
        count: (n,) eigenvalues within a Gaussian window about it, of height 1; one alone has the height 1.
        error: (n,) standard error of the count over the random directions.
        zero: Within which eigenvalues count as zero.
        at_zero: How many do.
        extremes: The smallest and the largest node.
        size: How many there are.
    """

    eigenvalue: Tensor
    count: Tensor
    error: Tensor
    zero: float
    at_zero: SpectralEstimate
    extremes: tuple[float, float]
    size: int


def spectrum_curve(density: SpectralDensity) -> SpectrumCurve:
    """How many eigenvalues lie about each value.

    Args:
        density: Of at least one finite node.
    Cost:
        num_vectors * m * 1024 exponentials.
    """
    zero = ZERO * float(density.nodes.abs().max()) or ZERO
    u = torch.asinh(density.nodes / zero)
    position = torch.linspace(float(u.min()) - 4 * WIDTH, float(u.max()) + 4 * WIDTH, NUM_POINTS, dtype=torch.float64)
    rows = torch.stack(
        [
            density.size * torch.exp(-(((position[:, None] - theta) / WIDTH) ** 2) / 2) @ tau
            for theta, tau in zip(u, density.weights, strict=True)
        ]
    )
    error = rows.std(0) / math.sqrt(len(rows)) if len(rows) > 1 else torch.full_like(rows[0], math.nan)
    share = density.mass(-zero, zero)
    at_zero = SpectralEstimate(
        *(density.size * value for value in (share.value, share.standard_error, share.lower, share.upper))
    )
    extremes = float(density.nodes.min()), float(density.nodes.max())
    return SpectrumCurve(zero * torch.sinh(position), rows.mean(0), error, zero, at_zero, extremes, density.size)
