"""Hessian-vector products with the graph rebuilt, piece by piece, for each: the route when memory is short.

Legend: g = gradient, H = Hessian, v = vector (p,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .engine import flat
from .loss_curvature import LossCurvature, LossFn
from .objective import Objective
from .pieces import count
from .products import graph_product


class RebuiltHessian(LossCurvature):
    """Hessian of a loss as `Hessian` gives it, holding the graph of one piece at a time.

    Products see the model's weights, modes and buffers of the moment each is made, and the random draws of
    construction.

    Args:
        model, loss_fn, batch, params, chunk_size: As in `Hessian`.
        reason: Why not by the kept graph, for the route.
    Raises:
        ShapeError: as in `Hessian`.
    Cost:
        A product 2.4 to 3.5 gradients. Memory: the graph of `chunk_size` examples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
        reason: str = "",
    ) -> None:
        self.objective = objective = Objective(
            model, loss_fn, batch, params=params, chunk_size=chunk_size, name="RebuiltHessian"
        )
        self.size, self.dtype, self.device = objective.layout.size, objective.dtype, objective.device
        manner = "rebuilt graph" if chunk_size is None else f"rebuilt graph, chunks of {chunk_size}"
        self.route = manner + (f" ({reason})" if reason else "") + objective.scope
        self.loss, self.gradient = 0.0, objective.zeros()
        with objective.environment():
            for piece, weight in objective.pieces:
                loss = objective.evaluate(piece, weight)
                self.gradient += flat(objective.gradient(loss))
                self.loss += float(loss.detach())

    @property
    def piece_size(self) -> int:
        """Examples of the first piece, the longest unless the user cut them."""
        return count(self.objective.pieces[0][0])

    def apply(self, v: Tensor) -> Tensor:
        parts = self.objective.layout.split(v.contiguous())
        Hv = torch.zeros_like(v)
        with self.objective.environment():
            for piece, weight in self.objective.pieces:
                g = self.objective.gradient(self.objective.evaluate(piece, weight), create_graph=True)
                Hv += graph_product(g, self.objective.leaves, parts, keep_graph=False)
                del g  # before the next piece's graph is built
        return Hv
