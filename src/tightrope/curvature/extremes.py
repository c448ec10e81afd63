"""Both ends of a spectrum from one space: the largest eigenvalues and the most negative."""

from __future__ import annotations

import torch
from torch import Tensor

from .expansion import Goal
from .lanczos import missing, solved
from .operators import SymmetricOperator
from .results import BottomResult, EigenResult, Extremes


def extreme_eigenvalues(
    operator: SymmetricOperator,
    k: int = 1,
    *,
    start: Tensor | None = None,
    rtol: float = 1e-2,
    max_products: int = 64,
    max_basis: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    bound_rtol: float | None = None,
    num_guard_steps: int = 1,
) -> Extremes:
    """Largest and smallest k eigenvalues of a symmetric operator, each with a residual, bounds and what they prove.

    One Krylov space approaches both ends at once, so both cost what the slower one costs alone.

    Args:
        operator: Symmetric, (p, p). Never materialised.
        k: How many at each end, 1 to p.
        start: (p, j) earlier vectors, such as a `warm_start`; None for a cold start.
        rtol: Stop when every residual is below rtol * |eigenvalue|, its own: an end close to zero beside the other,
            such as that of a positive semidefinite matrix, takes many products.
        max_basis: At least 6 (k + 1); else this and the other arguments are as in `top_eigenvalues`.
    Returns:
        Extremes. Probabilistic bounds on both ends hold together with probability `confidence`.
    Raises:
        ShapeError, ConfigError: as in `top_eigenvalues`.
    Cost:
        At most max_products operator products for both ends; memory as in `top_eigenvalues`.
    Example:
        >>> from tightrope.curvature import Dense
        >>> ends = extreme_eigenvalues(Dense(torch.diag(torch.tensor([3.0, 1.0, -2.0]))))
        >>> round(float(ends.top.values), 4), round(float(ends.bottom.values), 4)
        (3.0, -2.0)
    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapter 12; Kuczynski and Wozniakowski 1992.
    """
    goal = Goal("extreme_eigenvalues", (k, k), rtol, confidence, bound_rtol, num_guard_steps)
    space, outcome = solved(operator, goal, start, max_products, max_basis, seed)
    look, bounds, status, spent = outcome.look, outcome.bounds, outcome.status, space.num_products
    if look is None:
        nan, none = missing(space, k), missing(space, operator.size, 0)
        top = EigenResult(nan, nan, torch.nan, "residual", None, nan, none, none, spent, status)
        bottom = BottomResult(nan, nan, torch.nan, "residual", None, nan, none)
        return Extremes(top, bottom, none, spent, status)
    return Extremes(look.top(bounds, status), look.bottom(bounds), look.warm_start, spent, status)
