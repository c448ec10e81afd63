"""Examination: what was found out about measuring a model, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tightrope.stability import MOST_COLUMNS, Measurement

DIVERGED = 100
"""A loss that has grown this many times over, a few steps later, is not one that training brings down."""
BUDGETS = (0.01, 0.03, 0.10)
AUDIT_EVERY = 50
RARE = 1000
"""A measurement in so many steps misses what happens between them: look at one layer instead."""


@dataclass(frozen=True)
class Part:
    """What measuring the last layer alone takes, and what it gives: a lower bound of the whole's ratio.

    Attributes:
        name: Of the layer.
        num_parameters: It has.
        ratio: Measured there.
        cold_seconds, warm_seconds: Of a first measurement and of a later one.
    """

    name: str
    num_parameters: int
    ratio: float
    cold_seconds: float
    warm_seconds: float


@dataclass(frozen=True)
class Examination:
    """Whether a model can be measured, and what it costs on this machine; NaN where it was not found out.

    Attributes:
        is_measurable: The ratio of the whole can be had.
        words: The finding, in a sentence or two.
        device, dtypes: Where and in what type its parameters are.
        num_parameters: Of the model.
        num_frozen: Of these, how many require no gradient.
        num_measured: How many the optimizer moves, p.
        optimizer: Its class.
        optimizer_status: Of `freeze` once it has stepped, or before where it could not: "linear", "not_stepped" or
            "no_threshold".
        threshold: All groups share, in 1 / lr; None where they differ or there is none.
        groups: Learning rate, threshold and size of each group.
        loss: Before any step.
        last_loss: After the last of them.
        route: How products are computed.
        check: What was found when that route was first tried.
        manner: How the model is run for a measurement where that differs from training, in words.
        num_steps: Real steps taken.
        measurement: The first one.
        step_seconds: Of a training step, the median.
        cold_seconds, cold_products: Of a first measurement, an audit from a random start.
        warm_seconds, warm_products: Of a later one, the mean.
        step_bytes: Weights, gradients, optimizer state and what a training step saves for its backward pass.
        graph_bytes: What the graph of a product holds at most.
        check_bytes: What the first use of the model holds at most, in its float64 check; given back after it.
        vector_bytes: The eigensolver's basis and every other vector that a measurement holds, up to about.
        max_bytes: Memory a measurement was allowed.
        max_basis: Vectors, with their products, that the eigensolver has room for.
        cadence: Budgets, shares of the whole time, and every how many steps each affords, audits included.
        part: The last layer alone, where the whole is too large or too dear.
    """

    is_measurable: bool
    words: str
    device: str = ""
    dtypes: tuple[str, ...] = ()
    num_parameters: int = 0
    num_frozen: int = 0
    num_measured: int = 0
    optimizer: str = ""
    optimizer_status: str = ""
    threshold: float | None = None
    groups: tuple[tuple[float, float, int], ...] = ()
    loss: float = math.nan
    last_loss: float = math.nan
    route: str = ""
    check: str = ""
    manner: tuple[str, ...] = ()
    num_steps: int = 0
    measurement: Measurement | None = None
    step_seconds: float = math.nan
    cold_seconds: float = math.nan
    cold_products: int = 0
    warm_seconds: float = math.nan
    warm_products: float = math.nan
    step_bytes: float = math.nan
    graph_bytes: float = math.nan
    check_bytes: float = math.nan
    vector_bytes: float = math.nan
    max_bytes: float = math.inf
    max_basis: int = 0
    cadence: tuple[tuple[float, int], ...] = ()
    part: Part | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


def cadence(facts: Mapping[str, Any], budget: float) -> tuple[tuple[float, int], ...]:
    """The usual budgets and this one, and every how many steps each affords, every 50th measurement an audit."""
    mean = ((AUDIT_EVERY - 1) * facts["warm_seconds"] + facts["cold_seconds"]) / AUDIT_EVERY
    return tuple((share, steps_between(mean, facts["step_seconds"], share)) for share in sorted({*BUDGETS, budget}))


def steps_between(c: float, s: float, b: float) -> int:
    """Every how many steps of s seconds a measurement of c seconds takes at most the share b of the whole time.

    Example:
        >>> steps_between(c=1.0, s=0.1, b=0.5)
        10
    """
    return max(1, math.ceil(c * (1 - b) / (b * s) - 1e-9))


def counted(amount: int, noun: str) -> str:
    """An amount with its noun.

    Example:
        >>> counted(1, "parameter"), counted(1290, "parameter")
        ('1 parameter', '1,290 parameters')
    """
    return f"{amount:,} {noun}" + "s" * (amount != 1)


def plural(amount: int, noun: str) -> str:
    """An amount with its noun after "every": of one, the noun alone."""
    return noun if amount == 1 else counted(amount, noun)


def finding(facts: Mapping[str, Any], budget: float) -> str:
    """What was found out about a model that can be measured, in words.

    Args:
        facts: By the names of `Examination`.
        budget: Share of the whole time, one of those in the cadence.
    """
    every = dict(facts["cadence"])[budget]
    words = f"Yes: it can be measured, by {by(facts['route'])}"
    words += f"; every {plural(every, 'step')} for {100 * budget:.3g} % of the time."
    if every > RARE:
        words += " That is rare."
    before, after = facts["loss"], facts["last_loss"]
    if after > DIVERGED * before > 0:
        words += (
            f" But training diverges: {counted(facts['num_steps'], 'step')} took the loss from {before:.3g} to "
            f"{after:.3g}. The ratio is that of where it went; lower the learning rate."
        )
    if facts["max_basis"] < MOST_COLUMNS:
        words += (
            f" Within max_bytes={facts['max_bytes']:.3g} the eigensolver has room for {facts['max_basis']} vectors "
            "only, so the upper bound of an audit stays loose; more memory tightens it."
        )
    return words


def by(route: str) -> str:
    """A route, after the word "by"."""
    kind = next((kind for kind in ("central difference", "rebuilt graph") if route.startswith(kind)), None)
    return "the kept graph" if kind is None else f"{kind}s"
