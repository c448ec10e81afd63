"""What one step says of the curvature along it, without a Hessian product.

Legend: d = step, D = edge scaling, g = gradient, L = loss, w = weights before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tightrope.curvature import LossFn, loss_change
from tightrope.optim import Frozen


@dataclass(frozen=True)
class StepCurvature:
    """The mean curvature that a step met, from two losses and a gradient.

    Attributes:
        ratio: 2 (L(w+d) - L(w) - g.d) / d'D^-1 d, in the unit of the ratio, whose edge is 1: for small steps a lower
            bound of it, and in practice several times smaller. NaN where the step is zero.
        smoothness: 2 (L(w+d) - L(w) - g.d) / |d|^2, the directional smoothness, in the unit of the sharpness.
        loss: L(w).
    """

    ratio: float
    smoothness: float
    loss: float


def step_curvature(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    params: Sequence[Tensor],
    w: Tensor,
    frozen: Frozen,
) -> StepCurvature:
    """The curvature along the step from w (p,) to where the parameters are now.

    Args:
        model, loss_fn, batch: The loss.
        params: What the optimizer moves, in the order of `frozen`.
        w: (p,) their values before the step.
        frozen: The method that took the step; needs a diagonal D.
    Cost:
        A gradient and a forward pass, in float64 where the model can be evaluated in it: the difference of two
        losses is next to nothing beside either.
    References:
        Mishkin et al. 2024 (arXiv 2403.04081), directional smoothness.
    """
    loss, remainder, d = loss_change(model, loss_fn, batch, params, w)
    D = frozen.D
    scaled = _inverse_norm(d, D) if D is not None and D.ndim == 1 else float("nan")
    return StepCurvature(_ratio(2 * remainder, scaled), _ratio(2 * remainder, float(d @ d)), loss)


def _inverse_norm(d: Tensor, D: Tensor) -> float:
    """d'D^-1 d over the coordinates that move."""
    moves = D > 0
    return float((d[moves].double().square() / D[moves].double()).sum())


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 else float("nan")
