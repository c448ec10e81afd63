"""Learning rate schedules: the number of steps taken -> a factor on the learning rate.

A schedule is its hyperparameters and is called like a function, so `torch.optim.lr_scheduler.LambdaLR(optimizer,
schedule)` takes it as it is. Step 0 is the first step.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import msgspec

from tightrope.errors import ConfigError, check_count, check_number

from .preconditioner import AbstractStructMeta

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class Schedule(
    msgspec.Struct,
    metaclass=AbstractStructMeta,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
):
    """A factor on the learning rate for every step."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The factor of a step, 0 for the first; what follows the schedule's end keeps its last factor."""


class Constant(Schedule, frozen=True, tag="constant"):
    """Always 1."""

    def __call__(self, step: int) -> float:
        return 1.0


class StepDecay(Schedule, frozen=True, tag="step_decay"):
    """Multiplied by gamma every so many steps."""

    every: Count
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_count("step_decay: every", self.every)
        check_number("step_decay: gamma", self.gamma, lambda gamma: 0 < gamma <= 1, "be in (0, 1]")

    def __call__(self, step: int) -> float:
        return float(self.gamma ** (step // self.every))


class LinearWarmup(Schedule, frozen=True, tag="linear_warmup"):
    """From 1/num_steps up to 1 in equal steps, then 1."""

    num_steps: Count

    def __post_init__(self) -> None:
        check_count("linear_warmup: num_steps", self.num_steps)

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / self.num_steps)


class Cosine(Schedule, frozen=True, tag="cosine"):
    """Half a cosine from 1 to `floor`, after an optional linear warmup from 0.

    Args:
        num_steps: In all, the warmup included.
        num_warmup: Steps of the warmup; its factor is step / num_warmup.
        floor: Factor at the end.
    References:
        Loshchilov and Hutter 2017 (arXiv 1608.03983), eq. 5.
    """

    num_steps: Count
    num_warmup: Natural = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_count("cosine: num_steps", self.num_steps)
        check_count("cosine: num_warmup", self.num_warmup, 0)
        _check_floor("cosine", self.floor)
        if self.num_warmup >= self.num_steps:
            raise ConfigError(
                f"cosine: num_warmup must be below num_steps; got {self.num_warmup} and {self.num_steps}."
            )

    def __call__(self, step: int) -> float:
        if step < self.num_warmup:
            return step / self.num_warmup
        share = (step - self.num_warmup) / (self.num_steps - self.num_warmup)
        return _half_cosine(share, self.floor)


class WarmRestarts(Schedule, frozen=True, tag="warm_restarts"):
    """SGDR: cosines from 1 to `floor`, each `growth` times as long as the one before.

    The position is counted from the last restart: "t mod T" is right only while the period does not change.

    Args:
        period: Steps of the first cosine.
        growth: Factor from one period to the next, at least 1; restarts fall on the nearest step.
        floor: Factor before a restart.
    References:
        Loshchilov and Hutter 2017 (arXiv 1608.03983), section 3.
    """

    period: Count
    growth: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_count("warm_restarts: period", self.period)
        _check_floor("warm_restarts", self.floor)
        check_number(
            "warm_restarts: growth", self.growth, lambda growth: 1 <= growth <= 1000, "be at least 1 and at most 1000"
        )

    def __call__(self, step: int) -> float:
        number = self._number(step)
        start = self._start(number)
        return _half_cosine((step - start) / (self._start(number + 1) - start), self.floor)

    def is_end(self, step: int) -> bool:
        """Whether a step is the last before a restart, where weights are worth averaging."""
        return step >= 0 and self._start(self._number(step + 1)) == step + 1

    def _start(self, number: int) -> int:
        """First step of a cosine, the sum of all periods before it to the nearest step."""
        if self.growth == 1:
            return number * self.period
        periods = math.expm1(number * math.log(self.growth)) / (self.growth - 1)
        return math.floor(self.period * periods + 0.5)

    def _number(self, step: int) -> int:
        """Which cosine a step belongs to, from 0 on, at the same cost for every step."""
        if self.growth == 1:
            return step // self.period
        number = int(math.log1p(step * (self.growth - 1) / self.period) / math.log(self.growth))
        # Starts are rounded to whole steps, so the next cosine may begin up to half a step before the logarithm says.
        while self._start(number + 1) <= step:
            number += 1
        return number


class OneCycle(Schedule, frozen=True, tag="one_cycle"):
    """Up to 1 and far down again, by half cosines.

    Args:
        num_steps: In all.
        rise: Share of the steps before the peak, in (0, 1).
        start: Factor of the first step.
        end: Factor of the last.
    References:
        Smith and Topin 2018 (arXiv 1708.07120); the defaults are those of torch.optim.lr_scheduler.OneCycleLR.
    """

    num_steps: Count
    rise: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 25e4

    def __post_init__(self) -> None:
        check_count("one_cycle: num_steps", self.num_steps)
        check_number("one_cycle: rise", self.rise, lambda rise: 0 < rise < 1, "be in (0, 1)")
        _check_floor("one_cycle", self.start)
        _check_floor("one_cycle", self.end)

    def __call__(self, step: int) -> float:
        peak = self.rise * self.num_steps - 1
        if step < peak:
            return _half_cosine(1 - step / peak, self.start)
        return _half_cosine((step - peak) / (self.num_steps - 1 - peak), self.end)


class WarmupStableDecay(Schedule, frozen=True, tag="warmup_stable_decay"):
    """A linear warmup, a plateau at 1, and a linear decay to `floor`.

    References:
        Hu et al. 2024 (arXiv 2404.06395), section 4.
    """

    num_warmup: Natural
    num_stable: Natural
    num_decay: Count
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_count("warmup_stable_decay: num_warmup", self.num_warmup, 0)
        check_count("warmup_stable_decay: num_stable", self.num_stable, 0)
        check_count("warmup_stable_decay: num_decay", self.num_decay)
        _check_floor("warmup_stable_decay", self.floor)

    def __call__(self, step: int) -> float:
        if step < self.num_warmup:
            return (step + 1) / self.num_warmup
        share = min(1.0, max(0.0, (step - self.num_warmup - self.num_stable) / self.num_decay))
        return 1 + share * (self.floor - 1)


class InverseSquareRoot(Schedule, frozen=True, tag="inverse_square_root"):
    """A linear warmup to 1, then sqrt(num_warmup / step).

    References:
        Vaswani et al. 2017 (arXiv 1706.03762), eq. 3, with its peak at 1.
    """

    num_warmup: Count

    def __post_init__(self) -> None:
        check_count("inverse_square_root: num_warmup", self.num_warmup)

    def __call__(self, step: int) -> float:
        t = step + 1
        return min(t / self.num_warmup, math.sqrt(self.num_warmup / t))


AnySchedule = (
    Constant | StepDecay | LinearWarmup | Cosine | WarmRestarts | OneCycle | WarmupStableDecay | InverseSquareRoot
)


def _half_cosine(share: float, floor: float) -> float:
    """From 1 at share 0 to floor at share 1; constant beyond both."""
    share = min(1.0, max(0.0, share))
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def _check_floor(owner: str, floor: float) -> None:
    check_number(f"{owner}: factors", floor, lambda floor: 0 <= floor <= 1, "be in [0, 1]")
