"""Largest eigenvalues of a symmetric operator: block Lanczos from cold, residual expansion when warm."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from tightrope.errors import ShapeError, check_count, check_number

from .draws import seeded
from .expansion import Goal, Outcome, from_cold, from_warm
from .look import MAX_SPARE
from .operators import SymmetricOperator, check_operator
from .results import EigenResult
from .ritz import RitzSpace


def top_eigenvalues(
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
        max_basis: Hold at most this many vectors and their products, at least 3 (k + 1), with which the warm solve is
            LOBPCG; None for as many as products. A cold bound is not improved past the first restart.
        seed: Of the random vectors; the result is a function of the arguments alone.
        confidence: Of the probabilistic upper bound.
        bound_rtol: From cold, go on until the upper bound is within bound_rtol * |eigenvalue| as well.
        num_guard_steps: Warm, rounds at the least; each costs a product and makes it less likely that a mode which
            rose unseen out of the bulk is missed.
    Returns:
        EigenResult; eigenvalues (k,) descending, same unit as the operator (P^-1 H: 1 / lr).
    Raises:
        ShapeError: k is not in 1..p, max_products is below k, max_basis below 3 (k + 1), rtol is negative, start is
            not (p, j) of real numbers, or the operator is none.
        ConfigError: confidence is not above 0 and below 1, or an argument is of another kind.
    Cost:
        At most max_products operator products (a block of k counts k); memory (p, products) from cold as long as it
        is not restarted, else (p, 2 max_basis), or warm without one (p, 2 products).
    Example:
        >>> from tightrope.curvature import Dense
        >>> top_eigenvalues(Dense(torch.diag(torch.tensor([3.0, 1.0]))), k=1).values
        tensor([3.])
    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapters 11 and 13; Kuczynski and Wozniakowski 1992; Wu and
        Simon 2000, SIAM J. Matrix Anal. Appl. 22(2), on restarts.
    """
    goal = Goal("top_eigenvalues", (k, 0), rtol, confidence, bound_rtol, num_guard_steps)
    space, outcome = solved(operator, goal, start, max_products, max_basis, seed)
    if outcome.look is None:
        nan, none = missing(space, k), missing(space, operator.size, 0)
        return EigenResult(nan, nan, torch.nan, "residual", None, nan, none, none, space.num_products, "not_finite")
    return outcome.look.top(outcome.bounds, outcome.status)


def solved(
    operator: SymmetricOperator,
    goal: Goal,
    start: Tensor | None,
    max_products: int,
    max_basis: int | None,
    seed: int,
) -> tuple[RitzSpace, Outcome]:
    """The space in which the goal was reached or given up, from cold or warm."""
    _check_kinds(operator, goal, start, max_products, max_basis)
    ends = (goal.wanted[0] + 1, goal.wanted[1] and goal.wanted[1] + 1)
    space = RitzSpace(operator, max_products, max_basis, ends, keeps_products=start is not None)
    _check(space, goal, start, max_products, max_basis)
    if start is None:
        return space, from_cold(space, goal, seeded(seed))
    num_read = sum(wanted + MAX_SPARE for wanted in goal.wanted if wanted)
    return space, from_warm(space, goal, seeded(seed), _finite(operator, start)[:, :num_read])


def _finite(operator: SymmetricOperator, start: Tensor) -> Tensor:
    """The columns without NaN or infinity; what one process finds all must, so inner products are asked."""
    start = start.to(operator.device, operator.dtype)
    columns = [column[:, None].double() for column in start.unbind(1)]
    kept = [i for i, x in enumerate(columns) if bool(operator.inner(x, x).isfinite().all())]
    return start if len(kept) == start.shape[1] else start[:, kept]


def missing(space: RitzSpace, *shape: int) -> Tensor:
    """NaN in place of numbers, after a product that was not finite."""
    return torch.full(shape, torch.nan, dtype=space.operator.dtype, device=space.operator.device)


def _check_kinds(
    operator: SymmetricOperator, goal: Goal, start: Tensor | None, max_products: int, max_basis: int | None
) -> None:
    """What must hold of arguments before a space can be made of them."""
    name = goal.name
    check_operator(name, operator)
    counts: dict[str, object] = {"k": goal.wanted[0], "max_products": max_products, "max_basis": max_basis}
    for what, value in (counts | {"num_guard_steps": goal.num_guard_steps}).items():
        if not isinstance(value, Integral) and not (what == "max_basis" and value is None):
            check_count(f"{name}: {what}", value)
    for what, number in (("rtol", goal.rtol), ("bound_rtol", 0.0 if goal.bound_rtol is None else goal.bound_rtol)):
        check_number(f"{name}: {what}", number, lambda _: True, "be a number")
    check_number(f"{name}: confidence", goal.confidence, lambda c: 0 < c < 1, "be above 0 and below 1", "Take 0.95.")
    if start is not None and not isinstance(start, Tensor):
        raise ShapeError(
            f"{name}: start must be a tensor ({operator.size}, j); got {type(start).__name__}. "
            "Pass a former result's warm_start, or None."
        )


def _check(space: RitzSpace, goal: Goal, start: Tensor | None, max_products: int, max_basis: int | None) -> None:
    p, k, name = space.dimension, goal.wanted[0], goal.name
    least = 3 * sum(space.ends)
    if not 1 <= k <= p:
        raise ShapeError(f"{name}: k must be between 1 and p = {p}; got {k}. A matrix has p eigenvalues.")
    if not goal.rtol >= 0:
        raise ShapeError(f"{name}: rtol must be at least 0; got {goal.rtol}. Take 1e-2 for one percent.")
    if max_products < k:
        raise ShapeError(f"{name}: max_products must be at least k = {k}; got {max_products}. Each value takes one.")
    if max_basis is not None and max_basis < min(least, p):
        hint = f"A restart needs {least} vectors, or p of them. Take None for as many as products."
        raise ShapeError(f"{name}: max_basis must be at least {min(least, p)}; got {max_basis}. {hint}")
    if start is not None and (start.ndim != 2 or start.shape[0] != space.operator.size or start.is_complex()):
        kind = "complex " if start.is_complex() else ""
        raise ShapeError(
            f"{name}: start must be ({space.operator.size}, j); got {kind}{tuple(start.shape)}. "
            "Pass a former result's warm_start, or None."
        )
