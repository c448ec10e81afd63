"""Largest eigenvalues of a symmetric operator: block Lanczos from cold, residual expansion when warm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import ShapeError

from .bounds import probabilistic_upper
from .operators import SymmetricOperator
from .ritz import RitzSpace

GUARD_SHARE = 0.1
"""Length of the random guard beside the unit companion vector it is blended into."""


@dataclass(frozen=True)
class EigenResult:
    """The k largest eigenvalues found, and what is known about each.

    Attributes:
        values: (k,) Ritz values, descending, in the operator's unit.
        lower: (k,) rigorous lower bounds on the k largest eigenvalues, up to the operator's own rounding.
        upper: Upper bound on the largest eigenvalue, of the kind `upper_kind`.
        upper_kind: "exact" (the whole space was spanned), "probabilistic" (random start; holds with probability
            `confidence`) or "residual" (warm start: some eigenvalue lies within the residual of the value; that it
            is the largest is supported by the random guard vector, not proven).
        confidence: Probability of a probabilistic bound, else None.
        residuals: (k,); each `value +- residual` holds an eigenvalue.
        vectors: (p, k) Ritz vectors, orthonormal.
        warm_start: (p, k + 1) or fewer: the vectors and the next one, to start the next call from.
        num_products: Products with one vector that were spent.
        status: "converged", "max_products" or "not_finite".
    """

    values: Tensor
    lower: Tensor
    upper: float
    upper_kind: str
    confidence: float | None
    residuals: Tensor
    vectors: Tensor
    warm_start: Tensor
    num_products: int
    status: str


def top_eigenvalues(
    operator: SymmetricOperator,
    k: int = 1,
    *,
    start: Tensor | None = None,
    rtol: float = 1e-2,
    max_products: int = 64,
    seed: int = 0,
    confidence: float = 0.95,
    bound_rtol: float | None = None,
) -> EigenResult:
    """Largest k eigenvalues of a symmetric operator, each with a residual, bounds and what they prove.

    From cold, k seeded random vectors span a growing block Krylov space (block Lanczos with full
    reorthogonalisation). Warm, the space starts from `start` and a random guard, and grows by the residuals of
    the wanted pairs that have not converged; with a `warm_start` the guard costs no product of its own.

    Args:
        operator: Symmetric, (p, p). Never materialised.
        k: How many, 1 to p.
        start: (p, j) earlier vectors, such as a `warm_start`; None for a cold start.
        rtol: Stop when every residual is below rtol * |eigenvalue|.
        max_products: At most this many products, at least k.
        seed: Of the random vectors; the result is a function of the arguments alone.
        confidence: Of the probabilistic upper bound.
        bound_rtol: From cold, go on until the upper bound is within bound_rtol * |eigenvalue| as well.
    Returns:
        EigenResult; eigenvalues (k,) descending, same unit as the operator (P^-1 H: 1 / lr).
    Raises:
        ShapeError: k is not in 1..p, max_products is below k, or start is not (p, j).
    Cost:
        At most max_products operator products (a block of k counts k); memory (p, 2 products).
    Example:
        >>> from tightrope.curvature import Dense
        >>> top_eigenvalues(Dense(torch.diag(torch.tensor([3.0, 1.0]))), k=1).values
        tensor([3.])
    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapters 11 and 13; Kuczynski and Wozniakowski 1992.
    """
    _check(operator, k, start, max_products)
    space = RitzSpace(operator, max_products)
    generator = torch.Generator().manual_seed(seed)
    block = _first_block(operator, k, start, generator)
    num_rounds = 0
    while True:
        num_added = space.extend(block)
        if not space.is_finite:
            return _not_finite(space, k)
        num_rounds += num_added > 0
        theta, vectors, R = space.ritz(k + 1)
        norms = operator.inner(R, R).diagonal()[:k].double().clamp(min=0).sqrt().cpu()
        unconverged = norms > (rtol * theta[:k].abs()).clamp(min=space.rounding)
        residuals = norms + space.rounding
        upper, upper_kind = _upper(space, theta, residuals, num_added, num_rounds, start is None, confidence)
        is_bounded = start is not None or bound_rtol is None or upper - theta[0] <= bound_rtol * theta[0].abs()
        is_stuck = start is None and num_added == 0
        if space.is_exhausted or is_stuck or (is_bounded and not unconverged.any()):
            break
        if start is None:
            block = space.last_products()
        else:
            block = R[:, :k][:, unconverged] if num_added else _random(operator, 1, generator)
    status = "max_products" if unconverged.any() else "converged" if is_bounded else "bound_not_reached"
    return EigenResult(
        values=theta[:k].to(vectors),
        lower=(theta[:k] - space.rounding).to(vectors),
        upper=upper,
        upper_kind=upper_kind,
        confidence=confidence if upper_kind == "probabilistic" else None,
        residuals=residuals.to(vectors),
        vectors=vectors[:, :k],
        warm_start=vectors,
        num_products=space.num_products,
        status=status,
    )


def _upper(
    space: RitzSpace,
    theta: Tensor,
    residuals: Tensor,
    num_added: int,
    num_rounds: int,
    is_cold: bool,
    confidence: float,
) -> tuple[float, str]:
    nearest = float(theta[0] + residuals[0])
    if space.is_whole:
        return nearest, "exact"
    if not is_cold:
        return nearest, "residual"
    if num_added == 0:
        # The Krylov space closed on itself: with probability 1 it holds the top eigenvector.
        return nearest, "probabilistic"
    bound = probabilistic_upper(space.operator.size, num_rounds, float(theta[0]), float(theta[-1]), confidence)
    return bound + space.rounding, "probabilistic"


def _first_block(operator: SymmetricOperator, k: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    """Random from cold. Warm, the start and a random guard: blended into the first vector beyond the wanted k,
    which then gathers what the guards of successive calls find, or beside them where there is none.
    """
    if start is None:
        return _random(operator, k, generator)
    start = start.to(operator.device, operator.dtype)
    j = start.shape[1]
    guard = _random(operator, max(1, k - j), generator)
    if j <= k:
        return torch.cat([start, guard], dim=1)
    length = operator.inner(guard, guard).sqrt()
    return torch.cat([start[:, :k], start[:, k : k + 1] + GUARD_SHARE * guard / length], dim=1)


def _random(operator: SymmetricOperator, num: int, generator: torch.Generator) -> Tensor:
    """Gaussian columns (p, num), uniform in direction; drawn on the CPU so that a seed means the same anywhere."""
    block = torch.randn(num, operator.size, generator=generator, dtype=torch.float64)
    return block.T.to(operator.device, operator.dtype)


def _not_finite(space: RitzSpace, k: int) -> EigenResult:
    nan = torch.full((k,), float("nan"), dtype=space.operator.dtype, device=space.operator.device)
    vectors = torch.zeros(space.operator.size, 0, dtype=nan.dtype, device=nan.device)
    return EigenResult(
        nan, nan, float("nan"), "residual", None, nan, vectors, vectors, space.num_products, "not_finite"
    )


def _check(operator: SymmetricOperator, k: int, start: Tensor | None, max_products: int) -> None:
    if not 1 <= k <= operator.size:
        raise ShapeError(f"top_eigenvalues: k must be between 1 and p = {operator.size}; got {k}.")
    if max_products < k:
        raise ShapeError(f"top_eigenvalues: max_products must be at least k = {k}; got {max_products}.")
    if start is not None and (start.ndim != 2 or start.shape[0] != operator.size):
        raise ShapeError(f"top_eigenvalues: start must be ({operator.size}, j); got {tuple(start.shape)}.")
