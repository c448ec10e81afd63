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

from .budget import MARGIN, Budget
from .probe_set import ProbeSet

STEPS_BETWEEN = 60
"""Between readings: a probe set is cut down until the budget allows that."""
FEWEST_EXAMPLES, LEAST_OF_BATCH = 8, 0.25
"""A probe set is not cut down below so many, plus such a share of a step's batch: few overstate the sharpness."""
TRIAL_SIZES = (8, 64)
"""Examples on which the model is tried and timed; never more than a step's batch."""
NUM_TIMES = 2
"""Each is timed, for the least: what is slower was disturbed."""
NUM_PRODUCTS = 6
"""Of a solve, until some have been seen."""
LEAST_PRODUCTS, MOST_PRODUCTS = 8, 64
LOG_SHARE = 0.15
"""Of the budget, that losses, learning rates and norms of gradients may take."""
NUM_PACES = 9
"""Of the loop's last steps, whose median is its pace: the first steps of a loop are slow for reasons of their own."""
FULL_BATCH_SHARES = {"reading": 0.95, "glance": 0.05}
MINIBATCH_SHARES = {"reading": 0.85, "glance": 0.05, "look": 0.1}
"""Of the time spent measuring: next comes the kind that is furthest behind its share."""
EXTRAS = ("", "sharpness", "", "", "plain", "")
"""What readings take beside the ratio, in turn: nothing, the raw sharpness, or the ratio without the floor."""
MEAN_SOLVES = sum(2 if extra else 1 for extra in EXTRAS) / len(EXTRAS)


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
        self._spent = dict.fromkeys(MINIBATCH_SHARES, 0.0)
        self._products: list[int] = []
        self._product = 0.0
        self._paces: deque[float] = deque(maxlen=NUM_PACES)
        self._seen = (0, 0.0)

    def settle(self, trial: Trial, size: int, batch_size: int | None) -> None:
        """Take in what things cost, and cut a probe set of this size down if readings would be too rare."""
        if self.every is None:
            self.share = self._affordable(trial, size, batch_size)
        n = self.share * size
        for extra in EXTRAS:
            self.budget.expect(extra, trial.seconds(n, NUM_PRODUCTS * (2 if extra else 1)))
        self._product = trial.seconds(n, 1, num_builds=0)
        self.budget.expect("look", trial.seconds(n, 1) + trial.seconds(batch_size or size, 1))
        self.budget.expect("glance", trial.seconds(n, 0, num_builds=4))
        for kind in ("look", "glance"):  # as if each had had its first turn: readings come first
            self._spent[kind] = self.budget.costs[kind]
        self.is_settled = True

    def multiply(self, times: int) -> None:
        """Take in that each thing measured takes so many times what was tried."""
        self._product *= times
        for kind in {*EXTRAS, "look", "glance"}:
            self.budget.costs[kind] *= times

    def next(self, step: int, *, is_minibatch: bool, has_probe: bool) -> str | None:
        """What to take of the step after this one; None for nothing."""
        if self.every is not None:
            return "reading" if (step + 1) % self.every == 0 else None
        if not self.is_settled:
            return None
        shares = MINIBATCH_SHARES if is_minibatch and has_probe else FULL_BATCH_SHARES
        kind = min(shares, key=lambda kind: self._spent[kind] / shares[kind])
        return kind if self.budget.affords(self._price(kind)) else None

    def done(self, kind: str, seconds: float, num_products: int = 0) -> None:
        """Take in what was done, and what it took; `num_products` of a reading's solve for the ratio."""
        self.budget.expect(self._price(kind), seconds)
        self._spent[kind] += seconds
        if kind == "reading":
            self.num_readings += 1
            self._products.append(num_products)

    def takes(self, extra: str) -> bool:
        """Whether the reading that comes next takes the "sharpness", or the "plain" ratio, as well."""
        return self.every is not None or EXTRAS[self.num_readings % len(EXTRAS)] == extra

    @property
    def max_products(self) -> int:
        """What one solve may spend: the first what there is room for, a later one about twice what they took so far."""
        if self.every is not None:
            return MOST_PRODUCTS
        if self._products:
            wanted = 2 * median(self._products[-5:])
        else:
            wanted = self.budget.room / self._product if self._product > 0 else MOST_PRODUCTS
        return min(MOST_PRODUCTS, max(LEAST_PRODUCTS, round(wanted)))

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

    def forecast(self, num_steps: int, *, is_minibatch: bool) -> tuple[int, int]:
        """At which step the first reading may be expected, and how many steps from one to the next after that."""
        per_step, costs = (1 - LOG_SHARE) * self.limit * self.seconds_per_step, self.budget.costs
        first = max(0.0, MARGIN * costs[EXTRAS[0]] - self.budget.room) / per_step
        shares = MINIBATCH_SHARES if is_minibatch else FULL_BATCH_SHARES
        mean = sum(costs[extra] for extra in EXTRAS) / len(EXTRAS) / shares["reading"]
        return num_steps + math.ceil(first), math.ceil(mean / per_step)

    def _price(self, kind: str) -> str:
        return EXTRAS[self.num_readings % len(EXTRAS)] if kind == "reading" else kind

    def _affordable(self, trial: Trial, size: int, batch_size: int | None) -> float:
        """The share of the probe set on which a reading is due every STEPS_BETWEEN steps.

        Where what is the same for any number of examples makes up half of what a product takes, fewer would save
        next to nothing.
        """
        allowed = self.limit * FULL_BATCH_SHARES["reading"] * self.seconds_per_step * STEPS_BETWEEN
        num_products = NUM_PRODUCTS * MEAN_SOLVES
        nothing, whole = trial.seconds(0, num_products), trial.seconds(size, num_products)
        wanted = size * (allowed - nothing) / (whole - nothing) if whole > nothing else size
        constant, each = trial.product
        batch_size = batch_size or size
        least = min(FEWEST_EXAMPLES + LEAST_OF_BATCH * batch_size, batch_size)
        cheap = min(constant / each, batch_size) if each > 0 else batch_size
        return min(1.0, max(wanted, least, cheap) / max(size, 1))


def tried(model: nn.Module, loss_fn: LossFn, data: ProbeSet, params: Sequence[Tensor], batch_size: int | None) -> Trial:
    """Try the model on a few examples of a set: its route is checked, and its gradient and products are timed."""
    most = min(TRIAL_SIZES[1], data.size, batch_size or data.size)
    sizes = min(TRIAL_SIZES[0], max(1, most // 4)), most
    seen: list[tuple[float, float, str]] = []
    for n in sizes:
        batch = data.part(n / data.size, params[0].device)
        if not seen:
            hessian(model, loss_fn, batch, params=params)  # the first time pays for the check, and for warming up
        seen.append(_timed(model, loss_fn, batch, params))
    (build0, product0, route), (build1, product1, _) = seen
    return Trial(route, _line(sizes[0], build0, most, build1), _line(sizes[0], product0, most, product1))


def _timed(model: nn.Module, loss_fn: LossFn, batch: Any, params: Sequence[Tensor]) -> tuple[float, float, str]:
    """Seconds of the recorded gradient and of a product, and the route."""
    began = time.process_time()
    H = hessian(model, loss_fn, batch, params=params)
    build, products = time.process_time() - began, []
    for _ in range(NUM_TIMES):
        began = time.process_time()
        H @ torch.ones(H.size, dtype=H.dtype, device=H.device)
        products.append(time.process_time() - began)
    return build, min(products), H.route


def _line(n0: int, t0: float, n1: int, t1: float) -> tuple[float, float]:
    """Constant and slope through two points, neither below zero."""
    slope = max(t1 - t0, 0.0) / (n1 - n0) if n1 > n0 else t1 / max(n1, 1)
    return max(t1 - slope * n1, 0.0), slope
