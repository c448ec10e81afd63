"""Online learning with linear losses on [-1, 1]: where Adam's average regret stays up and AMSGrad's falls.

Legend: x = point played, g = slope of the round's loss, nu = second moment, t = number of the round (1, 2, ...).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightrope.errors import ShapeError, check_number


@dataclass(frozen=True)
class OnlineRun:
    """What was played, and what it cost.

    Attributes:
        points: (num_rounds,) the point played in each round, before its loss was seen.
        last: The point after the last round.
        losses: (num_rounds,) slope times point.
        best: The fixed point that would have cost the least, -1 or 1.
        average_regret: (num_rounds,) mean loss so far over that of the best fixed point of the rounds so far.
    """

    points: np.ndarray
    last: float
    losses: np.ndarray
    best: float
    average_regret: np.ndarray


def reddi_slopes(C: float, num_rounds: int) -> np.ndarray:
    """(num_rounds,) slopes C, -1, -1, C, -1, -1, ...: for C > 2 the best fixed point is -1.

    Args:
        C: Slope of every third loss, above 2.
        num_rounds: At least 1.
    Raises:
        ConfigError: an argument is out of its range.
    Source:
        Reddi, Kale and Kumar 2018 (arXiv 1904.09237), Theorem 1.
    """
    check_number("reddi_slopes: C", C, lambda C: 2 < C < math.inf, "be finite and above 2")
    check_number(
        "reddi_slopes: num_rounds", num_rounds, lambda n: n >= 1 and n.is_integer(), "be a whole number from 1"
    )
    return np.where(np.arange(num_rounds) % 3 == 0, float(C), -1.0)


def play(
    slopes: Sequence[float] | np.ndarray,
    *,
    beta2: float,
    lr: float = 0.1,
    start: float = 1.0,
    running_max: bool = False,
) -> OnlineRun:
    """The points Adam without momentum plays against losses g_t x on [-1, 1], with step lr / sqrt(t).

    x <- clip(x - lr / sqrt(t) g / sqrt(nu)), nu <- beta2 nu + (1 - beta2) g^2, without bias correction. On
    `reddi_slopes(C, ...)` with beta2 = 1 / (1 + C^2), Adam stays at 1 and its average regret tends to (2 C - 4) / 3;
    AMSGrad goes to -1. With beta2 near 1 Adam does not fail here.

    Args:
        slopes: (num_rounds,) finite; while all have been 0 the point stays.
        beta2: In [0, 1).
        lr: Positive.
        start: The first point, in [-1, 1].
        running_max: Divide by the root of the largest nu so far (AMSGrad).
    Returns:
        OnlineRun.
    Raises:
        ConfigError, ShapeError: an argument is out of its range.
    Cost:
        One pass in Python: about a second for a million rounds.
    Source:
        Reddi, Kale and Kumar 2018 (arXiv 1904.09237), Theorem 1 and Algorithm 2.
    """
    g = np.asarray(slopes, dtype=np.float64)
    if g.ndim != 1 or len(g) == 0 or not np.isfinite(g).all():
        raise ShapeError(f"play: slopes must be a vector of at least one finite number; got shape {g.shape}.")
    check_number("play: beta2", beta2, lambda b: 0 <= b < 1, "be in [0, 1)")
    check_number("play: lr", lr, lambda lr: 0 < lr < math.inf, "be positive and finite")
    check_number("play: start", start, lambda x: -1 <= x <= 1, "be in [-1, 1]")
    points, x, nu, largest = np.empty(len(g)), float(start), 0.0, 0.0
    for t, slope in enumerate(g.tolist(), start=1):
        points[t - 1] = x
        nu = beta2 * nu + (1 - beta2) * (slope * slope)
        largest = max(largest, nu)
        P = math.sqrt(largest if running_max else nu)
        if P > 0:  # else the square of every slope so far is 0 in float64
            x = min(1.0, max(-1.0, x - lr / math.sqrt(t) * slope / P))
    losses, total = g * points, np.cumsum(g)
    rounds = np.arange(1, len(g) + 1)
    return OnlineRun(points, x, losses, -math.copysign(1.0, total[-1]), (np.cumsum(losses) + np.abs(total)) / rounds)
