"""Figure 7: Adam's rate warms up and pushes the preconditioned sharpness of transformers down with its threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tightrope.training import RunConfig, from_mapping

from ..panels import OverSteps
from ..study import Case, Study
from ..warmup import LargerBatchHigher, PushedDown, ShortOnAverage, SpikesLate
from .networks import adam

BAND = (0.6, 1.2)
FALLS = 3.0
"""By so much the threshold falls from a run's first crossing to the end of its warmup, at least."""
LATE = 0.75
"""Share of the warmup after which Post-LN may fail, as in the paper; before it, it is held to the band."""
JUST_SHORT = BAND[0]
"""Where a run with the smaller batch, which is to stay short of its edge, counts as having come near it."""
UNTIL_LATE = f"up to {100 * LATE:.0f} % of the warmup "
SIZES = (80, 128)
PAPERS_SIZES = (1024, 10240)
NORMS = {"Pre-LN": "pre", "Post-LN": "post"}


def _small(norm: str, batch_size: int) -> RunConfig:
    """Sequences of 24 tokens out of 256 are not yet reversed when the warmup ends, as shorter ones are.

    All of them are measured: on a part of them the ratio comes out larger, on an eighth by half and more.
    """
    problem = {"name": "sequences", "norm": norm, "task": "reverse", "length": 24, "vocabulary": 256}
    measure = {"every": 50, "rtol": 0.03, "audit_every": 0}
    return _warmed_up({**problem, "num_examples": 512}, batch_size, 2e-2, 400, measure)


def _paper(norm: str, batch_size: int) -> RunConfig:
    """WMT English-German, its words split into pieces, a sentence a line; a configuration that was never run."""
    problem = {"name": "translation", "source": "train.en", "target": "train.de", "norm": norm}
    return _warmed_up(problem, batch_size, 1e-3, 40_000, {"every": 1000, "num_examples": 10_240})


def _warmed_up(
    problem: dict[str, Any], batch_size: int, lr: float, num_steps: int, measure: dict[str, Any]
) -> RunConfig:
    """A run as long as its warmup: what comes after it is not judged."""
    return from_mapping(
        {
            "problem": problem,
            "method": adam(lr),
            "schedule": {"name": "linear_warmup", "num_steps": num_steps},
            "num_steps": num_steps,
            "batch_size": batch_size,
            "measure": {"sharpness": False, **measure},
        }
    )


def _grid(make: Callable[[str, int], RunConfig], sizes: Sequence[int]) -> list[Case]:
    return [
        Case(_label(name, place), make(norm, size), name)
        for name, norm in NORMS.items()
        for place, size in enumerate(sizes)
    ]


def _label(name: str, place: int) -> str:
    return f"{name}, {('smaller', 'larger')[place]} batch"


SMALL, LARGE = ([_label(name, place) for name in NORMS] for place in (0, 1))

FIG7 = Study(
    name="fig7",
    title="A rate that warms up pushes the preconditioned sharpness of transformers down",
    figure="Figure 7",
    version=1,
    grids=(("small", lambda: _grid(_small, SIZES)), ("paper", lambda: _grid(_paper, PAPERS_SIZES))),
    panels=(OverSteps("loss"), OverSteps("preconditioned_sharpness"), OverSteps("ratio")),
    caption="The threshold, 38/lr, falls while the rate warms up. Batches of 80 and 128 sequences at scale small.",
    checks=(
        PushedDown("the ratio stays near 1 as the threshold falls", (LARGE[0],), BAND, FALLS),
        PushedDown(f"{UNTIL_LATE}the ratio stays near 1 as the threshold falls", (LARGE[1],), BAND, FALLS, share=LATE),
        PushedDown("the ratio is held as the threshold falls", (SMALL[0],), BAND, FALLS, reaches=JUST_SHORT),
        PushedDown(f"{UNTIL_LATE}the ratio is held as the threshold falls", (SMALL[1],), BAND, FALLS, JUST_SHORT, LATE),
        ShortOnAverage("the ratio stays short of 1", SMALL[0], JUST_SHORT),
        ShortOnAverage(f"{UNTIL_LATE}the ratio stays short of 1", SMALL[1], JUST_SHORT, LATE),
        LargerBatchHigher("its ratio is higher than with the smaller one", ((LARGE[0], SMALL[0]),)),
        LargerBatchHigher(f"{UNTIL_LATE}its ratio is higher than with the smaller one", ((LARGE[1], SMALL[1]),), LATE),
        SpikesLate("it spikes late in warmup", ((LARGE[1], LARGE[0]),), above=BAND[1], share=LATE),
    ),
)
