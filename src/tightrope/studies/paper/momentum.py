"""Figure 13: how gradient descent sits at its edge depends on its momentum."""

from __future__ import annotations

from ..check import AboveMoreOften
from ..panels import OverSteps
from ..study import Case, Study
from .networks import chebyshev_run, cifar_run, logspace

THREE = (
    ("Gradient descent", "gd", (0.2, 0.3, 0.45, 0.67, 1.0), logspace(0.02, 0.2, 5)),
    ("Heavy ball", "heavyball", (0.05, 0.066, 0.087, 0.114, 0.15), logspace(0.002, 0.02, 5)),
    ("Nesterov", "nesterov", (0.0316, 0.0422, 0.0562, 0.075, 0.1), logspace(0.002, 0.02, 5)),
)
"""Label, method with beta1 = 0.9 in standard form, five rates for the Chebyshev network, and the paper's five."""


def _three_small() -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", chebyshev_run({"name": method, "lr": lr}), label)
        for label, method, rates, _ in THREE
        for lr in rates
    ]


def _three(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", cifar_run({"name": method, "lr": lr}, num_steps, num_examples), label)
        for label, method, _, rates in THREE
        for lr in rates
    ]


FIG13 = Study(
    name="fig13",
    title="Gradient descent and Nesterov are above their edge more often than heavy ball",
    figure="Figure 13",
    version=2,
    grids=(
        ("small", _three_small),
        ("cpu", lambda: _three(1000, 800)),
        ("paper", lambda: _three(None, 3000)),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    checks=tuple(
        AboveMoreOften(f"{name} is above its edge more often than heavy ball", name, "Heavy ball")
        for name in ("Gradient descent", "Nesterov")
    ),
)
