"""LinearStep: one held step of an optimizer as a linear map of momentum x, weights w and gradient g.

    x' = A x + B g + K w        w' = w + C x + E g + G w

Legend: A ... K (p,) as above, h = curvature (p,), mu = growth per step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RTOL = 1e-6  # a real step agrees with the linear one to this share of their terms


@dataclass(frozen=True)
class LinearStep:
    """One held step, element by element; `memory` is the row of the momenta it depends on."""

    memory: int | None
    A: Tensor
    B: Tensor
    C: Tensor
    E: Tensor
    G: Tensor
    K: Tensor

    def apply(self, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The momentum after the step and the change of the weights."""
        return self.A * x + self.B * g + self.K * w, self.C * x + self.E * g + self.G * w

    def row(self, x: Tensor) -> Tensor:
        """(p,) the one of the momenta (k, p) that the step depends on; zeros if there is none."""
        return torch.zeros_like(self.E) if self.memory is None else x[self.memory]

    def agrees(self, x: Tensor, w: Tensor, g: Tensor, outcome: tuple[Tensor, Tensor]) -> bool:
        """Whether a trial from momenta x (k, p) came out as this map says."""
        row = self.row(x)
        terms = (self.A * row).abs() + (self.B * g).abs() + (self.K * w).abs()
        terms_w = (self.C * row).abs() + (self.E * g).abs() + (self.G * w).abs()
        expected, got = self.apply(row, w, g), (self.row(outcome[0]), outcome[1])
        bounds = RTOL * terms, RTOL * terms_w + 1e-14 * w.abs()
        return all(bool(((a - b).abs() <= bound).all()) for a, b, bound in zip(got, expected, bounds, strict=True))

    def edge(self) -> Tensor:
        """(p,) the curvature h at which the closed loop g = h w has the mode that flips and neither grows nor fades."""
        R = -1 / (1 + self.A)
        return (2 + self.G + self.C * R * self.K) / -(self.C * R * self.B + self.E)

    def flipping_mode(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(p,) growth mu of the mode that flips at g = h w, from its edge on, and its momentum for a weight of 1."""
        half, det = self._characteristic(h)
        mu = half - (half.square() - det).clamp(min=0).sqrt()
        return mu, (self.B * h + self.K) / (mu - self.A)

    def radius(self, h: Tensor) -> Tensor:
        """(p,) growth of the fastest mode at g = h w, flipping or not."""
        half, det = self._characteristic(h)
        spread = half.square() - det
        return torch.where(spread < 0, det.abs().sqrt(), half.abs() + spread.clamp(min=0).sqrt())

    def _characteristic(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Half the trace, and the determinant, of one closed-loop step of (x, w)."""
        kept = 1 + self.G + self.E * h
        return (self.A + kept) / 2, self.A * kept - self.C * (self.B * h + self.K)


def follows(a: Tensor, b: Tensor, rounding: float) -> bool:
    """Whether a is b in every element, to the tolerance of a held step."""
    return bool(((a - b).abs() <= RTOL * b.abs() + rounding).all())


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, zero where b is."""
    return torch.where(b != 0, a / b, torch.zeros_like(a))
