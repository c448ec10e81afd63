"""The whole run as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import tomli_w

from tightrope.errors import ConfigError, check_number
from tightrope.optim import AnyClipping, AnyRecipe, AnySchedule, Constant, Recipe, SharpnessAware, WarmRestarts
from tightrope.problems import AnyProblem, ProblemConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Leaves room for the measurements' own seeds above it."""

LARGEST = 1e30
"""No number of a problem or method may exceed it: float32 ends at 3e38, and a step multiplies a few of them."""
LARGEST_COUNT = 2**45
"""Nor any whole number: so many float64 are more than a process can address."""


class MeasureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and how closely to measure.

    Attributes:
        every: Steps between measurements; step 1 and the last are measured too. 0 for never.
        rtol, max_products: Of each eigensolve, see `top_eigenvalues`.
        sharpness: Measure the raw sharpness as well.
        audit_every: Measurements between audits; 0 for none.
        num_examples: Measure on the first so many examples; None for all.
    """

    every: Natural = 10
    rtol: float = 1e-2
    max_products: Count = 64
    sharpness: bool = True
    audit_every: Natural = 50
    num_examples: Count | None = None


class StopConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to end before the last step.

    Attributes:
        loss: End once the training loss is at or below this.
        divergence: End as diverged once the loss is not finite, or this many times the first (or 1, if that is more).
    """

    loss: float | None = None
    divergence: float = 1e6


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as a value: two equal configurations give the same numbers on the same machine.

    Attributes:
        problem: Model, data and loss.
        method: The gradient method and its hyperparameters.
        schedule: A factor on its learning rate for every step.
        sam: Take the gradient uphill of the weights (sharpness-aware minimisation); None for where they are.
        clipping: A limit on the gradient of each step; None for none.
        average_restarts: Average the weights where the cycles of a `warm_restarts` schedule end, and store the mean.
        num_steps: Optimizer steps at most.
        batch_size: Examples a step; None for all of them (full batch).
        seed: Of the weights and of the order of minibatches.
        dtype: "float32" or "float64".
        measure: When and how closely to measure.
        stop: When to end early.
        checkpoint_seconds: At most so long is lost when the run is killed; 0 for a checkpoint after every step.
    Raises:
        ConfigError: a value is out of its range.
    """

    problem: AnyProblem
    method: AnyRecipe
    schedule: AnySchedule = Constant()
    sam: SharpnessAware | None = None
    clipping: AnyClipping | None = None
    average_restarts: bool = False
    num_steps: Count = 500
    batch_size: Count | None = None
    seed: Seed = 0
    dtype: str = "float32"
    measure: MeasureConfig = MeasureConfig()
    stop: StopConfig = StopConfig()
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.problem, ProblemConfig) or not isinstance(self.method, Recipe):
            raise ConfigError(
                "RunConfig: problem and method must be values such as Digits() and RECIPES['adam'](lr=1e-3); "
                f"got {self.problem!r} and {self.method!r}."
            )
        check_number("num_steps:", self.num_steps, lambda n: n >= 1 and n == int(n), "be a whole number, at least 1")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype: must be 'float32' or 'float64'; got '{self.dtype}'.")
        if not 0 < self.method.lr < math.inf:
            raise ConfigError(f"method.lr: must be positive and finite; got {self.method.lr}.")
        if self.method.lr < 1 / LARGEST:
            raise ConfigError(f"method.lr: must be at least {1 / LARGEST:g}; got {self.method.lr}.")
        if not 0 <= self.method.weight_decay < math.inf:
            raise ConfigError(f"method.weight_decay: must be finite and at least 0; got {self.method.weight_decay}.")
        if not self.measure.rtol > 0:
            raise ConfigError(f"measure.rtol: must be positive; got {self.measure.rtol}.")
        if not self.stop.divergence > 1:
            raise ConfigError(f"stop.divergence: must be above 1; got {self.stop.divergence}.")
        check_number("checkpoint_seconds:", self.checkpoint_seconds, lambda seconds: seconds >= 0, "be at least 0")
        if self.average_restarts and not isinstance(self.schedule, WarmRestarts):
            raise ConfigError(
                "average_restarts: needs a schedule with restarts to average over; set schedule = 'warm_restarts'."
            )
        for name in ("problem", "method", "sam", "clipping"):
            _check_size(name, msgspec.to_builtins(getattr(self, name)))
        # Building the rules checks their hyperparameters.
        _ = self.method.stability_threshold(), self.method.preconditioner

    @property
    def label(self) -> str:
        """The method in prose, with what was put around it."""
        ascent = f" with {self.sam.label}" if self.sam is not None and self.sam.rho > 0 else ""
        clipped = f", clipped by {self.clipping.label}" if self.clipping is not None else ""
        return f"{self.method.label}{ascent}{clipped}"

    def to_toml(self) -> str:
        """The configuration as TOML; `from_mapping` of its parse is equal to it."""
        return tomli_w.dumps(_without_none(msgspec.to_builtins(self)))


def _check_size(path: str, value: Any) -> None:
    """Raise where a number is finite but too large to carry through a step, or to build."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_size(f"{path}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_size(path, part)
    elif isinstance(value, int | float):
        largest = LARGEST_COUNT if isinstance(value, int) else LARGEST
        if largest < abs(value) < math.inf:
            raise ConfigError(f"{path}: numbers must be at most {largest:g} in size; got {value!r:.40}.")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value
