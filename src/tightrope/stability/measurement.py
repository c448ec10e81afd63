"""Measurement: how far an optimizer is from the edge at one moment, and what is known about each number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

NAN = float("nan")


@dataclass(frozen=True)
class Measurement:
    """One look at a run; every number that could not be had is NaN and `reason` says why.

    Attributes:
        ratio: lambda_1(D^1/2 T(H) D^1/2), the preconditioned sharpness over its threshold; the edge is 1.
        ratios: The k largest eigenvalues of the same operator, the ratio first.
        residual: `ratio +- residual` holds an eigenvalue.
        lower: Rigorous lower bound of the ratio, up to rounding.
        upper: Upper bound, of kind `upper_kind` ("exact", "probabilistic" with `confidence`, or "residual").
        condition: What the ratio holds fixed beside P, in words: SAM's ascent, clipping as it acted; often empty.
        threshold: Of the frozen method on lambda_1(P^-1 T(H)), in 1 / lr; None where groups differ.
        preconditioned_sharpness: ratio * threshold; None where groups differ.
        sharpness: lambda_1(H) of the raw Hessian, within `sharpness_residual` of an eigenvalue.
        participation: 1 / sum(u^4) of the top direction u: how many coordinates hold it, 1 to p.
        semi_gradient_sq: |P^-1/2 g|^2, which grows when the frozen method is unstable; NaN where groups differ.
        semi_gradient_sq_top: Its part along the eigenvectors of the `ratios`.
        growth: Factor a step by which the frozen method grows along the top direction, in the long run; None
            where groups differ.
        loss: The loss where it was measured.
        is_audit: The ratio was found from a cold random start, and its upper bound tightened.
        status: "converged", "max_products", "bound_not_reached", "not_finite", "not_stepped" or "no_threshold".
        reason: Why a status other than "converged"; empty otherwise.
        num_products: Hessian-vector products spent, ratio and sharpness together; those of the check are not counted.
        route: How products were computed.
        check: What the first use of the model found of that route, in words; empty where nothing was checked.
        seconds: Wall-clock time it took.
    """

    status: str
    reason: str = ""
    ratio: float = NAN
    ratios: tuple[float, ...] = ()
    residual: float = NAN
    lower: float = NAN
    upper: float = NAN
    upper_kind: str = ""
    confidence: float | None = None
    condition: str = ""
    threshold: float | None = None
    preconditioned_sharpness: float | None = None
    sharpness: float = NAN
    sharpness_residual: float = NAN
    participation: float = NAN
    semi_gradient_sq: float = NAN
    semi_gradient_sq_top: float = NAN
    growth: float | None = None
    loss: float = NAN
    is_audit: bool = False
    num_products: int = 0
    route: str = ""
    check: str = ""
    seconds: float = 0.0

    @property
    def has_ratio(self) -> bool:
        """Whether the ratio is a number (converged or not)."""
        return math.isfinite(self.ratio)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which two numbers the ratio lies, as far as this measurement supports.

        `ratio +- residual` of a solve that converged; of one that did not, the rigorous lower bound and whatever
        upper bound there is, for then the residual may belong to another eigenvalue.
        """
        if self.status in ("converged", "bound_not_reached"):
            return self.ratio - self.residual, self.ratio + self.residual
        return self.lower, self.upper if self.upper_kind in ("exact", "probabilistic") else math.inf

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict, as they are stored."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Measurement:
        """The measurement a stored event holds; what else the event holds is left out."""
        names = {field.name for field in fields(cls)} & set(stored)
        values = {name: _number(stored[name]) for name in names}
        return cls(**{**values, "ratios": tuple(_number(value) for value in stored.get("ratios", ()))})


def _number(value: Any) -> Any:
    """A number from its stored text where it is not finite, anything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value
