"""What every curvature of a loss has in common: its products, the loss and the gradient, and what was found of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .operators import SymmetricOperator

LossFn = Callable[[Any, Any], Tensor]
"""(model, batch) -> scalar."""


@dataclass(frozen=True)
class SelfCheck:
    """What was found when a route was tried on a model for the first time.

    Attributes:
        symmetry: sqrt(p) |u'Hv - v'Hu| / (|Hu| + |Hv|) for unit vectors, u random and v half along the gradient:
            rounding for a symmetric H, of the order of 1 for one that lacks a part. NaN where a product failed.
        agreement: |Hv - d| / max(|Hv|, |d|) beyond its own error, d the central difference of gradients along v; NaN
            where none could be taken.
        route: The route that was tried.
        is_passed: Whether the route can be trusted here.
        words: What was found, in a few words.
    """

    symmetry: float
    agreement: float
    route: str
    is_passed: bool
    words: str


class LossCurvature(SymmetricOperator):
    """A symmetric operator made of a model's loss.

    Attributes:
        loss: The loss, a float. Of one that is not finite, the gradient and every product are NaN.
        gradient: (p,).
        check: What the first use of the model found, where `hessian` made the operator.
    """

    loss: float
    gradient: Tensor
    check: SelfCheck | None = None

    @abstractmethod
    def apply(self, v: Tensor) -> Tensor:
        """The product with one vector, (p,) -> (p,)."""
