"""Gauss-Newton products: the Hessian less the curvature of the model itself.

Legend: H_L = Hessian of the criterion in the outputs, J = derivative of the outputs in the parameters,
p = number of parameters, v = vector (p,), z = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .engine import differentiated
from .linearised import Linearised, Metric, linearised, outputs_objective, product, undefined
from .loss_curvature import LossCurvature, LossFn

Criterion = Callable[[Any, Any], Tensor]


class GaussNewton(LossCurvature):
    """Generalised Gauss-Newton matrix J' H_L J of `criterion(forward(model, batch), batch)`, (p, p).

    Positive semidefinite where the criterion is convex in the outputs; the Hessian itself where the model is linear
    in its parameters or the criterion's gradient is zero. The outputs are linearised once and kept.

    Args:
        model: Any module; left bit for bit as it was.
        forward: (model, batch) -> outputs, one tensor, such as logits.
        criterion: (outputs, batch) -> scalar.
        batch, params, chunk_size: As in `Hessian`.
    Attributes:
        loss: The loss, a float.
        gradient: (p,).
    Raises:
        ShapeError: forward does not return a tensor that depends on the parameters, or criterion no scalar.
    Cost:
        Construction one forward and one recorded backward; a product 1.0 to 1.5 gradients. Memory: the graph.
    References:
        Schraudolph 2002, Neural Computation 14, 1723, section 3.
    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> G = GaussNewton(model, lambda model, x: model(x), lambda z, x: (z ** 2).mean() / 2, torch.eye(2))
        >>> G @ torch.tensor([1.0, 0.0])
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        model: nn.Module,
        forward: LossFn,
        criterion: Criterion,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.objective = objective = outputs_objective("GaussNewton", model, batch, params, chunk_size)
        self.size, self.dtype, self.device = objective.layout.size, objective.dtype, objective.device
        self.route = "Gauss-Newton, kept linearisation" + objective.scope
        self.loss, self.gradient = 0.0, objective.zeros()
        self._pieces: list[tuple[Linearised, Metric]] = []
        with objective.environment():
            for each in linearised(objective, forward):
                loss, dz, metric = curved_criterion(each, criterion)
                self.loss += each.weight * loss
                self.gradient += each.weight * each.pull(dz)
                self._pieces.append((each, metric))

    def apply(self, v: Tensor) -> Tensor:
        return product(self._pieces, v)


def curved_criterion(each: Linearised, criterion: Criterion) -> tuple[float, Tensor, Metric]:
    """The criterion at a piece's outputs: its value, its gradient there, and products with its Hessian.

    The products are NaN where the criterion is not finite.
    """
    z = each.z.detach().requires_grad_()
    loss = each.objective.evaluate(each.piece, 1.0, lambda model, piece: criterion(z, piece))
    loss = each.objective.scalar(loss, "criterion")
    (dz,) = differentiated([loss], [z], [torch.ones_like(loss)], create_graph=True)
    assert dz is not None

    def metric(u: Tensor) -> Tensor:
        if not dz.requires_grad:
            return torch.zeros_like(u)
        (Mu,) = differentiated([dz], [z], [u])
        return torch.zeros_like(u) if Mu is None else Mu

    return float(loss.detach()), dz.detach(), metric if bool(loss.isfinite()) else undefined
