"""How a loss changed over a step, beyond what its gradient foretold.

Legend: d = step, g = gradient, L = loss, w = weights before the step, p = number of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.parameters import flatten, weights_at, write

from .differences import GradientField
from .engine import flat, has_python_node
from .loss_curvature import LossFn
from .objective import Objective


def loss_change(
    model: nn.Module, loss_fn: LossFn, batch: Any, params: Sequence[Tensor], w: Tensor
) -> tuple[float, float, Tensor]:
    """L(w), then L(w + d) - L(w) - g.d, and d, for a step d from w to where the parameters are now.

    Both losses see the same random draws, in float64 where the model can be evaluated in it.

    Args:
        model, loss_fn, batch: As in `Hessian`; loss_fn must reach the weights through the model.
        params: What moved, in the order of w.
        w: (p,) before the step.
    Returns:
        The loss before, the remainder, and d (p,) in float64.
    Raises:
        ShapeError: as in `Hessian`.
    Cost:
        One gradient and one forward pass. Memory: a gradient's, and two copies of the parameters.
    """
    now = flatten([part.detach() for part in params]).double()
    with weights_at(params, w):
        objective = Objective(model, loss_fn, batch, params=params, name="loss_change")
        field = _field(objective)
    d = now - w.double()
    write(field.objective.leaves, now.to(field.w.dtype))
    moved = field.objective.loss()
    return field.loss, moved - field.loss - float(field.gradient.double() @ d), d


def gradient_norm(
    model: nn.Module, loss_fn: LossFn, batch: Any, params: Sequence[Tensor], w: Tensor | None = None
) -> float:
    """2-norm of the gradient of a loss, by a backward pass that leaves no trace.

    Of a model that checkpoints reentrantly too.

    Args:
        model, loss_fn, batch, params: As in `Hessian`.
        w: (p,) weights to take it at; default as they are.
    """
    with weights_at(params, w):
        objective = Objective(model, loss_fn, batch, params=params, name="gradient_norm")
        g = _asked_for(objective)
        if g is None:
            g = GradientField(objective.in_precision(objective.dtype)).gradient
    return float(g.norm())


def _asked_for(objective: Objective) -> Tensor | None:
    """The gradient asked for by inputs; None where a part of it may be missing, as of a reentrant checkpoint."""
    g = objective.zeros()
    with objective.environment():
        for piece, weight in objective.pieces:
            loss = objective.evaluate(piece, weight)
            if has_python_node(loss):
                return None
            g += flat(objective.gradient(loss))
    return g


def _field(objective: Objective) -> GradientField:
    with suppress(RuntimeError, TypeError, NotImplementedError):  # it may know its own precision only
        return GradientField(objective.in_precision(torch.float64))
    return GradientField(objective.in_precision(objective.dtype))
