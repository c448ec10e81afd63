"""What to measure at the next step, and on how many examples, so that the budget holds."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import LossFn, hessian

from .budget import Budget
from .probe_set import ProbeSet

STEPS_BETWEEN = 50
"""Between readings: a probe set is cut down until the budget allows that."""
LEAST_EXAMPLES = 32
"""A probe set is not cut down further."""
TRIAL_SIZES = (8, 64)
"""Examples on which the model is tried and timed."""
COLD_PRODUCTS, WARM_PRODUCTS = 24, 9
"""Of a first and of a later reading, ratio and sharpness together, until some have been seen."""
LEAST_PRODUCTS, MOST_PRODUCTS = 6, 64
LOG_SHARE = 0.25
"""Of the budget, that losses, learning rates and norms of gradients may take."""
NUM_PACES = 9
"""Of the loop's last steps, whose median is its pace: the first steps of a loop are slow for reasons of their own."""
FULL_BATCH_CYCLE = ("reading", "glance")
MINIBATCH_CYCLE = ("reading", "glance", "reading", "look")


@dataclass(frozen=True)
class Trial:
    """What the model took on a few examples.

    Attributes:
        route: How products are computed.
        build, product: Seconds of the recorded gradient and of a product: a constant, and per example.
    """

    route: str
    build: tuple[float, float]
    product: tuple[float, float]

    def seconds(self, num_examples: float, num_products: float, num_builds: float = 1) -> float:
        """Of so many recorded gradients and products."""
        build, product = (constant + each * num_examples for constant, each in (self.build, self.product))
        return num_builds * build + num_products * product


class Schedule:
    """When a reading, a glance along a step or a look at a batch is due.

    Args:
        limit: The budget's share.
        every: Fixed steps between readings, or None for the budget to decide.
    Attributes:
        budget: What was spent.
        share: Of the probe set that is measured on.
        is_settled: Whether costs are known.
    """

    def __init__(self, limit: float, every: int | None) -> None:
        self.limit, self.every = limit, every
        self.budget = Budget(math.inf if every else limit)
        self.share, self.is_settled, self.num_readings = 1.0, False, 0
        self._place = 0
        self._products: list[int] = []
        self._paces: deque[float] = deque(maxlen=NUM_PACES)
        self._seen = (0, 0.0)

    def settle(self, trial: Trial, size: int) -> None:
        """Take in what things cost, and cut the probe set down if readings would be too rare."""
        if self.every is None:
            allowed = self.limit * self.seconds_per_step * STEPS_BETWEEN
            constant, whole = trial.seconds(0, WARM_PRODUCTS), trial.seconds(size, WARM_PRODUCTS)
            share = (allowed - constant) / (whole - constant) if whole > constant else 1.0
            self.share = min(1.0, max(share, LEAST_EXAMPLES / max(size, 1)))
        n = self.share * size
        self.budget.expect("cold", trial.seconds(n, COLD_PRODUCTS))
        self.budget.expect("reading", trial.seconds(n, WARM_PRODUCTS))
        self.budget.expect("look", trial.seconds(n, 2, num_builds=2))
        self.budget.expect("glance", trial.seconds(n, 0, num_builds=4))
        self.is_settled = True

    def next(self, step: int, *, is_minibatch: bool, has_probe: bool) -> str | None:
        """What to take of the step after this one; None for nothing."""
        if self.every is not None:
            return "reading" if (step + 1) % self.every == 0 else None
        if not self.is_settled:
            return None
        cycle = MINIBATCH_CYCLE if is_minibatch and has_probe else FULL_BATCH_CYCLE
        kind = cycle[self._place % len(cycle)]
        return kind if self.budget.affords(self._price(kind)) else None

    def done(self, kind: str, seconds: float, num_products: int = 0) -> None:
        """Take in what was done, and what it took."""
        self.budget.expect(self._price(kind), seconds)
        self._place += 1
        if kind == "reading":
            self.num_readings += 1
            self._products.append(num_products)

    @property
    def max_products(self) -> int:
        """What one solve may spend: all it needs from cold, later about twice what it took so far."""
        if self.every is not None or not self._products:
            return MOST_PRODUCTS
        recent = sorted(self._products[-5:])
        return min(MOST_PRODUCTS, max(LEAST_PRODUCTS, recent[len(recent) // 2]))

    @property
    def stride(self) -> int:
        """Steps from one that is looked at to the next: logging, too, is to be a part of the budget."""
        if self.every is not None or not self.is_settled:
            return 1
        allowed = LOG_SHARE * self.limit * self.seconds_per_step
        return max(1, math.ceil(self.budget.costs.get("log", 0.0) / allowed))

    def note(self, step: int) -> None:
        """Take in how fast the loop went since the last step that was looked at."""
        last, before = self._seen
        outside = self.budget.total - self.budget.inside
        if step > last:
            self._paces.append((outside - before) / (step - last))
            self._seen = step, outside

    @property
    def seconds_per_step(self) -> float:
        """Process time of a step of the loop itself, of late."""
        return max(median(self._paces), 1e-9) if self._paces else 1e-9

    def forecast(self, num_steps: int) -> tuple[int, int]:
        """At which step the first reading may be expected, and how many steps from one to the next after that."""
        per_step = (1 - LOG_SHARE) * self.limit * self.seconds_per_step
        first = max(0.0, self.budget.costs["cold"] - self.budget.room) / per_step
        both = self.budget.costs["reading"] + self.budget.costs["glance"]
        return num_steps + math.ceil(first), math.ceil(both / per_step)

    def _price(self, kind: str) -> str:
        return "cold" if kind == "reading" and not self.num_readings else kind


def tried(model: nn.Module, loss_fn: LossFn, data: ProbeSet, params: Sequence[Tensor]) -> Trial:
    """Try the model on a few examples of a set: its route is checked, and its gradient and products are timed."""
    seen: list[tuple[int, float, float, str]] = []
    for size in TRIAL_SIZES:
        n = min(size, data.size)
        batch = data.part(n / data.size, params[0].device)
        if not seen:
            hessian(model, loss_fn, batch, params=params)  # the first time pays for the check, and for warming up
        seen.append((n, *_timed(model, loss_fn, batch, params)))
    (n0, build0, product0, route), (n1, build1, product1, _) = seen
    return Trial(route, _line(n0, build0, n1, build1), _line(n0, product0, n1, product1))


def _timed(model: nn.Module, loss_fn: LossFn, batch: Any, params: Sequence[Tensor]) -> tuple[float, float, str]:
    began = time.process_time()
    H = hessian(model, loss_fn, batch, params=params)
    built = time.process_time()
    H @ torch.ones(H.size, dtype=H.dtype, device=H.device)
    return built - began, time.process_time() - built, H.route


def _line(n0: int, t0: float, n1: int, t1: float) -> tuple[float, float]:
    """Constant and slope through two points, neither below zero."""
    slope = max(t1 - t0, 0.0) / (n1 - n0) if n1 > n0 else t1 / max(n1, 1)
    return max(t1 - slope * n1, 0.0), slope
