"""Gradient clipping as values: three limits on the gradients, each saying how it acted.

A clipping is called between `backward()` and `step()`. While it acts the step answers a change of the gradient by less
than the optimizer knows, so a threshold holds with `Clipped.factor` multiplied into the edge scaling and held fixed.
Legend: g = gradient, w = weights, p = number of parameter elements.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor

from tightrope.errors import ConfigError, ShapeError, check_number

from .ascent import joint_norm
from .preconditioner import AbstractStructMeta


@dataclass(frozen=True)
class Clipped:
    """How one clipping acted.

    Attributes:
        num_clipped: Units that were shortened.
        num_units: Units looked at: 1 for the global norm, elements by value, rows per unit.
        norm: Euclidean norm of all gradients before; nan or inf if one of them was not finite.
        factor: What the clipping, held fixed, multiplies a small change of the gradient by: one number, or (p,) in
            the order of the parameters (those without gradient count as 1) where elements differ.
        parameters: What was looked at, in the order of factor.
    """

    num_clipped: int
    num_units: int
    norm: float
    factor: float | Tensor = 1.0
    parameters: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_finite(self) -> bool:
        """Whether the norm was; what is not finite is left in the gradient for all to see."""
        return math.isfinite(self.norm)


class Clipping(
    msgspec.Struct,
    metaclass=AbstractStructMeta,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="name",
):
    """A limit on gradients, applied in place.

    NaN and infinity pass through: a unit that holds one is left exactly as it is and is not counted as clipped.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name and limit in prose."""

    @abstractmethod
    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        """Shorten the gradients in `.grad`, in place; parameters without one are left out.

        Give a model's own parameters, also where they are views of one flat vector: only they have shapes.

        Raises:
            ConfigError: what is given are no tensors.
            ShapeError: a gradient is sparse or complex.
        Cost:
            A few passes over the gradients and one wait for the device, or some more where squares overflow; nothing
            is written unless it acts.
        """


class GlobalNormClip(Clipping, frozen=True, tag="global_norm"):
    """All gradients times max_norm / ||g|| where ||g||, the norm of all together, is above max_norm.

    torch.nn.utils.clip_grad_norm_ without the 1e-6 it adds to ||g||. If ||g|| is not finite nothing is scaled, where
    torch multiplies by 0 or nan.

    Args:
        max_norm: Largest norm allowed, positive.
    References:
        Pascanu et al. 2013 (arXiv 1211.5063), Algorithm 1.
    """

    max_norm: float

    def __post_init__(self) -> None:
        check_number("global_norm: max_norm", self.max_norm, lambda c: 0 < c < math.inf, "be positive and finite")

    @property
    def label(self) -> str:
        return f"global norm {self.max_norm:g}"

    @torch.no_grad()
    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        every = _listed(parameters)
        gradients = _gradients(every).values()
        norm = _norm(gradients)
        if not self.max_norm < norm < math.inf:
            return Clipped(0, 1, norm, parameters=every)
        factor = self.max_norm / norm
        for g in gradients:
            g.mul_(factor)
        return Clipped(1, 1, norm, factor, every)


class ValueClip(Clipping, frozen=True, tag="value"):
    """Every element of the gradients into [-limit, limit], as torch.nn.utils.clip_grad_value_ does.

    Infinite elements stay infinite, where torch makes them the limit.

    Args:
        limit: Largest absolute value allowed, positive.
    """

    limit: float

    def __post_init__(self) -> None:
        check_number("value: limit", self.limit, lambda c: 0 < c < math.inf, "be positive and finite")

    @property
    def label(self) -> str:
        return f"value {self.limit:g}"

    @torch.no_grad()
    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        every = _listed(parameters)
        gradients = _gradients(every)
        norm, num_units = _norm(gradients.values()), sum(g.numel() for g in gradients.values())
        if norm <= self.limit:
            return Clipped(0, num_units, norm, parameters=every)
        is_clipped = {w: _is_over(g.abs(), self.limit) for w, g in gradients.items()}
        num_clipped = _count(is_clipped.values())
        if num_clipped == 0:
            return Clipped(0, num_units, norm, parameters=every)
        for w, g in gradients.items():
            g.copy_(torch.where(is_clipped[w], g.clamp(-self.limit, self.limit), g))
        return Clipped(
            num_clipped, num_units, norm, _joined(every, {w: ~mask for w, mask in is_clipped.items()}), every
        )


class UnitClip(Clipping, frozen=True, tag="unit"):
    """Adaptive gradient clipping: every unit's gradient at most factor * max(||w||, eps) long, w its own weights.

    A unit is what feeds one output: row i, `w[i]`, of a matrix or a convolution's kernel, as in timm; a vector or a
    scalar (bias, norm gain) is one unit, as in NFNets. NFNets leave the last layer unclipped: leave it out of the call.

    Args:
        factor: Longest gradient allowed, as a share of the weights' norm.
        eps: Weights shorter than this count as this long, so that zero weights can leave zero.
    References:
        Brock et al. 2021 (arXiv 2102.06171), eq. 3.
    """

    factor: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        positive = "be positive and finite"
        check_number("unit: factor", self.factor, lambda c: 0 < c < math.inf, positive)
        check_number("unit: eps", self.eps, lambda eps: 0 < eps < math.inf, positive)

    @property
    def label(self) -> str:
        return f"per unit {self.factor:g}"

    @torch.no_grad()
    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        every = _listed(parameters)
        gradients = _gradients(every)
        # Units whose squares leave single precision look infinite in it.
        for dtype in (torch.float32, torch.float64):
            lengths = {w: _unit_norms(g, dtype) for w, g in gradients.items()}
            norm = _norm(lengths.values())
            if math.isfinite(norm):
                break
        limits = {w: _unit_norms(w, dtype).clamp_(min=self.eps).mul_(self.factor) for w in gradients}
        is_clipped = {w: _is_over(lengths[w], limits[w]) for w in gradients}
        num_units = sum(length.numel() for length in lengths.values())
        num_clipped = _count(is_clipped.values())
        if num_clipped == 0:
            return Clipped(0, num_units, norm, parameters=every)
        factors = {w: torch.where(is_clipped[w], limits[w] / lengths[w], 1.0) for w in gradients}
        for w, g in gradients.items():
            g.copy_(g.to(factors[w].dtype) * factors[w])
        return Clipped(num_clipped, num_units, norm, _joined(every, factors), every)


AnyClipping = GlobalNormClip | ValueClip | UnitClip


def _listed(parameters: Tensor | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Each parameter once, however often it is given."""
    is_one = isinstance(parameters, Tensor) or not isinstance(parameters, Iterable)
    every: list[Any] = [parameters] if is_one else list(parameters)
    wrong = [type(w).__name__ for w in every if not isinstance(w, Tensor)]
    if wrong:
        raise ConfigError(f"Clipping: parameters must be tensors; got {wrong[0]}. Give those of model.parameters().")
    return tuple(dict.fromkeys(every))


def _gradients(parameters: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    found = {w: w.grad for w in parameters if w.grad is not None}
    if any(g.is_sparse or g.is_complex() for g in found.values()):
        raise ShapeError("Clipping: gradients must be real and dense; got a sparse or complex one.")
    return found


def _norm(tensors: Collection[Tensor]) -> float:
    """Norm of all tensors together, summed in single precision, or in double where squares leave its range."""
    wide = [t if t.dtype.itemsize > 2 else torch.linalg.vector_norm(t, dtype=torch.float32) for t in tensors]
    norm = float(torch.nn.utils.get_total_norm(wide)) if wide else 0.0
    return norm if math.isfinite(norm) else joint_norm(tensors)


def _unit_norms(w: Tensor, dtype: torch.dtype) -> Tensor:
    """Norm of every unit, shaped to multiply w, summed in at least this precision."""
    units = w if w.ndim < 2 else w.flatten(1)
    dim = None if w.ndim < 2 else 1
    norms: Tensor = torch.linalg.vector_norm(units, dim=dim, dtype=torch.promote_types(w.dtype, dtype))
    return norms.reshape(-1, *(1 for _ in w.shape[1:])) if w.ndim > 1 else norms


def _is_over(lengths: Tensor, limit: Tensor | float) -> Tensor:
    """Where a length is above its limit and finite."""
    return (lengths > limit) & (lengths < math.inf)


def _count(masks: Collection[Tensor]) -> int:
    """Number of true elements of all masks, with one wait for each device."""
    counts = [mask.sum() for mask in masks]
    return int(torch.stack([count.to(counts[0].device) for count in counts]).sum()) if counts else 0


def _joined(parameters: Iterable[Tensor], factors: dict[Tensor, Tensor]) -> Tensor:
    """The factors of all parameters as one vector (p,), 1 for a parameter that has none."""
    parts = [factors.get(w, torch.ones((), device=w.device)).to(w.dtype).expand(w.shape) for w in parameters]
    return torch.cat([part.reshape(-1) for part in parts])
