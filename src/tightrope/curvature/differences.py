"""Hessian-vector products by central differences of gradients, for losses without a second derivative.

Legend: d = central difference, g = gradient, h = step, H = Hessian, p = number of parameters, u = unit vector,
w = weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.parameters import flatten, write

from .engine import accumulate, dense, differentiated, flat, has_python_node, leaves_of
from .loss_curvature import LossCurvature, LossFn
from .objective import Objective
from .observation import gradients_set_aside

NUM_STEPS = 5
"""Steps tried, each a quarter of the one before, when the step is chosen."""

NUM_SHORTER = 2
"""Shorter steps tried for a product whose error is above a percent of it."""


class FiniteDifference(LossCurvature):
    """Hessian of a loss by central differences of its gradient, each product with an estimate of its error.

    For what has first derivatives only: a custom autograd function, reentrant checkpointing, gradients that come out
    detached. The step is the one at which the differences over h and 2h disagree least along the gradient and a random
    direction: above it the third derivative bends them, below it the gradient's rounding drowns them. The two are then
    extrapolated to h = 0, and twice their disagreement is reported as the error.
    Products are taken at the weights of construction, on copies of them.

    Args:
        model, loss_fn, batch, params, chunk_size: As in `Hessian`; loss_fn must reach the weights through the model.
        dtype: To take gradients in; default float64 on the CPU where the model can be evaluated in it, as in
            `Hessian` elsewhere. Vectors are those of `Hessian`.
        reason: Why not by double backward, for the route.
    Attributes:
        step: h, the length of the displacement in weight space.
        error: Largest error estimated so far of a product with a unit vector, in the norm of (p,): an eigenvalue
            found from these products is off by up to this beside its residual. It does not see kinks, which in float32
            bend the products of a ReLU network by more.
    Raises:
        ShapeError: as in `Hessian`, or loss_fn uses a parameter other than through the model.
    Cost:
        Construction up to 20 gradients; a product 4, and 4 more for each shorter step where it is imprecise.
        Memory: one gradient's, and a copy of the parameters.
    References:
        Nocedal and Wright 2006, Numerical Optimization, section 8.1, for the balance of the two errors.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
        reason: str = "",
    ) -> None:
        own = Objective(model, loss_fn, batch, params=params, chunk_size=chunk_size, name="FiniteDifference")
        self.size, self.dtype, self.device = own.layout.size, own.dtype, own.device
        self.field = _field(own, dtype)
        scope = self.field.objective.scope
        self.route = "central difference of gradients" + (f" ({reason})" if reason else "") + scope
        self.loss, self.gradient = self.field.loss, self.field.gradient.to(self.dtype)
        self.error = 0.0
        self.step = self._chosen_step()

    def apply(self, v: Tensor) -> Tensor:
        length = float(v.norm())
        if not 0 < length < float("inf"):
            return torch.zeros_like(v) if length == 0 else torch.full_like(v, float("nan"))
        u, h = v.to(self.field.w.dtype) / length, self.step
        Hu, error = self.field.product(u, h)
        for _ in range(NUM_SHORTER):
            if error <= 0.01 * float(Hu.norm()):
                break
            h /= 4
            shorter, its_error = self.field.product(u, h)
            if not its_error < error:
                break
            Hu, error = shorter, its_error
        self.error = max(self.error, error)
        return (length * Hu).to(self.dtype)

    def _chosen_step(self) -> float:
        """The longest of a few steps below which the error no longer falls.

        The first is four times that at which rounding and third derivative would balance if both were even.
        """
        u, h = mixed_direction(self.field.gradient, seed=0), 4 * math.cbrt(self.field.eps) * self.field.scale
        best, smallest = h, float("inf")
        for _ in range(NUM_STEPS):
            _, error = self.field.product(u, h)
            if error > smallest:
                break
            if error < smallest:
                best, smallest = h, error
            h /= 4
        return best


def _field(own: Objective, dtype: torch.dtype | None) -> GradientField:
    if dtype is None and own.device.type == "cpu" and own.dtype != torch.float64:
        with suppress(RuntimeError, TypeError, NotImplementedError):  # it may know float32 only
            return GradientField(own.in_precision(torch.float64))
    return GradientField(own.in_precision(dtype or own.dtype))


class GradientField:
    """The gradient of an objective as a function of the weights, the same random draws each time.

    Attributes:
        loss, gradient: At the weights of construction.
        is_incomplete: Whether a gradient asked for by inputs lacks, without a word, a part that `backward()` finds:
            with reentrant checkpointing that of the layers whose checkpointed input is a leaf.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective, self.is_incomplete, self._accumulates = objective, False, False
        self.w = flat(objective.leaves)
        with objective.environment():
            try:
                self.is_incomplete = self._accumulates = self._lacks_a_part()
                self.loss, self.gradient = self._sum()
            except RuntimeError:
                # Reentrant checkpointing knows only backward(); what is wrong with the loss is wrong a second time.
                self._accumulates = True
                self.loss, self.gradient = self._sum()

    @property
    def scale(self) -> float:
        """A length in weight space: that of the weights, or 1 where they are zero."""
        return float(self.w.norm()) or 1.0

    @property
    def eps(self) -> float:
        """Rounding of one operation."""
        return float(torch.finfo(self.w.dtype).eps)

    def product(self, u: Tensor, h: float) -> tuple[Tensor, float]:
        """H u for a unit vector, extrapolated from the steps h and 2h, and its error.

        Twice how far the two differ: extrapolation enlarges independent rounding to 1.2 times that, on average.
        """
        d, d2 = self.difference(u, h), self.difference(u, 2 * h)
        error = 2 * float((d2 - d).norm())
        return (4 * d - d2) / 3, error if error == error else float("inf")

    def difference(self, u: Tensor, h: float) -> Tensor:
        """(g(w + h u) - g(w - h u)) / 2h."""
        return (self._at(self.w + h * u) - self._at(self.w - h * u)) / (2 * h)

    def _at(self, w: Tensor) -> Tensor:
        write(self.objective.leaves, w)
        with self.objective.environment():
            return self._sum()[1]

    def _sum(self) -> tuple[float, Tensor]:
        """Loss and gradient over all pieces."""
        total, g = 0.0, self.objective.zeros()
        for piece, weight in self.objective.pieces:
            loss = self.objective.evaluate(piece, weight)
            g += self._accumulated(loss) if self._accumulates else flat(self.objective.gradient(loss))
            total += float(loss.detach())
        return total, g if math.isfinite(total) else torch.full_like(g, math.nan)

    def _lacks_a_part(self) -> bool:
        """Whether two backward passes through one graph, that of the first piece, find different gradients."""
        objective = self.objective
        with objective.environment():
            loss = objective.evaluate(*objective.pieces[0])
            if not has_python_node(loss):
                return False
            parts = differentiated([loss], objective.leaves, [torch.ones_like(loss)])
            asked = flatten(
                [torch.zeros_like(w) if x is None else x for w, x in zip(objective.leaves, parts, strict=True)]
            )
            found = self._accumulated(loss)
        return float((found - asked).norm()) > math.sqrt(self.eps) * float(found.norm())

    def _accumulated(self, loss: Tensor) -> Tensor:
        """The gradient by backward(), which leaves it in `.grad` of the stand-ins, and must leave none elsewhere."""
        objective = self.objective
        with gradients_set_aside([*objective.params, *objective.stand_ins.values(), *leaves_of(loss)]):
            accumulate(loss)
            if any(w.grad is not None for w in objective.params):
                raise objective.reached_directly()
            if all(w.grad is None for w in objective.leaves):
                raise objective.unreached()
            return flatten([torch.zeros_like(w) if w.grad is None else dense(w.grad) for w in objective.leaves])


def mixed_direction(gradient: Tensor, seed: int) -> Tensor:
    """Unit vector (p,), half along the gradient, where curvature is met, and half random."""
    generator = torch.Generator().manual_seed(seed)
    r = torch.randn(len(gradient), generator=generator, dtype=torch.float64).to(gradient.device, gradient.dtype)
    u = r / r.norm()
    length = gradient.norm()
    if 0 < length < float("inf"):
        u = u + gradient / length
    return torch.nn.functional.normalize(u, dim=0)
