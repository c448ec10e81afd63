"""The operator whose largest eigenvalue is the ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from tightrope.curvature import Ascended, LossCurvature, Scaled, SymmetricOperator
from tightrope.optim import Frozen


def ratio_operator(H: LossCurvature, frozen: Frozen) -> Scaled:
    """D^1/2 (T(H) + diag(shift)) D^1/2, whose largest eigenvalue is the ratio.

    Args:
        H: The Hessian in the parameters of `frozen`, in their order.
        frozen: A linear method.
    Raises:
        UnsupportedOptimizerError: the method has no edge scaling.
    """
    return Scaled(transformed(H, frozen), frozen.half_scaling(), frozen.shift)


def transformed(H: LossCurvature, frozen: Frozen) -> SymmetricOperator:
    """T(H), the Hessian as SAM's ascent and clipping let the step see it: R^1/2 (H + c H S H) R^1/2."""
    ascent, response = frozen.ascent, frozen.response
    bent = H if ascent is None else Ascended(H, ascent.factor, ascent.scale)
    if isinstance(response, float) and response == 1.0:
        return bent
    R = response if isinstance(response, Tensor) else torch.full((H.size,), response, dtype=H.dtype, device=H.device)
    return Scaled(bent, R.sqrt())
