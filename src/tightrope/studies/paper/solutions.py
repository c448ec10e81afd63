"""Figures 10, 11 and 19: what Adam finds, by its rate, its beta2 and its speed: how sharp it is, how it generalises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tightrope.training import RunConfig

from ..endings import AtTheEnd
from ..solutions import FallsWith, Quantity, SharperAtEqualSteps
from ..study import Case, Grids, Study
from .networks import Table, adam, cifar_run, digits_run, logspace

FULL, LARGE = "full batch", "large batch"
SHARP, ERROR = 0.1, 0.05
"""Training losses at which sharpness and test error are taken."""
RATES = logspace(1e-4, 3e-3, 5)
BETA2S = (0.9, 0.97, 0.99, 0.997, 0.999)
RATE, BETA2 = 1e-3, 0.999
"""Held while the other one varies; the paper holds 1e-4 and 0.999."""
RATES_OF_THE_PAPER, RATE_OF_THE_PAPER = logspace(3e-5, 1e-3, 5), 1e-4
SEEDS = (0, 1, 2)

Make = Callable[[Table, str, int], RunConfig]


SIZES = {"small": 150, "cpu": 500, "paper": 4096}
"""Examples of a large batch."""


def _settings(batch: str, batch_size: int, seed: int) -> dict[str, Any]:
    """One run serves both figures: its sharpness is taken on the way, at the first step at that loss."""
    measure = {"every": 0, "at_loss": SHARP, "sharpness": True, "audit_every": 0}
    size = {"batch_size": batch_size} if batch == LARGE else {}
    return {"measure": measure, "stop": {"loss": ERROR}, "seed": seed, **size}


def _small(method: Table, batch: str, seed: int) -> RunConfig:
    problem = {"model": "wrn", "loss": "cross_entropy", "num_test_examples": 1000}
    return digits_run(method, 6000, problem=problem, **_settings(batch, SIZES["small"], seed))


def _cpu(method: Table, batch: str, seed: int) -> RunConfig:
    wide = {"model": "wrn", "channels": [8, 16, 32], "blocks": 1}
    problem = {**wide, "loss": "cross_entropy", "num_test_examples": 2000}
    return cifar_run(method, 6000, 1000, problem=problem, **_settings(batch, SIZES["cpu"], seed))


def _paper(method: Table, batch: str, seed: int) -> RunConfig:
    problem = {"name": "cifar100", "model": "wrn_bn", "loss": "cross_entropy", "num_test_examples": 10_000}
    return cifar_run(method, 100_000, None, problem=problem, **_settings(batch, SIZES["paper"], seed))


def _sweeps(make: Make, rates: Sequence[float], rate: float) -> list[Case]:
    """Learning rates at one beta2, then values of beta2 at one rate, each in full and in large batch."""
    swept = [(f"lr, {batch}", batch, [(lr, BETA2) for lr in rates]) for batch in (FULL, LARGE)]
    swept += [(f"beta2, {batch}", batch, [(rate, beta2) for beta2 in BETA2S]) for batch in (FULL, LARGE)]
    return [
        Case(f"{series}: lr {lr:g}, beta2 {beta2:g}, seed {seed}", make(adam(lr, beta2=beta2), batch, seed), series)
        for series, batch, pairs in swept
        for lr, beta2 in pairs
        for seed in SEEDS
    ]


SWEEPS: Grids = (
    ("small", lambda: _sweeps(_small, RATES, RATE)),
    ("cpu", lambda: _sweeps(_cpu, RATES, RATE)),
    ("paper", lambda: _sweeps(_paper, RATES_OF_THE_PAPER, RATE_OF_THE_PAPER)),
)
"""Runs that figures 10 and 19 share."""
HELD = (
    f"On the left beta2 is {BETA2:g}, on the right the rate is {RATE:g} ({RATE_OF_THE_PAPER:g} at scale paper). "
    f"A large batch has {SIZES['small']} examples at scale small, {SIZES['cpu']} at cpu, {SIZES['paper']} at paper."
)
"""What varies in neither half of them."""
BY_RATE, BY_BETA2 = (tuple(f"{by}, {batch}" for batch in (FULL, LARGE)) for by in ("lr", "beta2"))


def _panels(number: str) -> tuple[AtTheEnd, ...]:
    is_log = number == "sharpness"
    return AtTheEnd(number, "lr", BY_RATE, is_log), AtTheEnd(number, "beta2", BY_BETA2, is_log)


def _falls(claim: str, quantity: Quantity, at_most: float) -> tuple[FallsWith, ...]:
    by = (("lr", "learning rate", BY_RATE), ("beta2", "beta2", BY_BETA2))
    return tuple(
        FallsWith(f"a smaller {words} {claim}", quantity, name, at_most, series)
        for name, words, both in by
        for series in both
    )


Speeds = dict[tuple[str, str], tuple[float, ...]]
ADAM, HEAVY_BALL = "Adam", "Heavy ball"
WIDE, PLAIN = "Wide ResNet", "fully-connected"


def _speeds(make: Callable[[str, Table], RunConfig], rates: Speeds) -> list[Case]:
    return [
        Case(f"{model}: {method}, lr {lr:g}", make(model, table(lr)), f"{model}: {method}")
        for model in (WIDE, PLAIN)
        for method, table in ((ADAM, adam), (HEAVY_BALL, _heavy_ball))
        for lr in rates[model, method]
    ]


def _heavy_ball(lr: float) -> Table:
    return {"name": "heavyball", "lr": lr, "beta1": 0.9}


RATES_FOR_SPEED: Speeds = {
    (WIDE, ADAM): (1e-4, 3e-4, 1e-3, 3e-3),
    (WIDE, HEAVY_BALL): (1e-2, 3e-2, 6e-2, 1e-1),
    (PLAIN, ADAM): (1e-4, 1.5e-4, 2e-4, 3e-4),
    (PLAIN, HEAVY_BALL): (0.035, 0.04, 0.05, 0.06),
}
"""Chosen on seed 1, so that both methods cover speeds in common and come to their edge; the paper names none."""
RATES_FOR_SPEED_ON_CIFAR: Speeds = {
    (WIDE, ADAM): (3e-5, 1e-4, 3e-4, 1e-3),
    (WIDE, HEAVY_BALL): (3e-3, 1e-2, 3e-2, 1e-1),
    (PLAIN, ADAM): RATES_OF_THE_PAPER,
    (PLAIN, HEAVY_BALL): logspace(2e-3, 2e-2, 5),
}
END_SMALL = {WIDE: (300, 0.03), PLAIN: (1000, 0.01)}
"""Examples, and the loss (mean squared error) at which solutions are compared."""
AT_END: dict[str, Any] = {"every": 0, "at_end": True, "sharpness": True, "audit_every": 0}


def _speed_small(model: str, method: Table) -> RunConfig:
    problem = {"model": {WIDE: "wrn", PLAIN: "fc"}[model]}
    num_examples, loss = END_SMALL[model]
    return digits_run(method, 10_000, 50, num_examples, problem=problem, measure=AT_END, stop={"loss": loss})


def _speed_cpu(model: str, method: Table) -> RunConfig:
    problem = {"model": "wrn", "channels": [8, 16, 32], "blocks": 1} if model == WIDE else {"model": "fc"}
    return cifar_run(method, 10_000, 1000, problem=problem, measure=AT_END, stop={"loss": 0.03})


def _speed_paper(model: str, method: Table) -> RunConfig:
    wide = {"name": "cifar100", "model": "wrn_bn", "loss": "cross_entropy"}
    problem = wide if model == WIDE else {"loss": "cross_entropy"}
    return cifar_run(method, 100_000, None, problem=problem, measure=AT_END, stop={"loss": SHARP})


FIG10 = Study(
    name="fig10",
    title="Adam finds sharper solutions when its rate or beta2 is small",
    figure="Figure 10",
    version=1,
    grids=SWEEPS,
    panels=_panels("sharpness"),
    caption=f"Raw sharpness at the first step whose training loss is at most {SHARP:g}. {HELD}",
    checks=_falls("is sharper", "sharpness", -0.8),
)
FIG11 = Study(
    name="fig11",
    title="At equal speed Adam finds sharper solutions than heavy ball",
    figure="Figure 11",
    version=1,
    grids=(
        ("small", lambda: _speeds(_speed_small, RATES_FOR_SPEED)),
        ("cpu", lambda: _speeds(_speed_cpu, RATES_FOR_SPEED_ON_CIFAR)),
        ("paper", lambda: _speeds(_speed_paper, RATES_FOR_SPEED_ON_CIFAR)),
    ),
    panels=tuple(
        AtTheEnd("sharpness", "steps", tuple(f"{model}: {method}" for method in (ADAM, HEAVY_BALL)))
        for model in (WIDE, PLAIN)
    ),
    caption="Raw sharpness where the run has come to its training loss, over the steps that took.",
    checks=tuple(
        SharperAtEqualSteps(f"{model}: Adam is sharper at equal steps", f"{model}: {ADAM}", f"{model}: {HEAVY_BALL}")
        for model in (WIDE, PLAIN)
    ),
)
FIG19 = Study(
    name="fig19",
    title="Adam generalises worse when its rate or beta2 is small",
    figure="Figure 19",
    version=1,
    grids=SWEEPS,
    panels=_panels("test_error"),
    caption=f"Test error at the first step whose training loss is at most {ERROR:g}. {HELD}",
    checks=_falls("generalises worse", "test error", -0.5),
)
SOLUTIONS = (FIG10, FIG11, FIG19)
