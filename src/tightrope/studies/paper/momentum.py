"""Figure 13: how gradient descent sits at its edge depends on its momentum."""

from __future__ import annotations

from ..check import AboveMoreOften
from ..panels import OverSteps
from ..study import Case, Study
from .adaptive import chebyshev_run

THREE = (
    ("Gradient descent", "gd", (0.2, 0.3, 0.45, 0.67, 1.0)),
    ("Heavy ball", "heavyball", (0.05, 0.066, 0.087, 0.114, 0.15)),
    ("Nesterov", "nesterov", (0.0316, 0.0422, 0.0562, 0.075, 0.1)),
)
"""Label, method with beta1 = 0.9 in standard form, and five rates, evenly spaced on a logarithmic axis."""


def _three() -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", chebyshev_run(method, lr), label) for label, method, rates in THREE for lr in rates
    ]


FIG13 = Study(
    name="fig13",
    title="Gradient descent and Nesterov hover above the edge, heavy ball oscillates around it",
    figure="Figure 13",
    version=1,
    grids=(("small", _three),),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    checks=tuple(
        AboveMoreOften(f"{name} is above its edge more often than heavy ball", name, "Heavy ball")
        for name in ("Gradient descent", "Nesterov")
    ),
)
