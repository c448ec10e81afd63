"""The space grown until the wanted pairs have converged: from cold by block Lanczos, from earlier vectors by residuals.

With a basis of 3 (k + 1) vectors the second is LOBPCG with a guard: what a restart keeps is the iterate and its last
direction (Knyazev 2001, SIAM J. Sci. Comput. 23(2); with a larger basis GD+k, Stathopoulos 2007, SIAM J. Sci. Comput.
29(2)). Convergence is judged by residuals alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import gaussian
from .look import Bounds, Look
from .ritz import RitzSpace

GUARD_SHARE = 0.3
"""Length of the random guard beside the unit companion vector it is blended into."""


@dataclass(frozen=True)
class Goal:
    """What a solver is to reach.

    Attributes:
        name: Of the function asked, for messages.
        wanted: How many eigenvalues, from the top and from the bottom.
        rtol: Of the residuals.
        confidence: Of probabilistic bounds.
        bound_rtol: Of these bounds, from cold; None where any will do.
        num_guard_steps: Rounds at the least, warm.
    """

    name: str
    wanted: tuple[int, int]
    rtol: float
    confidence: float
    bound_rtol: float | None
    num_guard_steps: int


@dataclass(frozen=True)
class Outcome:
    """Where a solver stopped; `look` is None where a product was not finite."""

    look: Look | None
    bounds: Bounds
    status: str


def from_cold(space: RitzSpace, goal: Goal, generator: torch.Generator) -> Outcome:
    """Block Lanczos: until a restart the space is the Krylov space of random vectors, so bounds on random starts hold.

    The bound is that of the last round before a restart; a larger value found later disproves it.
    """
    block: Tensor | None = gaussian(space.operator, max(goal.wanted), generator)
    num_rounds = 0
    bounds = Bounds(-torch.inf, torch.inf, "probabilistic", goal.confidence)
    while True:
        num_added = space.extend_krylov() if block is None else space.extend(block)
        num_rounds = num_rounds + 1 if num_added else 0
        if not space.is_finite:
            return _not_finite()
        look = Look(space, goal.wanted, goal.rtol)
        if space.is_whole:
            bounds = look.nearest()
        elif not space.num_restarts:
            bounds = look.probabilistic(num_rounds, goal.confidence)
        is_tight = goal.bound_rtol is None or look.is_tight(bounds, goal.bound_rtol)
        may_end = (is_tight or space.num_restarts) and look.may_have_converged()
        if space.is_exhausted or (may_end and look.is_converged):
            status = "max_products" if not look.is_converged else "converged" if is_tight else "bound_not_reached"
            return Outcome(look, look.nearest() if look.is_outside(bounds) else bounds, status)
        # A Krylov space that closed on itself says nothing of directions lost in rounding: start another beside it.
        if not num_rounds:
            block = gaussian(space.operator, 1, generator)
        elif space.has_restarts:
            block = look.unconverged_residuals if space.num_restarts else space.last_products()
        else:
            block = None


def from_warm(space: RitzSpace, goal: Goal, generator: torch.Generator, start: Tensor) -> Outcome:
    """Rayleigh-Ritz from earlier vectors, grown by the residuals of the wanted pairs and power steps of the guard."""
    num_added = space.extend(_guarded(space, sum(goal.wanted), start, generator))
    num_steps = 0
    while space.is_finite:
        look, guard_product = Look(space, goal.wanted, goal.rtol), space.last_products()[:, -1:]
        if (look.is_converged and num_steps >= goal.num_guard_steps) or space.is_exhausted:
            return Outcome(look, look.nearest(), "converged" if look.is_converged else "max_products")
        if not num_added or len(look.theta) < max(goal.wanted):
            block = gaussian(space.operator, 1, generator)
        elif look.is_converged or not num_steps:
            block, num_steps = torch.cat([look.unconverged_residuals, guard_product], dim=1), num_steps + 1
        else:
            block, num_steps = look.unconverged_residuals, num_steps + 1
        num_added = space.extend(block)
    return _not_finite()


def _guarded(space: RitzSpace, num_wanted: int, start: Tensor, generator: torch.Generator) -> Tensor:
    """The start and, as last column, a random guard: blended into the last vector beyond the wanted ones, which then
    gathers what the guards of successive calls find, or beside them where there is none.
    """
    guard = gaussian(space.operator, max(1, num_wanted - start.shape[1]), generator)
    if start.shape[1] <= num_wanted:
        return torch.cat([start, guard], dim=1)
    length = space.operator.inner(guard, guard).sqrt()
    return torch.cat([start[:, :-1], start[:, -1:] + GUARD_SHARE * guard / length], dim=1)


def _not_finite() -> Outcome:
    return Outcome(None, Bounds(torch.nan, torch.nan, "residual"), "not_finite")
