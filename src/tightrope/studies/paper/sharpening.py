"""Figures 8, 9 and 18: at the adaptive edge raw sharpness keeps rising, and what happens there step by step."""

from __future__ import annotations

import math
from typing import Any

from tightrope.store import RunRecord

from ..check import AtItsEdge
from ..cycles import OrderOfEvents, SharpnessOverACycle, SpikesInTheTop
from ..growth import RawGrowth
from ..panels import GradientSplit, OverSteps, TopEigenvalues
from ..study import Case, Grids, Study
from .adaptive import AT_THE_EDGE
from .networks import adam, chebyshev_run, cifar_run, digits_run

BETA2 = 0.99
RAW = {"sharpness": True}
COARSELY = {**RAW, "rtol": 0.02}
"""Two eigenvalues at each measurement cost twice as much; 2 % is enough for a rise by half."""
RATES = (1e-4, 3.16e-4, 1e-3, 1e-2)
RATES_ON_CIFAR = (5e-5, 1e-4, 2e-4, 4e-4)
"""Of the paper's four, Figure 9 names the smallest and the largest; they are evenly spaced here."""
SMALL, LARGE = "small lr", "large lr"
WINDOW = {SMALL: (1e-3, (4001, 4200)), LARGE: (1e-1, (2001, 2200))}
"""Figure 9 on the Chebyshev network: rates and the 200 steps that are looked at."""
ON_CIFAR = (401, 600)
"""On 5,000 images: the first crossings, while the loss still falls. The paper does not name its 200 steps."""


def _four_small() -> list[Case]:
    return [Case(f"lr {lr:g}", chebyshev_run(adam(lr, beta2=BETA2), measure=RAW), "Adam") for lr in RATES]


def _four(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"lr {lr:g}", cifar_run(adam(lr, beta2=BETA2), num_steps, num_examples, 50, measure=COARSELY), "Adam")
        for lr in RATES_ON_CIFAR
    ]


def _closely(window: tuple[int, int]) -> dict[str, Any]:
    """Every step of a window, without audits in it; the four largest eigenvalues."""
    return {**RAW, "window": list(window), "num_eigenvalues": 4, "audit_every": 0}


def _zoomed_small() -> list[Case]:
    return [
        Case(name, chebyshev_run(adam(lr, beta2=BETA2), window[1], measure={**_closely(window), "rtol": 1e-4}), name)
        for name, (lr, window) in WINDOW.items()
    ]


def _zoomed(num_examples: int | None, window: tuple[int, int]) -> list[Case]:
    return [
        Case(name, cifar_run(adam(lr, beta2=BETA2), window[1], num_examples, 100, measure=_closely(window)), name)
        for name, lr in ((SMALL, RATES_ON_CIFAR[0]), (LARGE, RATES_ON_CIFAR[-1]))
    ]


ZOOMED: Grids = (
    ("small", _zoomed_small),
    ("cpu", lambda: _zoomed(5000, ON_CIFAR)),
    ("paper", lambda: _zoomed(None, (1001, 1200))),
)
"""Figure 9's two rates."""
DIGITS = "digits"


def _spiking_small() -> list[Case]:
    """Figure 9's run at its small rate, and the paper's network on digits at its first crossings.

    Later more eigenvalues than the four that are found lie at the edge there.
    """
    closely = {**_closely((401, 600)), "sharpness": False}
    return [_zoomed_small()[0], Case(DIGITS, digits_run(adam(1e-4, beta2=BETA2), 600, measure=closely), DIGITS)]


SPIKING: Grids = (
    ("small", _spiking_small),
    ("cpu", lambda: _zoomed(5000, ON_CIFAR)[:1]),
    ("paper", lambda: _zoomed(None, (1001, 1200))[:1]),
)


def window_of(record: RunRecord) -> tuple[float, float]:
    """The steps of a run that were measured one by one."""
    first, last = record.config["measure"]["window"]
    return first, last


FIG8 = Study(
    name="fig8",
    title="At the adaptive edge raw sharpness keeps rising",
    figure="Figure 8",
    version=1,
    grids=(
        ("small", _four_small),
        ("cpu", lambda: _four(5000, 1000)),
        ("paper", lambda: _four(None, 2000)),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("sharpness")),
    checks=(
        AtItsEdge("preconditioned sharpness is flat at the threshold", AT_THE_EDGE),
        RawGrowth("raw sharpness keeps rising", (1.5, math.inf), only_smallest=True),
    ),
)
FIG9 = Study(
    name="fig9",
    title="Two hundred steps at the edge, one by one",
    figure="Figure 9",
    version=1,
    grids=ZOOMED,
    panels=tuple(
        OverSteps(column, window=window_of, marks_crossings=True)
        for column in ("loss", "ratio", "sharpness", "grad_norm", "second_moment_norm")
    ),
    checks=(
        OrderOfEvents(SMALL),
        SharpnessOverACycle("raw sharpness does not fall as the ratio does", SMALL, falls=False),
        SharpnessOverACycle("raw sharpness falls too", LARGE, falls=True),
    ),
)
FIG18 = Study(
    name="fig18",
    title="The spikes of the gradient live in the top eigenvectors",
    figure="Figure 18",
    version=1,
    grids=SPIKING,
    panels=(OverSteps("loss", window=window_of), TopEigenvalues(4, window_of), GradientSplit(window_of)),
    checks=(SpikesInTheTop("the spikes of |P^-1/2 g|^2 are in the top four eigenvectors", 0.9),),
)
SHARPENING = (FIG8, FIG9, FIG18)
