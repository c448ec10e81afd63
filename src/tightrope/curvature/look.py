"""The Ritz pairs of a space at one moment, judged, and made into a result.

Legend: theta = Ritz values, R = residuals (p, j).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .bounds import probabilistic_upper
from .results import BottomResult, EigenResult
from .ritz import RitzSpace, outer

MAX_SPARE = 4
"""Vectors beyond the wanted ones that a start may hold, at each end."""

NEAR = 0.05
"""Share of the last wanted value within which the next ones may take their turn at the top."""

SAFETY = 2.0
"""How much longer than allowed a residual may look, and is still computed."""


class Look:
    """The wanted Ritz pairs of a space, and the next one at each end.

    Args:
        space: Not empty.
        wanted: How many eigenvalues are asked for, from the top and from the bottom.
        rtol: A pair has converged when its residual is below rtol * |value|, or below rounding.
    """

    def __init__(self, space: RitzSpace, wanted: tuple[int, int], rtol: float) -> None:
        self.space, self.wanted = space, wanted
        self.theta, self._S = space.eigenpairs()
        m = len(self.theta)
        self.num_top, self.num_bottom = min(wanted[0], m), min(wanted[1], m)
        shown, self._chosen = outer(m, *space.ends), outer(m, *wanted)
        self.columns = [shown.index(i) for i in self._chosen]
        self._tolerance = (rtol * self.theta[self._chosen].abs()).clamp(min=space.rounding)

    @cached_property
    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Vectors of both ends with the next ones, and residuals (p, j) of the wanted pairs."""
        _, vectors, R = self.space.ritz(*self.space.ends)
        return vectors, R[:, self.columns]

    @property
    def vectors(self) -> Tensor:
        """(p, j) of both ends, the next one at each among them."""
        return self._ritz[0]

    @cached_property
    def _norms(self) -> Tensor:
        squares = self._ritz[1].double()
        return self.space.operator.inner(squares, squares).diagonal().sqrt().cpu()

    @property
    def residuals(self) -> Tensor:
        """(j,) how long they are, rounding included."""
        return self._norms + self.space.rounding + self.space.dropped

    @property
    def unconverged(self) -> Tensor:
        """(j,) which pairs have not converged."""
        return self._norms > self._tolerance

    @property
    def is_converged(self) -> bool:
        return len(self.theta) >= max(self.wanted) and not bool(self.unconverged.any())

    def may_have_converged(self) -> bool:
        """False where a Krylov space can tell without its vectors that a residual is still too long."""
        if self.space.next_length is None:
            return True
        lengths = self.space.next_length * self._S[-1, self._chosen].abs()
        return bool((lengths <= SAFETY * self._tolerance + self.space.rounding).all())

    @property
    def warm_start(self) -> Tensor:
        """(p, j): the wanted vectors of both ends, then the next one at each, where the guard may be blended in."""
        spare = [i for i in range(self.vectors.shape[1]) if i not in self.columns]
        return self.vectors[:, self.columns + spare]

    @property
    def num_near(self) -> int:
        """How many vectors beyond the k largest are worth carrying: those that may be at the top next, or else one."""
        k, last = self.num_top, self.theta[self.num_top - 1]
        near = self.theta[k : k + MAX_SPARE] >= last - NEAR * last.abs()
        return max(1, int(near.sum()))

    @property
    def unconverged_residuals(self) -> Tensor:
        """(p, j) of the wanted pairs that have not converged."""
        return self._ritz[1][:, self.unconverged]

    def is_tight(self, bounds: Bounds, rtol: float) -> bool:
        """Whether each bound asked for is within rtol of its eigenvalue."""
        top, bottom = float(self.theta[0]), float(self.theta[-1])
        is_tight = bounds.upper - top <= rtol * abs(top)
        return is_tight and (not self.num_bottom or bottom - bounds.lower <= rtol * abs(bottom))

    def is_outside(self, bounds: Bounds) -> bool:
        """Whether a Ritz value disproves bounds that held with some probability."""
        return float(self.theta[0]) > bounds.upper or float(self.theta[-1]) < bounds.lower

    def nearest(self) -> Bounds:
        """The outermost values and their residuals: an eigenvalue lies within the residual of the value."""
        kind, below = "exact" if self.space.is_whole else "residual", self.residuals[-1 if self.num_bottom else 0]
        upper, lower = float(self.theta[0] + self.residuals[0]), float(self.theta[-1] - below)
        return Bounds(lower, upper, kind)

    def probabilistic(self, num_rounds: int, confidence: float) -> Bounds:
        """Bounds over the random start of a Krylov space of that many rounds."""
        p, high, low = self.space.dimension, float(self.theta[0]), float(self.theta[-1])
        upper = probabilistic_upper(p, num_rounds, high, low, confidence) + self.space.rounding
        lower = -probabilistic_upper(p, num_rounds, -low, -high, confidence) - self.space.rounding
        return Bounds(lower, upper, "probabilistic", confidence)

    def top(self, bounds: Bounds, status: str) -> EigenResult:
        k, num_spare = self.num_top, self.num_near
        theta = self.theta[:k]
        return EigenResult(
            values=theta.to(self.vectors),
            lower=(theta - self.space.rounding).to(self.vectors),
            upper=bounds.upper,
            upper_kind=bounds.kind,
            confidence=bounds.confidence,
            residuals=self.residuals[:k].to(self.vectors),
            vectors=self.vectors[:, :k],
            warm_start=self.vectors[:, : k + 1] if num_spare == 1 else self.space.ritz(k + num_spare)[1],
            num_products=self.space.num_products,
            status=status,
        )

    def bottom(self, bounds: Bounds) -> BottomResult:
        k = self.num_bottom
        theta = self.theta.flip(0)[:k]
        return BottomResult(
            values=theta.to(self.vectors),
            upper=(theta + self.space.rounding).to(self.vectors),
            lower=bounds.lower,
            lower_kind=bounds.kind,
            confidence=bounds.confidence,
            residuals=self.residuals.flip(0)[:k].to(self.vectors),
            vectors=self.vectors.flip(1)[:, :k],
        )


@dataclass(frozen=True)
class Bounds:
    """Bounds on the smallest and the largest eigenvalue.

    Attributes:
        kind, confidence: As `upper_kind` and `confidence` of `EigenResult`.
    """

    lower: float
    upper: float
    kind: str
    confidence: float | None = None
