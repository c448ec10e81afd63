"""Is a Hessian-vector product right on this model? Symmetry, and agreement with a difference of gradients.

Legend: g = gradient, h = step, H = Hessian, p = number of parameters, u, v = unit vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .differences import GradientField, mixed_direction
from .loss_curvature import SelfCheck
from .memory import is_out_of_memory
from .objective import Objective
from .products import Hessian
from .rebuilt import RebuiltHessian

MAX_ASYMMETRY = 1e-2
MAX_DISAGREEMENT = {torch.float64: 0.05, torch.float32: 0.5}
STEP = {torch.float64: 1e-9, torch.float32: 5e-3}
"""By the precision of the difference; steps relative to the weights. In float64 they are so short that hardly one of a
million ReLU units passes its kink, where a difference sees a curvature that the Hessian does not have; in float32
rounding asks for steps that cross many."""

SAME_GRADIENT = 1e-2
"""Within which two evaluations of a loss are of one loss; random draws can differ between precisions."""


SAME_LOSS = 1e-3
"""Within which the loss measured is the loss that a plain call gives, of the latter."""

INCOMPLETE = "the gradient is not the one backward() finds"


def self_check(H: Hessian | RebuiltHessian) -> SelfCheck:
    """Try a Hessian on two vectors.

    The difference is taken in float64 where the model can be evaluated in it, and else in the model's own precision.

    Returns:
        SelfCheck. It also says, without failing, where the loss differs from that of a plain call of loss_fn.
    Cost:
        2 products and 5 gradients in float64, and one loss.
    """
    if not math.isfinite(H.loss):
        return SelfCheck(math.nan, math.nan, H.route, False, "the loss is not finite")
    v = mixed_direction(H.gradient, seed=1)
    u = mixed_direction(torch.zeros_like(v), seed=2)
    try:
        Hu, Hv = H @ u, H @ v
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return SelfCheck(math.nan, math.nan, H.route, False, f"no second derivative: {summary(error)}")
    asymmetry = abs(float(u @ Hv - v @ Hu)) * math.sqrt(H.size)
    symmetry = asymmetry / ((float(Hu.norm()) + float(Hv.norm())) or 1.0)
    disagreement, dtype, obstacle = _disagreement(H, v, Hv)
    if obstacle == INCOMPLETE:
        return SelfCheck(symmetry, math.nan, H.route, False, obstacle)
    if not symmetry <= MAX_ASYMMETRY:
        return SelfCheck(symmetry, disagreement, H.route, False, f"products are not symmetric, by {symmetry:.1g}")
    other = _other_loss(H.objective, H.loss)
    if obstacle:
        return SelfCheck(
            symmetry, math.nan, H.route, True, f"symmetric; no difference to compare with: {obstacle}" + other
        )
    is_passed = disagreement <= MAX_DISAGREEMENT[dtype]
    manner = "agree with" if is_passed else "do not agree with"
    extent = f"to {disagreement:.1g}" if disagreement else "within their error"
    words = f"products {manner} differences of gradients, {extent}" + other
    return SelfCheck(symmetry, disagreement, H.route, is_passed, words)


def _disagreement(H: Hessian | RebuiltHessian, v: Tensor, Hv: Tensor) -> tuple[float, torch.dtype, str]:
    """Of Hv with a central difference, the precision of that, and what stood in its way."""
    objective, obstacle = H.objective, ""
    for dtype in dict.fromkeys((torch.float64, objective.dtype)):
        try:
            field = GradientField(objective.in_precision(dtype))
            if field.is_incomplete:
                return math.nan, dtype, INCOMPLETE
            if not float((field.gradient - H.gradient).norm()) <= SAME_GRADIENT * float(H.gradient.norm()):
                obstacle = "the loss is another one when it is evaluated again, or in float64"
                continue
            h = STEP[dtype] * field.scale
            d, d2 = field.difference(v.to(dtype), h), field.difference(v.to(dtype), 2 * h)
        except (RuntimeError, TypeError, ValueError) as failure:
            obstacle = summary(failure)
            continue
        error = 2 * float((d2 - d).norm()) + 10 * field.eps * float(field.gradient.norm()) / h
        gap = float((Hv.to(dtype) - d).norm()) - error
        size = max(float(Hv.norm()), float(d.norm()))
        return max(gap, 0.0) / size if size else 0.0, dtype, ""
    return math.nan, objective.dtype, obstacle


def _other_loss(objective: Objective, loss: float) -> str:
    """Words on a loss that is not what loss_fn gives when left alone, in full precision: then it took other kernels."""
    if objective.is_raised or any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        return ""
    try:
        plain = objective.plain_loss()
    except RuntimeError as failure:
        if is_out_of_memory(failure):
            raise
        return ""
    if abs(plain - loss) <= SAME_LOSS * abs(plain):
        return ""
    return f"; the loss measured, {loss:.6g}, is not the {plain:.6g} of a plain call, which may take a fast path"


def summary(error: BaseException) -> str:
    """The beginning of what an error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:80]}" if lines else type(error).__name__
