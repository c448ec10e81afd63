"""A short run of a foreign optimizer on the Chebyshev network, and the learning rates at which it trains at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import torch

from tightrope.errors import ConfigError
from tightrope.optim import ForeignRecipe
from tightrope.problems import Chebyshev, Problem

SEARCH_STEPS = 1000
FALLEN = 0.9
"""Share of the first loss below which training does not stand still; the best straight line through the points, which
every method finds at once, has 0.95 of it."""
CANDIDATES = tuple(10.0 ** (k / 2) for k in range(-12, 3))
WIDEST = 100.0
"""Largest over smallest rate of a sweep, as in the paper's own."""


@dataclass(frozen=True)
class ShortRun:
    """An optimizer after a few steps on a problem of its own.

    Attributes:
        problem, optimizer: As the last step left them.
        losses: Before each step.
        num_moves: Steps that changed a weight.
    """

    problem: Problem
    optimizer: torch.optim.Optimizer
    losses: list[float]
    num_moves: int

    @property
    def has_diverged(self) -> bool:
        return not math.isfinite(self.losses[-1]) or self.losses[-1] > max(1.0, 10 * self.losses[0])


def trained(method: ForeignRecipe, num_steps: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> ShortRun:
    """Plain training in full batch; it ends early where it diverges, or where a weight has left its vector.

    Raises:
        ConfigError: the optimizer cannot be made, or a step of it fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        problem = Chebyshev().build(seed, dtype)
        short = ShortRun(problem, method.build(problem.parameters), [], 0)
        for _ in range(num_steps):
            short = _after_a_step(short, method)
            if short.has_diverged or strays(problem):
                break
    return short


def strays(problem: Problem) -> str:
    """How a step has put a parameter elsewhere than into its memory, in words; "" where it has not."""
    place = problem.w.untyped_storage().data_ptr()
    for w in problem.parameters:
        if w.dtype != problem.w.dtype:
            return f"a step made a parameter {str(w.dtype).removeprefix('torch.')}"
        if w.untyped_storage().data_ptr() != place:
            return "a step put other memory into a parameter; change it in place, as w.add_(...) does"
    return ""


def find_rates(method: ForeignRecipe, num: int) -> tuple[float, ...]:
    """Learning rates, evenly spaced on a logarithmic axis, at which training neither diverges nor stands still.

    Every half decade is tried for a thousand steps: the rates lie between the first at which the loss falls by a tenth
    and the last before it no longer does, and within two decades from below. Around a single one they lie within a
    quarter of a decade to either side, less where it does not fall there. None where there is no such rate.

    Raises:
        ConfigError: the optimizer cannot be made, or cannot take a step; so many rates do not differ.
    """
    trained(method, 1)
    found: list[float] = []
    for lr in CANDIDATES:
        if _trains(method, lr):
            found.append(lr)
        elif found:
            break
    if not found:
        return ()
    if len(found) == 1 and num > 1:
        return spaced(*_around(method, found[0]), num)
    return spaced(found[0], min(found[-1], WIDEST * found[0]), num)


def spaced(low: float, high: float, num: int) -> tuple[float, ...]:
    """Learning rates evenly spaced on a logarithmic axis, to three digits; the middle of it where one is asked for.

    Raises:
        ConfigError: to three digits some are the same, and a run would count more than once.
    """
    ratios = [0.5] if num == 1 else [i / (num - 1) for i in range(num)]
    rates = tuple(float(f"{low * (high / low) ** each:.3g}") for each in ratios)
    if len(set(rates)) < num:
        raise ConfigError(
            f"--lrs: {num} rates from {low!r} to {high!r} must differ in three digits; got {len(set(rates))}. "
            "Ask for fewer, or for wider bounds: --lr LOW --lr HIGH."
        )
    return rates


def _around(method: ForeignRecipe, lr: float) -> tuple[float, float]:
    """The lowest and the highest rate at which it trains too, near the only one found."""
    for part in (4, 8, 16):
        step = 10 ** (1 / part)
        low, high = (end if _trains(method, end) else lr for end in (lr / step, lr * step))
        if low < high:
            return low, high
    return lr, lr


def _trains(method: ForeignRecipe, lr: float) -> bool:
    """Whether the loss falls by a tenth in a short run that does not diverge."""
    try:
        short = trained(msgspec.structs.replace(method, lr=lr), SEARCH_STEPS)
    except ConfigError:  # a step failed that did not at first: its numbers have left all bounds
        return False
    return not short.has_diverged and short.losses[-1] <= FALLEN * short.losses[0]


def _after_a_step(short: ShortRun, method: ForeignRecipe) -> ShortRun:
    problem = short.problem
    problem.gradient.zero_()
    loss = problem.loss_fn(problem.model, problem.batch)
    loss.backward()
    before = problem.w.detach().clone()
    method.step(short.optimizer)
    moves = short.num_moves + int(not torch.equal(before, problem.w))
    return ShortRun(problem, short.optimizer, [*short.losses, loss.item()], moves)
