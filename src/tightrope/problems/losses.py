"""Losses: model output and target -> scalar, the mean over examples."""

from __future__ import annotations

from torch import Tensor, nn


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, summed over outputs and averaged over examples; targets (n, c)."""
    return (output - target).square().sum() / (2 * len(output))


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (n, c) with class numbers (n,), averaged over examples."""
    return nn.functional.cross_entropy(output, target)


PAD = -1
"""Stands in a sequence of tokens where it has ended."""


def token_cross_entropy(logits: Tensor, target: Tensor, tokens_per_example: float) -> Tensor:
    """Cross-entropy of logits (n, t, c) with tokens (n, t), summed over tokens and averaged over examples, per token.

    Args:
        logits: Of each token.
        target: The tokens; PAD counts for nothing.
        tokens_per_example: By which the mean over examples is divided. With the mean number of tokens over a data
            set, it is the mean over tokens there, and over any other examples a mean of what each adds to that.
    """
    total = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum")
    return total / (len(target) * tokens_per_example)
