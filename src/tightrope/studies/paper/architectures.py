"""Figure 4: the same edge for a convolutional network and Wide ResNets, without normalisation and with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tightrope.training import RunConfig

from ..check import AtItsEdge
from ..panels import OverSteps
from ..study import Case, Study
from .adaptive import AT_THE_EDGE
from .networks import adam, cifar_run, digits_run

CNN, PLAIN, NORMALISED = "CNN", "Wide ResNet, un-normalised", "Wide ResNet, BatchNorm"
MODELS = {CNN: "cnn", PLAIN: "wrn", NORMALISED: "wrn_bn"}
RATES = {CNN: (5e-4, 1e-3, 2e-3, 4e-3), PLAIN: (3e-4, 1e-3, 3e-3, 1e-2), NORMALISED: (4e-2, 8e-2, 1.6e-1)}
"""Chosen on seed 1."""
STEPS = {CNN: (3000, 60), PLAIN: (800, 50), NORMALISED: (2000, 75)}
"""How many, and between measurements."""
RATES_OF_THE_PAPER = (1e-5, 3e-5, 1e-4, 3e-4)
"""The paper does not name them; those of the figures that train the same networks lie between these."""
ENDS_OF_THE_PAPER: dict[str, dict[str, Any]] = {
    CNN: {"num_steps": 2000, "stop": {"loss": 0.05}},
    PLAIN: {"num_steps": 5000},
    NORMALISED: {"num_steps": 20000, "stop": {"loss": 0.05}},
}
"""Appendix G.2; only the last one leaves the number of steps open."""


def _small(name: str, lr: float) -> RunConfig:
    return digits_run(adam(lr), *STEPS[name], problem={"model": MODELS[name]})


def _cpu(name: str, lr: float) -> RunConfig:
    channels = {} if name == CNN else {"channels": [16, 32, 64], "blocks": 1}
    return cifar_run(adam(lr), 600, 200, problem={"model": MODELS[name], **channels})


def _paper(name: str, lr: float) -> RunConfig:
    problem = {"model": MODELS[name], "loss": "cross_entropy"}
    if name == NORMALISED:
        problem["name"] = "cifar100"
    return cifar_run(adam(lr), num_examples=None, problem=problem, **ENDS_OF_THE_PAPER[name])


def _grid(make: Any, rates: dict[str, Sequence[float]]) -> list[Case]:
    return [Case(f"{name}, lr {lr:g}", make(name, lr), name) for name in MODELS for lr in rates[name]]


FIG4 = Study(
    name="fig4",
    title="Other architectures train at the edge as well",
    figure="Figure 4",
    version=1,
    grids=(
        ("small", lambda: _grid(_small, dict(RATES))),
        ("cpu", lambda: _grid(_cpu, dict(RATES))),
        ("paper", lambda: _grid(_paper, dict.fromkeys(MODELS, RATES_OF_THE_PAPER))),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness")),
    checks=(
        AtItsEdge(
            "ratio equilibrates at 1",
            AT_THE_EDGE,
            may_fall_short=tuple(
                f"{name}, lr {rates[0]:g}" for name in MODELS for rates in (RATES[name], RATES_OF_THE_PAPER)
            ),
        ),
    ),
)
