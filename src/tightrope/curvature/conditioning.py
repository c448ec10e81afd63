"""Condition number of a positive definite operator, as far as a Krylov space proves it.

Legend: theta = Ritz values, kappa = lambda_1 / lambda_p.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tightrope.errors import check_number

from .draws import gaussian, seeded
from .operators import SymmetricOperator, check_operator
from .ritz import RitzSpace


@dataclass(frozen=True)
class ConditionNumber:
    """What is known of lambda_1 / lambda_p.

    Attributes:
        lower: Lower bound on the condition number, rounding included, if the operator is positive definite, which
            Ritz values cannot prove; NaN where they disprove it.
        largest: Largest Ritz value, at most lambda_1.
        smallest: Smallest Ritz value, at least lambda_p.
        num_products: Products of the operator that were spent.
        seed: Of the random start.
        status: "exact" (the whole space was spanned; `lower` is the condition number up to rounding), "lower_bound",
            "not_positive" (an eigenvalue is below zero, or at it as far as rounding can tell) or "not_finite".
    """

    lower: float
    largest: float
    smallest: float
    num_products: int
    seed: int
    status: str

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


def condition_number(operator: SymmetricOperator, *, num_products: int = 64, seed: int = 0) -> ConditionNumber:
    """Lower bound on lambda_1 / lambda_p of a positive definite operator, from one random Krylov space.

    Both extreme Ritz values lie inside the spectrum, so their quotient is at most the condition number. How far below
    it is not known: small eigenvalues that crowd towards zero are found last, often not at all.

    Args:
        operator: Symmetric, (p, p).
        num_products: At most this many, at least 1.
        seed: Of the random start; the result is a function of the arguments alone.
    Returns:
        ConditionNumber.
    Raises:
        ConfigError: num_products is below 1.
    Cost:
        At most num_products products, fewer where the Krylov space closes; memory (p, num_products).
    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapters 11 and 13.
    """
    check_operator("condition_number", operator)
    check_number("condition_number: num_products", num_products, lambda num: num >= 1, "be at least 1")
    space = RitzSpace(operator, num_products, keeps_products=False)
    space.extend(gaussian(operator, 1, seeded(seed)))
    while space.is_finite and space.extend_krylov():
        pass
    if not space.is_finite:
        return ConditionNumber(math.nan, math.nan, math.nan, space.num_products, seed, "not_finite")
    theta, _ = space.eigenpairs()
    largest, smallest, slack = float(theta[0]), float(theta[-1]), space.rounding
    is_positive = smallest > slack if space.is_whole else smallest >= -slack and largest > slack
    status = "not_positive" if not is_positive else "exact" if space.is_whole else "lower_bound"
    lower = max(1.0, (largest - slack) / (smallest + slack)) if is_positive else math.nan
    return ConditionNumber(lower, largest, smallest, space.num_products, seed, status)
