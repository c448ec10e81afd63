"""Figures 1 and 5: adaptive methods train at their own edge of stability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tightrope.training import RunConfig

from ..check import AtItsEdge, MostAtTheirEdge
from ..panels import OverSteps
from ..study import Case, Study
from .networks import adam, chebyshev_run, cifar_run, digits_run, logspace

AT_THE_EDGE = (0.9, 1.1)
RATES = (3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2)
"""Five rates, evenly spaced on a logarithmic axis, chosen on seed 1."""
RATES_ON_DIGITS = (1e-4, 1.41e-4, 2e-4, 2.83e-4, 4e-4)
RATES_ON_CIFAR = logspace(3e-5, 1e-3, 5)
"""Those of Figure 5's Adam; the paper does not name Figure 1(a)'s."""
SMALLEST = (f"lr {RATES[0]:g}", f"digits, lr {RATES_ON_DIGITS[0]:g}", f"lr {RATES_ON_CIFAR[0]:g}")
"""The smallest rate may end short of its edge (Appendix D)."""
TWO_PANELS = (OverSteps("loss"), OverSteps("preconditioned_sharpness"))
PANELS = (*TWO_PANELS, OverSteps("ratio"))

Eight = tuple[tuple[str, dict[str, Any], Sequence[float]], ...]

EIGHT: Eight = (
    ("Adam, bias corrected", {"name": "adam", "eps": 1e-7}, RATES),
    ("AdamW", {"name": "adamw", "eps": 1e-7, "weight_decay": 0.1}, RATES),
    ("Adafactor", {"name": "adafactor"}, RATES),
    ("AMSGrad", {"name": "amsgrad", "eps": 1e-7}, RATES),
    ("Padam", {"name": "padam", "eps": 1e-7}, (3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1)),
    ("Nadam", {"name": "nadam", "eps": 1e-7}, RATES),
    ("RMSProp", {"name": "rmsprop", "eps": 1e-7, "beta2": 0.995}, (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2)),
    ("AdaGrad", {"name": "adagrad", "eps": 1e-7}, (1e-2, 3.16e-2, 1e-1, 3.16e-1, 1.0)),
)
"""Figure 5: label, method (Appendix G.2) and five rates for the Chebyshev network."""
RATES_OF_THE_PAPER: dict[str, tuple[float, ...]] = {
    "Adam, bias corrected": RATES_ON_CIFAR,
    "AdamW": RATES_ON_CIFAR,
    "Adafactor": logspace(1e-5, 1e-3, 5),
    "AMSGrad": logspace(1e-5, 1e-3, 5),
    "Padam": logspace(1e-3, 1e-1, 5),
    "Nadam": logspace(1e-5, 1e-3, 5),
    "RMSProp": logspace(1e-4, 1e-3, 5),
    "AdaGrad": logspace(1e-2, 1e-1, 5),
}
"""Figure 5's own rates (Appendix G.2)."""
SLOW = {"AMSGrad": 16000}
"""Its P never falls, so its ratio comes back to the edge through curvature alone, over thousands of steps."""


def _rates_small() -> list[Case]:
    on_points = [Case(f"lr {lr:g}", chebyshev_run(adam(lr)), "Chebyshev") for lr in RATES]
    return on_points + [Case(f"digits, lr {lr:g}", digits_run(adam(lr), 3000), "digits") for lr in RATES_ON_DIGITS]


def _rates(num_examples: int | None, num_steps: int, of_the_smallest: int) -> list[Case]:
    """The smallest rate takes more steps to its edge."""
    steps = {lr: of_the_smallest if lr == RATES_ON_CIFAR[0] else num_steps for lr in RATES_ON_CIFAR}
    return [Case(f"lr {lr:g}", cifar_run(adam(lr), steps[lr], num_examples), "CIFAR-10") for lr in RATES_ON_CIFAR]


def _beta1s(runs: Iterable[tuple[float, RunConfig]]) -> list[Case]:
    return [Case(f"beta1 {beta1:g}", config, "Adam") for beta1, config in runs]


BETA1S = (0.0, 0.5, 0.9, 0.95)


def _beta1s_small() -> list[Case]:
    return _beta1s((beta1, chebyshev_run(adam(1e-3, beta1=beta1))) for beta1 in BETA1S)


def _beta1s_on_cifar(num_examples: int | None, num_steps: int, of_the_largest: int) -> list[Case]:
    """The largest beta1, which has the highest threshold, takes more steps to it."""
    steps = {beta1: of_the_largest if beta1 == BETA1S[-1] else num_steps for beta1 in BETA1S}
    return _beta1s((beta1, cifar_run(adam(1e-4, beta1=beta1), steps[beta1], num_examples)) for beta1 in BETA1S)


BETA2S = (0.9, 0.99, 0.999)


def _beta2s_small() -> list[Case]:
    return [
        Case(f"beta2 {beta2:g}, lr {lr:g}", chebyshev_run(adam(lr, beta2=beta2)), "Adam")
        for beta2 in BETA2S
        for lr in (1e-3, 1e-2)
    ]


def _beta2s_on_cifar(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"beta2 {beta2:g}, lr {lr:g}", cifar_run(adam(lr, beta2=beta2), num_steps, num_examples), "Adam")
        for beta2 in BETA2S
        for lr in (5e-5, 4e-4)
    ]


def _eight_small() -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", chebyshev_run({**method, "lr": lr}, SLOW.get(label, 8000)), label)
        for label, method, rates in EIGHT
        for lr in rates
    ]


def _eight_on_cifar(num_examples: int | None, num_steps: int) -> list[Case]:
    return [
        Case(f"{label}, lr {lr:g}", cifar_run({**method, "lr": lr}, num_steps, num_examples), label)
        for label, method, _ in EIGHT
        for lr in RATES_OF_THE_PAPER[label]
    ]


FIG1A = Study(
    name="fig1a",
    title="Adam at five learning rates trains at its edge",
    figure="Figure 1(a)",
    version=2,
    grids=(
        ("small", _rates_small),
        ("cpu", lambda: _rates(5000, 700, 1000)),
        ("paper", lambda: _rates(None, 2000, 4000)),
    ),
    panels=PANELS,
    checks=(AtItsEdge("ratio equilibrates at 1", AT_THE_EDGE, may_fall_short=SMALLEST),),
)
FIG1B = Study(
    name="fig1b",
    title="The threshold moves with beta1, and Adam with it",
    figure="Figure 1(b)",
    version=2,
    grids=(
        ("small", _beta1s_small),
        ("cpu", lambda: _beta1s_on_cifar(5000, 700, 1000)),
        ("paper", lambda: _beta1s_on_cifar(None, 2000, 4000)),
    ),
    panels=PANELS,
    checks=(AtItsEdge("ratio to beta1's own threshold equilibrates at 1", AT_THE_EDGE),),
)
FIG1C = Study(
    name="fig1c",
    title="The threshold does not move with beta2",
    figure="Figure 1(c)",
    version=2,
    grids=(
        ("small", _beta2s_small),
        ("cpu", lambda: _beta2s_on_cifar(1000, 800)),
        ("paper", lambda: _beta2s_on_cifar(None, 2000)),
    ),
    panels=PANELS,
    checks=(AtItsEdge("ratio to one threshold for all equilibrates near 1", (0.85, 1.1)),),
)
FIG5 = Study(
    name="fig5",
    title="Eight adaptive methods at five learning rates, each at its own edge",
    figure="Figure 5",
    version=2,
    grids=(
        ("small", _eight_small),
        ("cpu", lambda: _eight_on_cifar(2000, 900)),
        ("paper", lambda: _eight_on_cifar(None, 2000)),
    ),
    panels=TWO_PANELS,
    checks=(MostAtTheirEdge("at its own threshold", (0.85, 1.15), at_least=4),),
)
ADAPTIVE = (FIG1A, FIG1B, FIG1C, FIG5)
