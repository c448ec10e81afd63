"""Figures 3, 15 and 16: Adam with its preconditioner frozen, from the beginning or in the middle of a run."""

from __future__ import annotations

import math
from typing import Any

from ..check import AtItsEdge
from ..growth import RawGrowth
from ..panels import OverSteps
from ..study import Case, Study
from .adaptive import AT_THE_EDGE
from .networks import adam, chebyshev_run, cifar_run

PANELS = (OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("sharpness"))
RATES = (5.6e-4, 8e-4, 1.12e-3, 1.6e-3)
"""Chosen on seed 1, for the P of step 3,000 at rate 1e-3."""
RATES_ON_CIFAR = (2e-5, 4e-5, 8e-5, 1.6e-4)
"""The paper names only the run its P comes from: step 1,100 at rate 2e-5 (Appendix G.2)."""


def _anew(after: int, lr: float) -> dict[str, Any]:
    return {"freeze": {"after": after, "restart": True, "lr_before": lr}, "measure": {"sharpness": True}}


def _frozen_small() -> list[Case]:
    return [Case(f"lr {lr:g}", chebyshev_run(adam(lr), 16000, **_anew(3000, 1e-3)), "frozen Adam") for lr in RATES]


def _frozen(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"lr {lr:g}", cifar_run(adam(lr), num_steps, num_examples, 100, **_anew(1100, 2e-5)), "frozen Adam")
        for lr in RATES_ON_CIFAR
    ]


FIG3 = Study(
    name="fig3",
    title="Frozen Adam trains at its edge, and there raw sharpness stops rising",
    figure="Figure 3",
    version=1,
    grids=(
        ("small", _frozen_small),
        ("cpu", lambda: _frozen(1000, 2000)),
        ("paper", lambda: _frozen(None, 2000)),
    ),
    panels=PANELS,
    checks=(
        AtItsEdge("ratio equilibrates at 1", AT_THE_EDGE),
        RawGrowth("raw sharpness stops rising", (-math.inf, 1.15)),
    ),
)
FROZEN = (FIG3,)
