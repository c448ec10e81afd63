"""Self-stabilisation: why sharpness that keeps rising hovers at 2 / lr instead of ending the run.

Legend: x = displacement along the top eigenvector, y = sharpness above 2 / lr.
"""

from __future__ import annotations

import math

import numpy as np

from tightrope.errors import check_number


def self_stabilization(
    x: float, y: float, *, lr: float, alpha: float, beta: float, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement x and excess sharpness y after 0, 1, ... steps, each (num_steps + 1,).

    x <- -(1 + lr y) x, then y <- y + lr (alpha - beta x^2 / 2) with the NEW x: the order matters, for with the old
    one the cycle spirals outwards. Sharpness rises by alpha, the oscillation it sets off pushes it back, and over
    many cycles the mean of x^2 is 2 alpha / beta. It ends early, with the last finite pair, if it overflows.

    Args:
        x, y: Where it starts; x = 0 would stay there.
        lr: Positive.
        alpha: Progressive sharpening per unit of time, positive.
        beta: Strength of the restoring force, positive.
        num_steps: At least 0.
    Raises:
        ConfigError: an argument is out of its range.
    Source:
        Damian, Nichani and Lee 2023 (arXiv 2209.15594), section 4.
    """
    check_number("self_stabilization: x", x, lambda x: x != 0 and math.isfinite(x), "be finite and not 0")
    check_number("self_stabilization: y", y, math.isfinite, "be finite")
    for name, value in (("lr", lr), ("alpha", alpha), ("beta", beta)):
        check_number(f"self_stabilization: {name}", value, lambda v: 0 < v < math.inf, "be positive and finite")
    check_number(
        "self_stabilization: num_steps", num_steps, lambda n: n >= 0 and n.is_integer(), "be a whole number from 0"
    )
    path = [(float(x), float(y))]
    for _ in range(num_steps):
        x, y = path[-1]
        x = -(1 + lr * y) * x
        y = y + lr * (alpha - beta * (x * x) / 2)
        if not (math.isfinite(x) and math.isfinite(y)):
            break
        path.append((x, y))
    xs, ys = np.array(path).T
    return xs, ys
