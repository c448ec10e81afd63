"""Figures 3, 15 and 16: Adam with its preconditioner frozen, from the beginning or in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tightrope.training import RunConfig

from ..check import AtItsEdge
from ..growth import RawGrowth, RisesWhenFrozen, StaysShort
from ..panels import OverSteps
from ..study import Case, Study
from .adaptive import AT_THE_EDGE
from .networks import adam, chebyshev_run, cifar_run, digits_run

PANELS = (OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("sharpness"))
RATES = (5.6e-4, 6.3e-4, 7.1e-4, 8e-4)
"""For the P of step 3,000 at rate 1e-3: at larger ones a run is thrown far back, or off, on one seed or another."""
RATES_ON_CIFAR = (2e-5, 2.83e-5, 4e-5, 5.66e-5)
"""The paper names only the run its P comes from: step 1,100 at rate 2e-5 (Appendix G.2).

With that P the first weights are four times beyond the edge of rate 1.6e-4, and a run there diverges at once.
"""

SMALLEST = tuple(f"lr {rates[0]:g}" for rates in (RATES, RATES_ON_CIFAR))


def _anew(after: int, lr: float) -> dict[str, Any]:
    return {"freeze": {"after": after, "restart": True, "lr_before": lr}, "measure": {"sharpness": True}}


def _frozen_small() -> list[Case]:
    return [Case(f"lr {lr:g}", chebyshev_run(adam(lr), 24000, **_anew(3000, 1e-3)), "frozen Adam") for lr in RATES]


def _frozen(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"lr {lr:g}", cifar_run(adam(lr), num_steps, num_examples, 50, **_anew(1100, 2e-5)), "frozen Adam")
        for lr in RATES_ON_CIFAR
    ]


FIG3 = Study(
    name="fig3",
    title="Frozen Adam trains at its edge, and there raw sharpness stops rising",
    figure="Figure 3",
    version=1,
    grids=(
        ("small", _frozen_small),
        ("cpu", lambda: _frozen(1000, 1000)),
        ("paper", lambda: _frozen(None, 2000)),
    ),
    panels=PANELS,
    checks=(
        AtItsEdge("ratio equilibrates at 1", AT_THE_EDGE, may_fall_short=SMALLEST),
        RawGrowth("raw sharpness stops rising", (-math.inf, 1.15), may_fall_short=SMALLEST),
    ),
)
TINY = (2e-5, 5e-5, 1e-4)
"""Figure 15 at small, chosen on seed 1, and at cpu; the middle one is frozen in Figure 16, as in the paper."""
EARLY = 50
"""When: digits are learnt fast, and curvature no longer rises by itself where P is frozen some hundred steps later."""
TINY_ON_CIFAR = (1e-6, 2.236e-6, 5e-6)
"""The paper names the middle one (Figure 16)."""
FROZEN_LABEL, FREE_LABEL = "P frozen", "Adam"


def _tiny_small(lr: float, **settings: Any) -> RunConfig:
    return digits_run(adam(lr), 3000, 40, problem={"model": "cnn"}, **settings)


def _tiny_cpu(lr: float, **settings: Any) -> RunConfig:
    return cifar_run(adam(lr), 600, 200, 40, problem={"model": "cnn"}, **settings)


def _tiny_paper(lr: float, **settings: Any) -> RunConfig:
    return cifar_run(adam(lr), 10_000, None, 200, problem={"model": "cnn", "loss": "cross_entropy"}, **settings)


def _tiny(make: Callable[..., RunConfig], rates: Sequence[float]) -> list[Case]:
    return [Case(f"lr {lr:g}", make(lr), "CNN") for lr in rates]


def _halfway(make: Callable[..., RunConfig], lr: float, after: int) -> list[Case]:
    return [
        Case(FREE_LABEL, make(lr), "CNN"),
        Case(FROZEN_LABEL, make(lr, freeze={"after": after}), "CNN"),
    ]


FIG15 = Study(
    name="fig15",
    title="At tiny learning rates Adam stays short of its edge",
    figure="Figure 15",
    version=1,
    grids=(
        ("small", lambda: _tiny(_tiny_small, TINY)),
        ("cpu", lambda: _tiny(_tiny_cpu, TINY)),
        ("paper", lambda: _tiny(_tiny_paper, TINY_ON_CIFAR)),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    checks=(StaysShort("the ratio stays short of the edge", 0.9),),
)
FIG16 = Study(
    name="fig16",
    title="Where P is frozen, the ratio rises to the edge it had stayed short of",
    figure="Figure 16",
    version=1,
    grids=(
        ("small", lambda: _halfway(_tiny_small, TINY[1], EARLY)),
        ("cpu", lambda: _halfway(_tiny_cpu, TINY[1], EARLY)),
        ("paper", lambda: _halfway(_tiny_paper, 2.236e-6, 6000)),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    checks=(
        StaysShort("the ratio stays short of the edge", 0.9, FREE_LABEL),
        RisesWhenFrozen("the ratio stays short of the edge", 0.9, AT_THE_EDGE, FROZEN_LABEL),
    ),
)
FROZEN = (FIG3, FIG15, FIG16)
