"""Largest eigenvalues of a symmetric operator: block Lanczos from cold, residual expansion when warm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import ShapeError

from .bounds import probabilistic_upper
from .draws import gaussian, seeded
from .operators import SymmetricOperator
from .ritz import RitzSpace

GUARD_SHARE = 0.3
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
        status: "converged", "max_products", "bound_not_reached" (the value converged, the bound asked for did not)
            or "not_finite".
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
    num_guard_steps: int = 1,
) -> EigenResult:
    """Largest k eigenvalues of a symmetric operator, each with a residual, bounds and what they prove.

    From cold, k seeded random vectors span a growing block Krylov space (block Lanczos with full
    reorthogonalisation). Warm, the space starts from `start` and a random guard, grows by one power step of the
    guard, which in practice finds an eigenvalue that has overtaken the former ones, and by the residuals of the
    wanted pairs that have not converged.

    Args:
        operator: Symmetric, (p, p). Never materialised.
        k: How many, 1 to p.
        start: (p, j) earlier vectors, such as a `warm_start`; None for a cold start.
        rtol: Stop when every residual is below rtol * |eigenvalue|.
        max_products: At most this many products, at least k.
        seed: Of the random vectors; the result is a function of the arguments alone.
        confidence: Of the probabilistic upper bound.
        bound_rtol: From cold, go on until the upper bound is within bound_rtol * |eigenvalue| as well.
        num_guard_steps: Warm, rounds at the least; each costs a product and makes it less likely that a mode which
            rose unseen out of the bulk is missed.
    Returns:
        EigenResult; eigenvalues (k,) descending, same unit as the operator (P^-1 H: 1 / lr).
    Raises:
        ShapeError: k is not in 1..p, max_products is below k, rtol is negative, or start is not (p, j).
    Cost:
        At most max_products operator products (a block of k counts k); memory (p, 2 products).
    Example:
        >>> from tightrope.curvature import Dense
        >>> top_eigenvalues(Dense(torch.diag(torch.tensor([3.0, 1.0]))), k=1).values
        tensor([3.])
    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapters 11 and 13; Kuczynski and Wozniakowski 1992.
    """
    _check(operator, k, start, rtol, max_products)
    space = RitzSpace(operator, max_products)
    generator = seeded(seed)
    if start is None:
        return _from_cold(space, k, rtol, generator, confidence, bound_rtol)
    start = start.to(operator.device, operator.dtype)
    return _from_warm(space, k, rtol, generator, start[:, start.isfinite().all(dim=0)], num_guard_steps)


def _from_cold(
    space: RitzSpace, k: int, rtol: float, generator: torch.Generator, confidence: float, bound_rtol: float | None
) -> EigenResult:
    """Block Lanczos: the space is the Krylov space of k random vectors, so bounds on random starts hold."""
    block, num_rounds = gaussian(space.operator, k, generator), 0
    while True:
        num_rounds = num_rounds + 1 if space.extend(block) else 0
        if not space.is_finite:
            return _not_finite(space, k)
        look = _Look(space, k, rtol)
        upper = look.nearest if space.is_whole else look.upper(num_rounds, confidence)
        is_bounded = bound_rtol is None or upper - look.top <= bound_rtol * abs(look.top)
        if (look.is_converged and is_bounded) or space.is_exhausted:
            status = "max_products" if not look.is_converged else "converged" if is_bounded else "bound_not_reached"
            return look.result(upper, "exact" if space.is_whole else "probabilistic", status, confidence)
        # A Krylov space that closed on itself says nothing of directions lost in rounding: start another beside it.
        block = space.last_products() if num_rounds else gaussian(space.operator, 1, generator)


def _from_warm(
    space: RitzSpace, k: int, rtol: float, generator: torch.Generator, start: Tensor, num_guard_steps: int
) -> EigenResult:
    """Rayleigh-Ritz from earlier vectors, grown by the residuals of the wanted pairs and power steps of the guard."""
    num_added = space.extend(_guarded(space.operator, k, start, generator))
    num_steps = 0
    while space.is_finite:
        look, guard_product = _Look(space, k, rtol), space.last_products()[:, -1:]
        is_found = look.is_converged and len(look.theta) >= k
        if (is_found and num_steps >= num_guard_steps) or space.is_exhausted:
            status = "converged" if is_found else "max_products"
            return look.result(look.nearest, "exact" if space.is_whole else "residual", status, None)
        if not num_added or len(look.theta) < k:
            block = gaussian(space.operator, 1, generator)
        elif is_found or not num_steps:
            block, num_steps = torch.cat([look.unconverged_residuals, guard_product], dim=1), num_steps + 1
        else:
            block, num_steps = look.unconverged_residuals, num_steps + 1
        num_added = space.extend(block)
    return _not_finite(space, k)


class _Look:
    """The Ritz pairs of a space at one moment, judged."""

    def __init__(self, space: RitzSpace, k: int, rtol: float) -> None:
        self.space, self.k = space, k
        self.theta, self.vectors, self.R = space.ritz(k + 1)
        R = self.R[:, :k].double()
        norms = space.operator.inner(R, R).diagonal().sqrt().cpu()
        self.residuals = norms + space.rounding
        self.unconverged = norms > (rtol * self.theta[:k].abs()).clamp(min=space.rounding)

    @property
    def is_converged(self) -> bool:
        return not bool(self.unconverged.any())

    @property
    def unconverged_residuals(self) -> Tensor:
        """(p, j) of the wanted pairs that have not converged."""
        return self.R[:, : self.k][:, self.unconverged]

    @property
    def top(self) -> float:
        return float(self.theta[0])

    @property
    def nearest(self) -> float:
        """The top value plus its residual: an eigenvalue lies within the residual of the value."""
        return self.top + float(self.residuals[0])

    def upper(self, num_rounds: int, confidence: float) -> float:
        """Upper bound over the random start of a Krylov space of that many rounds."""
        p, lowest = self.space.operator.size, float(self.theta[-1])
        bound = probabilistic_upper(p, num_rounds, self.top, lowest, confidence)
        return bound + self.space.rounding

    def result(self, upper: float, upper_kind: str, status: str, confidence: float | None) -> EigenResult:
        theta, vectors = self.theta[: self.k], self.vectors
        return EigenResult(
            values=theta.to(vectors),
            lower=(theta - self.space.rounding).to(vectors),
            upper=upper,
            upper_kind=upper_kind,
            confidence=confidence if upper_kind == "probabilistic" else None,
            residuals=self.residuals.to(vectors),
            vectors=vectors[:, : self.k],
            warm_start=vectors,
            num_products=self.space.num_products,
            status=status,
        )


def _guarded(operator: SymmetricOperator, k: int, start: Tensor, generator: torch.Generator) -> Tensor:
    """The start and, as last column, a random guard: blended into the first vector beyond the wanted k, which then
    gathers what the guards of successive calls find, or beside them where there is none.
    """
    guard = gaussian(operator, max(1, k - start.shape[1]), generator)
    if start.shape[1] <= k:
        return torch.cat([start, guard], dim=1)
    length = operator.inner(guard, guard).sqrt()
    return torch.cat([start[:, :k], start[:, k : k + 1] + GUARD_SHARE * guard / length], dim=1)


def _not_finite(space: RitzSpace, k: int) -> EigenResult:
    nan = torch.full((k,), float("nan"), dtype=space.operator.dtype, device=space.operator.device)
    none = torch.zeros(space.operator.size, 0, dtype=nan.dtype, device=nan.device)
    return EigenResult(nan, nan, float("nan"), "residual", None, nan, none, none, space.num_products, "not_finite")


def _check(operator: SymmetricOperator, k: int, start: Tensor | None, rtol: float, max_products: int) -> None:
    if not 1 <= k <= operator.size:
        raise ShapeError(f"top_eigenvalues: k must be between 1 and p = {operator.size}; got {k}.")
    if not rtol >= 0:
        raise ShapeError(f"top_eigenvalues: rtol must be at least 0; got {rtol}.")
    if max_products < k:
        raise ShapeError(f"top_eigenvalues: max_products must be at least k = {k}; got {max_products}.")
    if start is not None and (start.ndim != 2 or start.shape[0] != operator.size):
        raise ShapeError(f"top_eigenvalues: start must be ({operator.size}, j); got {tuple(start.shape)}.")
