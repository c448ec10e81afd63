"""Data that ships with the library's dependencies or is made from a formula."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tightrope.errors import ConfigError


def digits(num_examples: int | None = None) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: real 8x8 scans in [0, 1] as (n, 64) float64, and their classes (n,).

    Args:
        num_examples: The first so many of 1,797; None for all.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    if num_examples is not None and not 1 <= num_examples <= len(x):
        raise ConfigError(f"digits: num_examples must be between 1 and {len(x)}; got {num_examples}.")
    return torch.from_numpy(x[:num_examples] / 16.0), torch.from_numpy(y[:num_examples].astype(np.int64))


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
