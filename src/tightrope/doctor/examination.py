"""Examination: what was found out about measuring a model, and the words for it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tightrope.stability import Measurement

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
        basis_bytes: The eigensolver's basis, at most.
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
    basis_bytes: float = math.nan
    max_bytes: float = math.inf
    max_basis: int = 0
    cadence: tuple[tuple[float, int], ...] = ()
    part: Part | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


def steps_between(c: float, s: float, b: float) -> int:
    """Every how many steps of s seconds a measurement of c seconds takes at most the share b of the whole time.

    Example:
        >>> steps_between(c=1.0, s=0.1, b=0.5)
        10
    """
    return max(1, math.ceil(c * (1 - b) / (b * s) - 1e-9))


def size_words(num_bytes: float) -> str:
    """Bytes as people say them.

    Example:
        >>> size_words(12_345_678), size_words(512)
        ('12.3 MB', '512 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def plural(amount: int, noun: str) -> str:
    """An amount with its noun."""
    return noun if amount == 1 else f"{amount:,} {noun}s"


def by(route: str) -> str:
    """A route, after the word "by"."""
    kind = next((kind for kind in ("central difference", "rebuilt graph") if route.startswith(kind)), None)
    return "the kept graph" if kind is None else f"{kind}s"
