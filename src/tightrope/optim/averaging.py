"""The running mean of weights, for averaging over the ends of a schedule's cycles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import ShapeError


@dataclass(eq=False)
class WeightAverage:
    """Mean of the flat weight vectors seen so far; its two fields are all its state.

    Kept in float64 as mean + (w - mean) / count: a float32 mean stops moving once (w - mean) / count is below its
    rounding, and equal vectors have exactly themselves as mean. `tightrope.parameters.write` puts it into a model,
    whose batch norm statistics then belong to other weights: `torch.optim.swa_utils.update_bn` makes them anew.

    Args:
        w: (p,) float64, the mean; None before the first vector.
        count: Vectors seen.
    Example:
        >>> average = WeightAverage()
        >>> for w in (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])):
        ...     average.update(w)
        >>> average.w
        tensor([2., 2.], dtype=torch.float64)
    References:
        Izmailov et al. 2018 (arXiv 1803.05407), Algorithm 1; Huang et al. 2017 (arXiv 1704.00109) for the ends of
        cycles; Welford 1962 for the form.
    """

    w: Tensor | None = None
    count: int = 0

    @torch.no_grad()
    def update(self, w: Tensor) -> None:
        """Take in one more vector w (p,); it is copied.

        Raises:
            ShapeError: w has another length than those before it.
        """
        if self.w is not None and w.shape != self.w.shape:
            raise ShapeError(f"WeightAverage: weights must be {tuple(self.w.shape)}; got {tuple(w.shape)}.")
        self.count += 1
        if self.w is None:
            self.w = w.detach().to(torch.float64, copy=True)
        else:
            self.w.lerp_(w.detach().to(self.w), 1 / self.count)
