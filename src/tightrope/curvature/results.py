"""What a solver says of the largest and of the smallest eigenvalues, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EigenResult:
    """The k largest eigenvalues found, and what is known about each.

    Attributes:
        values: (k,) Ritz values, descending, in the operator's unit.
        lower: (k,) rigorous lower bounds on the k largest eigenvalues, up to the operator's own rounding.
        upper: Upper bound on the largest eigenvalue, of the kind `upper_kind`.
        upper_kind: "exact" (the whole space was spanned), "probabilistic" (random start; holds with probability
            `confidence`) or "residual" (some eigenvalue lies within the residual of the value; that it is the
            largest is supported by the random guard vector of a warm start, or by a cold one, not proven).
        confidence: Probability of a probabilistic bound, else None.
        residuals: (k,); each `value +- residual` holds an eigenvalue.
        vectors: (p, k) Ritz vectors, orthonormal.
        warm_start: (p, k + 1), or fewer: the vectors and the next one, to start the next call from; up to
            (p, k + 4) where the next ones are within 5 % of the last and may take its place.
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


@dataclass(frozen=True)
class BottomResult:
    """The k smallest eigenvalues found: `EigenResult` upside down, so here `upper` is what is rigorous.

    Attributes:
        values: (k,) Ritz values, ascending from the most negative, in the operator's unit.
        upper: (k,) rigorous upper bounds on the k smallest eigenvalues, up to the operator's own rounding.
        lower: Lower bound on the smallest eigenvalue, of the kind `lower_kind`.
        lower_kind, confidence, residuals, vectors: As in `EigenResult`.
    """

    values: Tensor
    upper: Tensor
    lower: float
    lower_kind: str
    confidence: float | None
    residuals: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Extremes:
    """Both ends of a spectrum, from one space.

    Attributes:
        top: The largest eigenvalues; its `num_products` and `status` are those of both ends.
        bottom: The smallest. Where both bounds are probabilistic they hold together with probability `confidence`.
        warm_start: Vectors of both ends, to start the next call from.
        num_products: Products with one vector that were spent on both.
        status: As in `EigenResult`; "converged" where both ends did.
    """

    top: EigenResult
    bottom: BottomResult
    warm_start: Tensor
    num_products: int
    status: str
