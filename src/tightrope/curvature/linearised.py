"""A model's outputs, linearised once in its parameters, and symmetric operators J' M J built on that.

Legend: J = derivative of the outputs in the parameters, M = metric on the outputs, n = number of output rows,
p = number of parameters, u = vector of output shape, v = vector (p,), z = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.errors import ShapeError, TightropeError
from tightrope.parameters import flatten

from .engine import differentiated, nodes
from .loss_curvature import LossFn
from .objective import Objective

Metric = Callable[[Tensor], Tensor]
"""u -> M u, linear and symmetric."""

MAX_GAP = 1e-2
"""Of two numbers that agree up to rounding, in units of what random vectors of that length would give."""


@dataclass(frozen=True)
class Linearised:
    """The outputs of one piece of a batch, with both products of their Jacobian at hand.

    Attributes:
        objective: Whose leaves J is taken in.
        piece: The part of the batch.
        weight: Of its loss.
        z: Outputs, with their graph.
        dual: Stands for u in `pulled`, which is linear in it.
        pulled: J'dual by leaf, with its graph: its derivative in `dual` is J (the double backward trick).
    """

    objective: Objective
    piece: Any
    weight: float
    z: Tensor
    dual: Tensor
    pulled: tuple[Tensor | None, ...]

    def push(self, parts: Sequence[Tensor]) -> Tensor:
        """J v, of output shape."""
        pairs = [(x, v) for x, v in zip(self.pulled, parts, strict=True) if x is not None and x.requires_grad]
        if not pairs:
            return torch.zeros_like(self.dual)
        outputs, vectors = zip(*pairs, strict=True)
        (Jv,) = differentiated(outputs, [self.dual], vectors)
        return torch.zeros_like(self.dual) if Jv is None else Jv

    def pull(self, u: Tensor) -> Tensor:
        """J'u, (p,)."""
        leaves = self.objective.leaves
        found = differentiated([self.z], leaves, [u])
        return flatten([torch.zeros_like(w) if x is None else x for w, x in zip(leaves, found, strict=True)])


def linearised(objective: Objective, forward: LossFn) -> Iterator[Linearised]:
    """Each piece's outputs; to be called inside the objective's environment."""
    for piece, weight in objective.pieces:
        z = objective.evaluate(piece, weight, forward)
        if not isinstance(z, Tensor) or not z.is_floating_point() or not z.requires_grad:
            kind = f"{z.dtype}, detached" if isinstance(z, Tensor) else type(z).__name__
            raise ShapeError(
                f"{objective.name}: forward(model, batch) must return one floating tensor that depends on the "
                f"parameters; got {kind}. Return the logits, say model(**batch).logits."
            )
        if any(node.name() == "CheckpointFunctionBackward" for node in nodes(z)):
            raise TightropeError(
                f"{objective.name}: the model must not checkpoint reentrantly; it does, and only backward() sees what "
                "such a checkpoint holds. Give it use_reentrant=False, or measure by `hessian`."
            )
        dual = torch.zeros_like(z, requires_grad=True)
        each = Linearised(objective, piece, weight, z, dual, objective.pulled(z, dual))
        _check_adjoint(each)
        yield each


def _check_adjoint(each: Linearised) -> None:
    """u'(J v) = (J'u)'v on one pair: where a backward pass cannot be differentiated, it may say nothing of it."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(each.z.shape, generator=generator, dtype=torch.float64).to(each.z)
    v = torch.randn(each.objective.layout.size, generator=generator, dtype=torch.float64).to(each.z)
    Ju, pushed = each.pull(u), each.push(each.objective.layout.split(v))
    gap, scale = abs(float((u * pushed).sum() - Ju @ v)), float(u.norm() * pushed.norm() + Ju.norm() * v.norm())
    if gap > MAX_GAP * scale / len(v) ** 0.5:
        raise TightropeError(
            f"{each.objective.name}: the model's backward pass must be differentiable; J and J' are not adjoint. Is "
            "there a custom autograd function without a second derivative? Measure by `hessian`, which does without."
        )


def product(pieces: Sequence[tuple[Linearised, Metric]], v: Tensor) -> Tensor:
    """The sum of J' M J v over pieces."""
    objective = pieces[0][0].objective
    parts = objective.layout.split(v.contiguous())
    total = torch.zeros_like(v)
    with objective.backward_environment():
        for each, metric in pieces:
            total += each.weight * each.pull(metric(each.push(parts)))
    return total


def undefined(u: Tensor) -> Tensor:
    """The metric of a criterion that is not finite."""
    return torch.full_like(u, float("nan"))


def outputs_objective(
    name: str, model: nn.Module, batch: Any, params: Sequence[Tensor] | None, chunk_size: int | None
) -> Objective:
    """The objective of an operator that sees a loss in two parts, forward and criterion."""
    return Objective(model, _no_loss, batch, params=params, chunk_size=chunk_size, name=name)


def _no_loss(model: Any, batch: Any) -> Tensor:
    raise AssertionError("an operator on outputs calls forward and criterion")
