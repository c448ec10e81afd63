"""The whole run as one value."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import tomli_w

from tightrope.errors import ConfigError, check_number
from tightrope.optim import (
    AnyClipping,
    AnyRecipe,
    AnySchedule,
    Clipping,
    Constant,
    ForeignRecipe,
    Recipe,
    Schedule,
    SharpnessAware,
    WarmRestarts,
)
from tightrope.problems import AnyProblem, ProblemConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Leaves room for the measurements' own seeds above it."""

LARGEST = 1e30
"""No number of a configuration may exceed it: float32 ends at 3e38, and a step multiplies a few of them."""
LARGEST_COUNT = 2**45
"""Nor any whole number: so many float64 are more than a process can address."""


class MeasureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and how closely to measure.

    Attributes:
        every: Steps between measurements; step 1 and the last are measured too. 0 for none of them.
        at_end: Measure the last step although `every` is 0.
        at_loss: Measure the first step whose training loss is at or below this, too; None for none.
        rtol, max_products: Of each eigensolve, see `top_eigenvalues`.
        sharpness: Measure the raw sharpness as well.
        audit_every: Measurements between audits; 0 for none.
        num_examples: Measure on the first so many examples; None for all.
        max_bytes: Of memory for the graph of the gradient; None for no limit.
        num_eigenvalues: How many of the largest eigenvalues to find; the gradient is split on their eigenvectors.
        window: First and last step of a stretch in which every step is measured; None for none.
    """

    every: Natural = 10
    at_end: bool = False
    at_loss: float | None = None
    rtol: float = 1e-2
    max_products: Count = 64
    sharpness: bool = True
    audit_every: Natural = 50
    num_examples: Count | None = None
    max_bytes: Count | None = None
    num_eigenvalues: Count = 1
    window: tuple[Count, Count] | None = None

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether a step is measured."""
        first, last = self.window or (0, 0)
        if self.every == 0:
            return (is_last and self.at_end) or first <= step <= last
        return step == 1 or step % self.every == 0 or first <= step <= last or is_last


class FreezeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the preconditioner of an adaptive method is frozen: Adam becomes "frozen Adam".

    Attributes:
        after: Steps that fill P; from then on it stands still.
        restart: Begin the run anew with that P, from the first weights and without momentum. The steps that filled it
            come before the run and are not stored.
        lr_before: Learning rate of these steps; None for the method's own. Only with `restart`.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), section 4 and Figure 3 (anew), Figure 16 (in the middle of a run).
    """

    after: Count
    restart: bool = False
    lr_before: float | None = None


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
        freeze: When P is frozen; None for never.
        average_restarts: Average the weights where the cycles of a `warm_restarts` schedule end, and store the mean.
        num_steps: Optimizer steps at most.
        batch_size: Examples a step; None for all of them (full batch).
        seed: Of the weights and of the order of minibatches.
        dtype: "float32" or "float64".
        device: Where the model and all of its data lie: "cpu", "cuda", "cuda:1".
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
    freeze: FreezeConfig | None = None
    average_restarts: bool = False
    num_steps: Count = 500
    batch_size: Count | None = None
    seed: Seed = 0
    dtype: str = "float32"
    device: str = "cpu"
    measure: MeasureConfig = MeasureConfig()
    stop: StopConfig = StopConfig()
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, kinds in _TABLES.items():
            if not isinstance(getattr(self, name), kinds):
                raise ConfigError(
                    f"{name}: must be a value such as problem=Digits(), method=RECIPES['adam'](lr=1e-3), "
                    f"schedule=Cosine(num_steps=100); got {getattr(self, name)!r}."
                )
        _check_numbers("", to_mapping(self))
        check_number("num_steps:", self.num_steps, lambda n: n >= 1 and n == int(n), "be a whole number, at least 1")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype: must be 'float32' or 'float64'; got '{self.dtype}'.")
        check_number("method.lr:", self.method.lr, lambda lr: lr > 0, "be positive and finite")
        check_number("method.lr:", self.method.lr, lambda lr: lr >= 1 / LARGEST, f"be at least {1 / LARGEST:g}")
        check_number("measure.rtol:", self.measure.rtol, lambda rtol: rtol > 0, "be positive")
        check_number("stop.divergence:", self.stop.divergence, lambda factor: factor > 1, "be above 1")
        check_number("checkpoint_seconds:", self.checkpoint_seconds, lambda seconds: seconds >= 0, "be at least 0")
        self._check_restarts()
        self._check_freeze()
        first, last = self.measure.window or (1, 1)
        if first > last:
            raise ConfigError(f"measure.window: its first step must not be after its last; got {[first, last]}.")
        self.method.check()

    def _check_restarts(self) -> None:
        if not self.average_restarts:
            return
        if not isinstance(self.schedule, WarmRestarts):
            raise ConfigError(
                "average_restarts: needs a schedule with restarts to average over; set schedule = 'warm_restarts'."
            )
        if self.schedule.period > self.num_steps:
            raise ConfigError(
                f"average_restarts: a cycle must end within the {self.num_steps} steps; the first takes "
                f"{self.schedule.period}. Shorten schedule.period."
            )

    def _check_freeze(self) -> None:
        freeze = self.freeze
        if freeze is None:
            return
        if isinstance(self.method, ForeignRecipe) or not self.method.is_adaptive or self.sam is not None:
            raise ConfigError(
                "freeze: needs a method whose P follows the gradients, such as adam, and no [sam]. Leave it out."
            )
        if freeze.lr_before is not None:
            check_number("freeze.lr_before:", freeze.lr_before, lambda lr: lr > 0, "be positive and finite")
        if freeze.lr_before is not None and not freeze.restart:
            raise ConfigError("freeze.lr_before: is for the steps before a restart; set freeze.restart = true.")
        if not freeze.restart and freeze.after >= self.num_steps:
            raise ConfigError(
                f"freeze.after: must come before the last of {self.num_steps} steps; got {freeze.after}. With "
                "freeze.restart = true these steps come before the run."
            )

    @property
    def label(self) -> str:
        """The method in prose, with what was put around it."""
        ascent = f" with {self.sam.label}" if self.sam is not None and self.sam.rho > 0 else ""
        clipped = f", clipped by {self.clipping.label}" if self.clipping is not None else ""
        return f"{self.method.label}{ascent}{clipped}{self._frozen_label}"

    @property
    def _frozen_label(self) -> str:
        if self.freeze is None:
            return ""
        where = "" if self.freeze.lr_before is None else f" of a run at rate {self.freeze.lr_before:g}"
        return f" with P frozen after step {self.freeze.after}{where}"

    @property
    def is_adaptive(self) -> bool:
        """Whether P follows the gradients from the first step on, and means nothing in the first ones."""
        return self.method.is_adaptive and not (self.freeze is not None and self.freeze.restart)

    def to_toml(self) -> str:
        """The configuration as TOML; `from_mapping` of its parse is equal to it, with tuples for lists."""
        return tomli_w.dumps(to_mapping(self))


_TABLES: dict[str, Any] = {
    "problem": ProblemConfig,
    "method": Recipe,
    "schedule": Schedule,
    "sam": SharpnessAware | None,
    "clipping": Clipping | None,
    "freeze": FreezeConfig | None,
    "measure": MeasureConfig,
    "stop": StopConfig,
}


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as the nested tables a file would hold, without what is None.

    Raises:
        ConfigError: a value is none that a file can hold.
    """
    mapping: dict[str, Any] = _without_none(msgspec.to_builtins(config, enc_hook=_plain))
    try:
        tomli_w.dumps(mapping).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"configuration: its text must be UTF-8; got {error.object!r}.") from error
    return mapping


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, paths as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    with contextlib.suppress(AttributeError, RuntimeError, TypeError, ValueError):
        return value.item()
    raise ConfigError(f"configuration: values must be plain numbers, text or lists; got {value!r}.")


def _check_numbers(path: str, value: Any) -> None:
    """Raise at a number that is none, or too large to carry through a step or to build; only [stop] may hold inf."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_numbers(f"{path}.{name}".lstrip("."), part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_numbers(path, part)
    elif isinstance(value, int | float):
        largest = LARGEST_COUNT if isinstance(value, int) and path != "seed" else LARGEST
        is_endless = abs(value) == math.inf and path.startswith("stop.")
        if not abs(value) <= largest and not is_endless:
            raise ConfigError(f"{path}: numbers must be at most {largest:g} in size; got {value!r:.40}.")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value
