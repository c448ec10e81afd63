"""A separable problem on which gradient descent generalises and adaptive methods vote for the majority.

Legend: n = examples, y = label, p = P(y = +1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tightrope.errors import ShapeError, check_number

NUM_SHARED = 3
"""Features all examples have: the label itself, and two that are always 1."""
BLOCK = 5
"""Slots that one example alone has."""


def wilson_data(n: int = 200, p: float = 0.7, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 3 + 5 n) and labels (n,) of +1 or -1, on which the first feature alone tells the label.

    Feature 1 is y, features 2 and 3 are 1; then every example has a block of five slots that no other uses, with
    one 1 if y = +1 and five if y = -1. An adaptive method started at 0 moves every weight by about the same
    amount, so the three shared ones vote for the majority class.

    Args:
        n: At least 1.
        p: Share of positive labels, in (1/2, 1).
        seed: Of numpy's default_rng.
    Raises:
        ConfigError: an argument is out of its range.
    Cost:
        8 n (3 + 5 n) bytes: 1.6 MB at n = 200.
    Source:
        Wilson et al. 2017 (arXiv 1705.08292), section 3.3.
    """
    check_number("wilson_data: n", n, lambda n: n >= 1 and n.is_integer(), "be a whole number from 1")
    check_number("wilson_data: p", p, lambda p: 0.5 < p < 1, "be in (1/2, 1)", "The majority is positive.")
    y = np.where(np.random.default_rng(seed).random(n) < p, 1.0, -1.0)
    x = np.zeros((n, NUM_SHARED + BLOCK * n))
    x[:, 0], x[:, 1:NUM_SHARED] = y, 1.0
    for i, label in enumerate(y):
        start = NUM_SHARED + BLOCK * i
        x[i, start : start + (1 if label > 0 else BLOCK)] = 1.0
    return x, y


def wilson_test_error(weights: Sequence[float] | np.ndarray, p: float = 0.7) -> float:
    """Exact probability that sign(w.x) is wrong on a new example, whose own block the weights have never seen.

    Its block meets weights that are still 0, so the answer is w1 y + w2 + w3; a tie counts as wrong.

    Args:
        weights: At least the three shared ones.
        p: Share of positive labels.
    Raises:
        ConfigError, ShapeError: an argument is out of its range.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or len(w) < NUM_SHARED or not np.isfinite(w[:NUM_SHARED]).all():
        raise ShapeError(f"wilson_test_error: weights must be a vector of at least three; got shape {w.shape}.")
    check_number("wilson_test_error: p", p, lambda p: 0 < p < 1 and math.isfinite(p), "be in (0, 1)")
    bias = w[1] + w[2]
    wrong_on_positive, wrong_on_negative = w[0] + bias <= 0, -w[0] + bias >= 0
    return float(p * wrong_on_positive + (1 - p) * wrong_on_negative)
