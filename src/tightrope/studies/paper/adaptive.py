"""Figures 1 and 5: adaptive methods train at their own edge of stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tightrope.training import RunConfig, from_mapping

from ..check import AtItsEdge, MostAtTheirEdge
from ..panels import OverSteps
from ..study import Case, Study

AT_THE_EDGE = (0.9, 1.1)
RATES = (3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2)
"""Five rates, evenly spaced on a logarithmic axis, chosen on seed 1."""
PAPERS_ADAM: dict[str, Any] = {"eps": 1e-7, "bias_correction": False}
TWO_PANELS = (OverSteps("loss"), OverSteps("preconditioned_sharpness"))
PANELS = (*TWO_PANELS, OverSteps("ratio"))

EIGHT: tuple[tuple[str, str, dict[str, Any], Sequence[float]], ...] = (
    ("Adam, bias corrected", "adam", {"eps": 1e-7}, RATES),
    ("AdamW", "adamw", {"eps": 1e-7, "weight_decay": 0.1}, RATES),
    ("Adafactor", "adafactor", {}, RATES),
    # Its P never falls, so its ratio comes back to the edge through curvature alone, over thousands of steps.
    ("AMSGrad", "amsgrad", {"eps": 1e-7, "num_steps": 16000}, RATES),
    ("Padam", "padam", {"eps": 1e-7}, (3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1)),
    ("Nadam", "nadam", {"eps": 1e-7}, RATES),
    ("RMSProp", "rmsprop", {"eps": 1e-7, "beta2": 0.995}, (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2)),
    ("AdaGrad", "adagrad", {"eps": 1e-7}, (1e-2, 3.16e-2, 1e-1, 3.16e-1, 1.0)),
)
"""Figure 5: label, method, what is set besides the rate (Appendix G.2), and five rates for the Chebyshev network."""


def chebyshev_run(method: str, lr: float, num_steps: int = 8000, **options: Any) -> RunConfig:
    """The smallest network that shows it: 20 points, 300 parameters, full batch, every 100th step measured."""
    return from_mapping(
        {
            "problem": {"name": "chebyshev"},
            "method": {"name": method, "lr": lr, **options},
            "num_steps": num_steps,
            "dtype": "float64",
            "measure": {"every": 100, "sharpness": False},
        }
    )


def _adam(lr: float, beta1: float = 0.9, beta2: float = 0.999) -> RunConfig:
    return chebyshev_run("adam", lr, beta1=beta1, beta2=beta2, **PAPERS_ADAM)


def _rates() -> list[Case]:
    return [Case(f"lr {lr:g}", _adam(lr), "Adam") for lr in RATES]


def _beta1s() -> list[Case]:
    return [Case(f"beta1 {beta1:g}", _adam(1e-3, beta1=beta1), "Adam") for beta1 in (0.0, 0.5, 0.9, 0.95)]


def _beta2s() -> list[Case]:
    pairs = [(beta2, lr) for beta2 in (0.9, 0.99, 0.999) for lr in (1e-3, 1e-2)]
    return [Case(f"beta2 {beta2:g}, lr {lr:g}", _adam(lr, beta2=beta2), "Adam") for beta2, lr in pairs]


def _eight() -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", chebyshev_run(method, lr, **options), label)
        for label, method, options, rates in EIGHT
        for lr in rates
    ]


FIG1A = Study(
    name="fig1a",
    title="Adam at five learning rates trains at its edge",
    figure="Figure 1(a)",
    version=1,
    grids=(("small", _rates),),
    panels=PANELS,
    checks=(AtItsEdge("ratio equilibrates at 1", AT_THE_EDGE, may_fall_short=f"lr {RATES[0]:g}"),),
)
FIG1B = Study(
    name="fig1b",
    title="The threshold moves with beta1, and Adam with it",
    figure="Figure 1(b)",
    version=1,
    grids=(("small", _beta1s),),
    panels=PANELS,
    checks=(AtItsEdge("ratio to beta1's own threshold equilibrates at 1", AT_THE_EDGE),),
)
FIG1C = Study(
    name="fig1c",
    title="The threshold does not move with beta2",
    figure="Figure 1(c)",
    version=1,
    grids=(("small", _beta2s),),
    panels=PANELS,
    checks=(AtItsEdge("ratio to one threshold for all equilibrates near 1", (0.85, 1.1)),),
)
FIG5 = Study(
    name="fig5",
    title="Eight adaptive methods at five learning rates, each at its own edge",
    figure="Figure 5",
    version=1,
    grids=(("small", _eight),),
    panels=TWO_PANELS,
    checks=(MostAtTheirEdge("at its own threshold", (0.85, 1.15), at_least=4),),
)
ADAPTIVE = (FIG1A, FIG1B, FIG1C, FIG5)
