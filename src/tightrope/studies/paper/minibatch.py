"""Figure 6: minibatch Adam stays below its full-batch edge, the more so the smaller the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tightrope.training import RunConfig

from ..minibatches import MidTraining, NeverFarBeyond
from ..panels import OverSteps
from ..study import Case, Study
from .networks import adam, cifar_run, digits_run, run_on

SEEDS = (0, 1, 2)
RATES = (1e-4, 4e-4, 1.6e-3)


NO_AUDITS = {"audit_every": 0}
"""One costs as much as a hundred steps of a small batch."""


def _small(lr: float, batch_size: int, seed: int) -> RunConfig:
    settings = {"batch_size": batch_size, "seed": seed, "measure": NO_AUDITS}
    return digits_run(adam(lr), 2000, every=125, num_examples=1000, **settings)


def _cpu(lr: float, batch_size: int, seed: int) -> RunConfig:
    return cifar_run(adam(lr), 2000, 2000, every=100, batch_size=batch_size, seed=seed, measure=NO_AUDITS)


def _paper(lr: float, batch_size: int, seed: int) -> RunConfig:
    """ResNet-50 on ImageNet: a configuration that has not been run."""
    measure = {"num_examples": 1024}
    return run_on({"name": "imagenet"}, adam(lr), 20_000, 500, batch_size=batch_size, seed=seed, measure=measure)


def _grid(make: Callable[[float, int, int], RunConfig], sizes: Sequence[int]) -> list[Case]:
    return [
        Case(f"batch {size}, lr {lr:g}, seed {seed}", make(lr, size, seed), f"batch {size}")
        for size in sizes
        for lr in RATES
        for seed in SEEDS
    ]


FIG6 = Study(
    name="fig6",
    title="Minibatch Adam stays below its full-batch edge, the more so the smaller the batch",
    figure="Figure 6",
    version=1,
    grids=(
        ("small", lambda: _grid(_small, (20, 100, 500))),
        ("cpu", lambda: _grid(_cpu, (50, 200, 1000))),
        ("paper", lambda: _grid(_paper, (256, 1024, 4096))),
    ),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    checks=(
        MidTraining("the ratio is lower for a smaller batch", "ratio", "batch_size", "lr", rises=True),
        MidTraining(
            "preconditioned sharpness is lower for a larger rate",
            "preconditioned_sharpness",
            "lr",
            "batch_size",
            rises=False,
        ),
        NeverFarBeyond("the ratio is never more than a bit beyond 1", after=50, below=1.3),
    ),
)
