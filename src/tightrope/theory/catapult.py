"""The catapult: gradient descent on a two-layer linear network, exactly, in its output and its sharpness.

Legend: f = output, lam = curvature of the loss (the network's tangent kernel), n = width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tightrope.errors import check_number


@dataclass(frozen=True)
class CatapultPath:
    """Output and curvature after 0, 1, 2, ... steps, up to the last step before an overflow.

    Attributes:
        f: (steps + 1,) output.
        lam: (steps + 1,) curvature.
        lr: Learning rate.
        is_diverged: Whether f or lam ceased to be finite; both arrays end before that.
    """

    f: np.ndarray
    lam: np.ndarray
    lr: float
    is_diverged: bool

    @property
    def loss(self) -> np.ndarray:
        """(steps + 1,) f^2 / 2; inf where the square overflows."""
        with np.errstate(over="ignore"):
            return self.f**2 / 2

    @property
    def peak(self) -> float:
        """Largest loss over the first: 1 for a path that only descends, above 1 for a catapult."""
        with np.errstate(over="ignore"):
            return float(np.max((self.f / self.f[0]) ** 2))


def two_layer_start(width: int = 512, seed: int = 0) -> tuple[float, float]:
    """Output f and curvature lam of the network f = u.v / sqrt(n) with u, then v drawn from N(0, 1).

    lam = (|u|^2 + |v|^2) / n; on one example with input 1 and target 0 it is the top Hessian eigenvalue up to
    terms in f / sqrt(n).

    Args:
        width: n, at least 1.
        seed: Of numpy's default_rng.
    Raises:
        ConfigError: the width is not a whole number from 1.
    """
    check_number("two_layer_start: width", width, lambda n: n >= 1 and n.is_integer(), "be a whole number from 1")
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal(width), rng.standard_normal(width)
    return float(u @ v / math.sqrt(width)), float((u @ u + v @ v) / width)


def catapult(f: float, lam: float, lr: float, *, width: int = 512, num_steps: int = 1000) -> CatapultPath:
    """The path of gradient descent on f^2 / 2, f = u.v / sqrt(n): what the weights do, in two numbers.

    f <- (1 - lr lam + lr^2 f^2 / n) f and lam <- lam + (lr f^2 / n) (lr lam - 4), both from the old values. Below
    2 / lr the loss falls; between 2 and about 4 over lr it rises first, and lam drops below 2 / lr; above, it diverges.

    Args:
        f, lam: Where it starts, as `two_layer_start` returns them.
        lr: Positive.
        width: n, at least 1.
        num_steps: At least 0.
    Raises:
        ConfigError: an argument is out of its range.
    Source:
        Lewkowycz et al. 2020 (arXiv 2003.02218), section 2.
    """
    check_number("catapult: f", f, lambda f: f != 0 and math.isfinite(f), "be finite and not 0")
    check_number("catapult: lam", lam, lambda lam: 0 < lam < math.inf, "be positive and finite")
    check_number("catapult: lr", lr, lambda lr: 0 < lr < math.inf, "be positive and finite")
    check_number("catapult: width", width, lambda n: n >= 1 and n.is_integer(), "be a whole number from 1")
    check_number("catapult: num_steps", num_steps, lambda n: n >= 0 and n.is_integer(), "be a whole number from 0")
    path = [(float(f), float(lam))]
    for _ in range(num_steps):
        f, lam = path[-1]
        kick = lr * (f * f / width)
        f, lam = (1 - lr * lam + lr * kick) * f, lam + kick * (lr * lam - 4)
        if not (math.isfinite(f) and math.isfinite(lam)):
            break
        path.append((f, lam))
    fs, lams = np.array(path).T
    return CatapultPath(fs, lams, lr, is_diverged=len(path) <= num_steps)
