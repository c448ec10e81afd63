"""The frozen method along one eigenvector: a two-term linear recurrence, its growth and its edge.

Legend: s = eigenvalue of P^-1 H, b = beta, c = discount, k = gain, wd = decoupled weight decay, z = root.
"""

from __future__ import annotations

import numpy as np

from tightrope.optim import Momentum


def recurrence(momentum: Momentum, lr: float, s: float, weight_decay: float = 0.0) -> tuple[float, float]:
    """(a0, a1) of x[t+1] = a0 x[t] + a1 x[t-1], the frozen method along an eigenvector with eigenvalue s.

    References:
        Cohen et al. 2022 (arXiv 2207.14484), Lemmas 1 and 2 (whose Nesterov recurrence needs x[t-1] in its last
        term), here with decay and for the whole family.
    """
    b, c, k = momentum.beta, momentum.discount, momentum.gain
    step = k * lr * s
    a0 = 1 + b - lr * weight_decay - step * (1 - b * c)
    a1 = -b * (1 - lr * weight_decay - step * (1 - c))
    return a0, a1


def asymptotic_growth_factor(momentum: Momentum, lr: float, s: float, weight_decay: float = 0.0) -> float:
    """Factor by which the component along the eigenvector grows a step, in the long run; 1 at the edge.

    The largest root modulus of z^2 - a0 z - a1. Also above 1 for s below -wd / F(1): growth without
    oscillation, an escape from a saddle and never the edge.

    Example:
        >>> round(asymptotic_growth_factor(Momentum(), lr=1.0, s=2.2), 4)
        1.2
    References:
        Cohen et al. 2022, Appendix C and Figure 14.
    """
    a0, a1 = recurrence(momentum, lr, s, weight_decay)
    return float(np.abs(np.roots([1.0, -a0, -a1])).max())


def growth_at_ratio(momentum: Momentum, lr: float, ratio: float, weight_decay: float = 0.0) -> float:
    """Asymptotic growth factor where the largest eigenvalue is `ratio` times the threshold."""
    threshold = momentum.stability_threshold(lr, weight_decay)
    return asymptotic_growth_factor(momentum, lr, ratio * threshold, weight_decay)


def periodic_growth(
    momentum: Momentum, lr: float, sharpness: float, *, ascent_factor: float, every: int, weight_decay: float = 0.0
) -> float:
    """Factor a step by which SAM that ascends every so many steps grows along an eigenvector of H, in the long run.

    For P = I, where eigenvectors of H are those of every step: the spectral radius of one period's steps, one at
    s = sharpness + c sharpness^2 and the others at s = sharpness, to the power 1 / every. Exact while c stands still.
    Stable curvatures need not form an interval, so no threshold follows.

    Args:
        sharpness: The eigenvalue of H.
        ascent_factor: c = rho / ||g||.
        every: Steps from one ascent to the next.
    """
    b, c, k = momentum.beta, momentum.discount, momentum.gain
    period = np.eye(2)
    for step in range(every):
        s = sharpness + ascent_factor * sharpness**2 if step == 0 else sharpness
        fresh = lr * k * s * (1 - b * c)
        period = np.array([[1 - lr * weight_decay - fresh, -lr * c * b], [k * (1 - b) * s, b]]) @ period
    return float(np.abs(np.linalg.eigvals(period)).max() ** (1 / every))
