"""Pinned: an optimizer's own steps on a quadratic with its preconditioner held, below its edge and beyond.

Legend: D = edge scaling, w = weights, g = gradient, H = Hessian, all (p,) but H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from ..frozen import Frozen
from .linear_step import ratio
from .momenta import momentum_names
from .surroundings import surroundings_kept
from .trials import NOT_HELD, Bench

QUIET = 1e-5
"""Largest gradient to begin with, in units of what a second moment can hold."""
DIES, GROWS = 1e-2, 1e3


@dataclass(frozen=True)
class PinnedPath:
    """How far the weights went from where they began, in the norm in which the edge is 1.

    Attributes:
        growth: Their size at the end over that at the start.
        num_steps: Steps taken.
    """

    growth: float
    num_steps: int

    @property
    def has_died(self) -> bool:
        return self.growth <= DIES

    @property
    def has_grown(self) -> bool:
        return self.growth >= GROWS


def pinned_path(
    optimizer: torch.optim.Optimizer, frozen: Frozen, at: float, *, num_steps: int = 4000, seed: int = 0
) -> PinnedPath:
    """The optimizer's own steps on a quadratic with lambda_1(D^1/2 (H + shift) D^1/2) = `at`, its P held.

    Before each step of a float64 copy, second moment and counts are set so that they are after it what the optimizer
    holds now; momentum and weights go on as the copy leaves them. H mixes all elements: seeded, curvatures between
    half and all of `at`. It ends once the weights have grown a thousandfold or shrunk to a hundredth.

    Args:
        optimizer: Left alone.
        frozen: What `freeze` said of it.
        at: Where on the way to the edge, which is 1.
        num_steps: At most.
    Raises:
        UnsupportedOptimizerError: its state cannot be copied or held, or what is frozen is not what it moves.
    Cost:
        One to three steps of a float64 copy a step.
    """
    if frozen.D is None or frozen.D.ndim != 1 or frozen.ascent is not None:
        raise UnsupportedOptimizerError("pinned_path: needs a diagonal P and the gradient where the weights are")
    with surroundings_kept(type(optimizer)):
        bench = Bench(optimizer, momentum_names(optimizer)[0])
        root = frozen.half_scaling().double()
        if len(root) != bench.size:
            raise UnsupportedOptimizerError(f"pinned_path: it moves {bench.size} elements of the {len(root)} it holds")
        scale = bench.natural_scale()
        root = torch.where(scale > 0, root, torch.zeros_like(root))
        gradient = _quadratic(root, frozen.shift, at, seed)
        w = root * torch.randn(bench.size, generator=torch.Generator().manual_seed(seed + 1)).to(root)
        return _walked(bench, w * QUIET / ratio(gradient(w), scale).abs().max(), root, gradient, num_steps)


def _walked(bench: Bench, w: Tensor, root: Tensor, gradient: Callable[[Tensor], Tensor], num_steps: int) -> PinnedPath:
    x, start = bench.momenta(), ratio(w, root).norm()
    growth, step = 1.0, 0
    while step < num_steps and DIES < growth < GROWS:
        outcome = bench.trial(x, w, gradient(w), is_rounded=True)
        if outcome is None:
            raise UnsupportedOptimizerError(f"pinned_path: {NOT_HELD}")
        x, dw = outcome
        w, step = w + dw, step + 1
        growth = float(ratio(w, root).norm() / start)
    return PinnedPath(growth, step)


def _quadratic(root: Tensor, shift: Tensor | float, at: float, seed: int) -> Callable[[Tensor], Tensor]:
    """w -> H w with H + shift = D^-1/2 Q diag(values) Q D^-1/2: a reflection Q mixes the elements that move."""
    generator = torch.Generator().manual_seed(seed)
    size = len(root)
    axis = torch.randn(size, generator=generator, dtype=torch.float64).to(root.device)
    axis = torch.nn.functional.normalize(axis * (root > 0), dim=0)
    values = at * torch.linspace(0.5, 1, size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
    values = values.to(root.device)
    # The largest must be that of an element that moves.
    values = values * (at / values[root > 0].max())

    def reflected(y: Tensor) -> Tensor:
        return y - 2 * axis * (axis @ y)

    def gradient(w: Tensor) -> Tensor:
        return ratio(reflected(values * reflected(ratio(w, root))), root) - shift * w

    return gradient
