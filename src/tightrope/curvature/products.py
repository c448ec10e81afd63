"""Hessian-vector products by the kept graph of the gradient.

Legend: g = gradient, H = Hessian, n = number of examples, p = number of parameters, v = vector (p,).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.parameters import flatten

from .engine import differentiated, flat
from .loss_curvature import LossCurvature, LossFn
from .objective import Objective


class Hessian(LossCurvature):
    """Hessian of `loss_fn(model, batch)` in the model's trainable parameters, (p, p), never materialised.

    The graph of the gradient is built once and kept; each product is one backward pass through it
    (Pearlmutter 1994). Products see the weights, modes and random draws of the moment of construction.
    Curvature of weights in half precision, or under autocast, is computed in float32.

    Args:
        model: Any module. Nothing of it is changed, neither buffers nor gradients nor modes.
        loss_fn: (model, batch) -> scalar. Buffers of other modules and states of generators (torch's, Python's and
            numpy's) are left as they were too where it holds them by name: in its closure or defaults, as globals,
            in the object it is bound to, as arguments of a `partial`, or where a function it so holds does.
            Gradients of all leaves its graph reaches are. What lies in a container is not looked after.
        batch: Whatever loss_fn takes, or `MicroBatches` of it; with `chunk_size`, a tensor or a tuple, list or dict
            of tensors whose first dimension counts examples.
        params: Parameters to differentiate in, in the order of the flat vector; default all trainable ones. The
            largest eigenvalue for some of them, say the last layer's, is a lower bound of the largest for all.
        chunk_size: Evaluate this many examples at a time, for a loss that is the mean over its examples.
    Attributes:
        loss: The loss, a float.
        gradient: (p,).
    Raises:
        ShapeError: the loss is not a real scalar or depends on no parameter, the batch cannot be chunked or lies on
            another device.
    Cost:
        Construction one forward and one recorded backward; a product 1.3 to 2.6 gradients. Memory: the graph.
    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> H = Hessian(model, lambda model, x: (model(x) ** 2).mean() / 2, torch.eye(2))
        >>> H @ torch.tensor([1.0, 0.0])
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.objective = objective = Objective(model, loss_fn, batch, params=params, chunk_size=chunk_size)
        self.size, self.dtype, self.device = objective.layout.size, objective.dtype, objective.device
        self.route = "kept graph" + ("" if chunk_size is None else f", chunks of {chunk_size}") + objective.scope
        self.loss, self.gradient = 0.0, objective.zeros()
        self._graphs: list[tuple[Tensor, ...]] = []
        with objective.environment():
            for piece, weight in objective.pieces:
                loss = objective.evaluate(piece, weight)
                g = objective.gradient(loss, create_graph=True)
                self.loss += float(loss.detach())
                self.gradient += flat(g)
                self._graphs.append(g)

    def apply(self, v: Tensor) -> Tensor:
        parts = self.objective.layout.split(v.contiguous())
        Hv = torch.zeros_like(v)
        with self.objective.backward_environment():
            for g in self._graphs:
                Hv += graph_product(g, self.objective.leaves, parts)
        return Hv

    def apply_block(self, v: Tensor, where: slice | Tensor) -> Tensor:
        """Backward through no more of the graph than lies between the parameters that hold the block."""
        sizes = self.objective.layout.sizes
        touched, local = _touched(sizes, where)
        leaves = [self.objective.leaves[i] for i in touched]
        x = torch.zeros(sum(sizes[i] for i in touched), dtype=v.dtype, device=v.device)
        x[local] = v
        parts = [part.view(leaf.shape) for part, leaf in zip(x.split([sizes[i] for i in touched]), leaves, strict=True)]
        Hx = torch.zeros_like(x)
        with self.objective.backward_environment():
            for g in self._graphs:
                Hx += graph_product([g[i] for i in touched], leaves, parts)
        return Hx[local]


def _touched(sizes: Sequence[int], where: slice | Tensor) -> tuple[list[int], slice | Tensor]:
    """Which parts of a flat vector hold some coordinates, and where these lie in those parts alone."""
    ends = list(accumulate(sizes))
    if isinstance(where, slice):
        first, stop, _ = where.indices(ends[-1])
        touched = [
            i for i, (size, end) in enumerate(zip(sizes, ends, strict=True)) if end - size < stop and first < end
        ]
        num_before = ends[touched[0]] - sizes[touched[0]]
        return touched, slice(first - num_before, stop - num_before)
    part = torch.bucketize(where, torch.tensor(ends, device=where.device), right=True)
    touched = part.unique().tolist()
    moved = torch.zeros_like(torch.tensor(ends))
    moved[touched] = torch.tensor([ends[i] for i in touched]) - torch.tensor([sizes[i] for i in touched]).cumsum(0)
    return touched, where - moved.to(where.device)[part]


def graph_product(
    g: Sequence[Tensor], leaves: Sequence[Tensor], parts: Sequence[Tensor], keep_graph: bool = True
) -> Tensor | float:
    """Backward through one piece's gradient; 0 where it does not depend on the parameters."""
    curved = [(g_i, v_i) for g_i, v_i in zip(g, parts, strict=True) if g_i.requires_grad]
    if not curved:
        return 0.0
    outputs, vectors = zip(*curved, strict=True)
    found = differentiated(outputs, leaves, vectors, keep_graph=keep_graph)
    return flatten([torch.zeros_like(w) if x is None else x for w, x in zip(leaves, found, strict=True)])
