"""What ascending before the gradient makes of the Hessian and of the edge, and the parts an ascent is made of.

Legend: c = rho / ||g||, g = gradient, H = Hessian, K = threshold of the base method, S = diagonal the ascent is
scaled by, T = |w| + eta.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tightrope.errors import check_number

Writings = dict[Tensor, tuple[int, int]]


@dataclass(frozen=True)
class Ascent:
    """What an ascent before the gradient makes of the Hessian: T(H) = H + factor H diag(scale) H.

    The gradient at w + c S g is (I + c H S) g to first order, and g is H w along the frozen method.

    Attributes:
        factor: c = rho / ||g|| of SAM's last ascent, rho / ||T g|| of ASAM's.
        scale: (p,) the diagonal S: the last mask, T^2 for ASAM, their product; None for the identity. For ASAM this
            is a derivation with T held at the last ascent's weights, not a law that was measured.
    """

    factor: float
    scale: Tensor | None = None


def sam_threshold(base_threshold: float, rho: float, grad_norm: float | None = None) -> float:
    """Largest lambda_1(H) at which SAM over a method without preconditioner is stable, in units of 1 / lr.

    (||g|| / (2 rho)) (sqrt(1 + 4 K rho / ||g||) - 1), the positive root of lambda + c lambda^2 = K: where T(H) =
    H + c H^2 meets the base threshold K. With a preconditioner no condition on lambda_1(H) alone exists; there the
    ratio of `measure` is the answer.

    Args:
        base_threshold: K, of the base method: 2 / lr for gradient descent.
        rho: Length of the ascent.
        grad_norm: ||g|| at the ascent; None for unnormalised SAM, eps = rho g: (sqrt(1 + 4 K rho) - 1) / (2 rho).
    Raises:
        ConfigError: base_threshold or grad_norm is not positive, or rho is negative.
    Example:
        >>> round(sam_threshold(20.0, rho=0.05, grad_norm=0.1), 3)
        5.403
    """
    norm = 1.0 if grad_norm is None else grad_norm
    check_number("sam_threshold: base_threshold", base_threshold, lambda K: K > 0, "be positive")
    check_number("sam_threshold: rho", rho, lambda rho: 0 <= rho < math.inf, "be finite and at least 0")
    check_number("sam_threshold: grad_norm", norm, lambda norm: norm > 0, "be positive")
    if base_threshold == math.inf:
        return math.inf
    # The root written without a difference, which would cancel where rho is small.
    return 2 * base_threshold / (1 + math.sqrt(1 + 4 * base_threshold * rho / norm))


@torch.no_grad()
def climb(
    parameters: list[Tensor], rho: float, *, eta: float | None, share: float, seed: list[int]
) -> tuple[float, list[Tensor] | None]:
    """Move parameters uphill by rho S g / ||g||; not at all where the norm is not finite or too small to divide by.

    Args:
        parameters: Each with its gradient.
        eta: For ASAM, which moves them by rho T^2 g / ||T g||; None for SAM.
        share: Of the coordinates that move, drawn from `seed`.
    Returns:
        The norm (0 where it is too small) and S by parameter, None for the identity.
    """
    g = [w.grad for w in parameters if w.grad is not None]
    T = None if eta is None else [w.abs().add_(eta) for w in parameters]
    norm = joint_norm(g if T is None else torch._foreach_mul(g, T))
    S = None if T is None else [t * t for t in T]
    if share < 1:
        masks = random_masks(parameters, share, seed)
        S = masks if S is None else [s * mask for s, mask in zip(S, masks, strict=True)]
    if not norm < math.inf:
        return norm, S
    factor = rho / norm if norm > 0 else math.inf
    if factor > min(torch.finfo(w.dtype).max for w in parameters):
        return 0.0, S
    if S is None:
        torch._foreach_add_(parameters, g, alpha=factor)
    else:
        torch._foreach_addcmul_(parameters, g, S, value=factor)
    return norm, S


def writings(parameters: list[Tensor]) -> Writings:
    """Which gradient each parameter has and how often it was written to: what a backward changes."""
    return {w: (id(w.grad), w.grad._version) for w in parameters if w.grad is not None}


def has_new_gradient(parameters: list[Tensor], before: Writings) -> bool:
    """Whether any gradient was written since `writings` were taken of cleared ones; what was written may be zero."""
    now = writings(parameters)
    # A replayed CUDA graph writes unseen, and a new gradient may have the id of an old one: a look at them decides.
    return bool(now) and (now != before or any(bool(w.grad.any()) for w in now if w.grad is not None))


def joint_norm(tensors: Iterable[Tensor]) -> float:
    """2-norm over all tensors; squares of float32 numbers leave its range, so they are summed in float64."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms])))


def random_masks(parameters: list[Tensor], share: float, seed: list[int]) -> list[Tensor]:
    """Ones on about this share of the coordinates, zeros elsewhere, from generators of their own, one a device."""
    (start,) = np.random.SeedSequence(seed).generate_state(1, np.uint64).tolist()
    devices = {w.device for w in parameters}
    generators = {device: torch.Generator(device).manual_seed(start) for device in devices}
    return [
        (torch.rand(w.shape, generator=generators[w.device], device=w.device) < share).to(w.dtype) for w in parameters
    ]
