"""Data that ships with the library's dependencies or is made from a formula."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tightrope.errors import ConfigError


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: 1,797 real 8x8 scans in [0, 1] as (n, 64) float64, and their classes (n,)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 16.0), torch.from_numpy(y.astype(np.int64))


def split(num_all: int, num_examples: int | None, num_test_examples: int) -> int:
    """How many of so many examples train: the first `num_examples`, or all but the last `num_test_examples`.

    Raises:
        ConfigError: there are not so many, or one would be both trained on and held out.
    """
    if not 0 <= num_test_examples < num_all:
        raise ConfigError(
            f"problem.num_test_examples: must be between 0 and {num_all - 1}; got {num_test_examples}. "
            f"There are {num_all} examples."
        )
    most = num_all - num_test_examples
    if num_examples is not None and not 1 <= num_examples <= most:
        held_out = f" The last {num_test_examples} of {num_all} are held out." if num_test_examples else ""
        raise ConfigError(f"problem.num_examples: must be between 1 and {most}; got {num_examples}.{held_out}")
    return most if num_examples is None else num_examples


def chebyshev(num_points: int = 20, degree: int = 5) -> tuple[Tensor, Tensor]:
    """Evenly spaced points on [-1, 1] as (n, 1) float64, and the Chebyshev polynomial of that degree (n, 1)."""
    x = np.linspace(-1, 1, num_points)
    y = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    return torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Class numbers (n,) as rows of the identity (n, c), float64.

    Raises:
        ConfigError: there are no labels, or one is outside 0..c-1.
    """
    return torch.nn.functional.one_hot(class_numbers(labels, num_classes), num_classes).double()


def class_numbers(labels: Tensor, num_classes: int) -> Tensor:
    """The labels (n,), which are class numbers.

    Raises:
        ConfigError: there are no labels, or one is outside 0..c-1.
    """
    if labels.numel() == 0:
        raise ConfigError("data: there must be at least one example; got none.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ConfigError(f"data: labels must be in 0..{num_classes - 1}; got {low}..{high}.")
    return labels
