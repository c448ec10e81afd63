"""Coordinates whose preconditioner lags far behind: an adaptive method absorbs them in a step, so they are no danger.

Legend: D = edge scaling, P = preconditioner, p = number of parameters.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tightrope.optim import Frozen

FLOOR = 0.1
"""Of the median of P: what lies below counts as dormant."""
REACHED = 1e-5
"""Of the largest P: what lies below has hardly ever had a gradient, and the median is of the others. Where dead units
hold more than half of all coordinates, the median of them all would be eps, and nothing would lie below."""


def floored(frozen: Frozen, floor: float = FLOOR) -> tuple[Frozen, int]:
    """The method with P nowhere below a share of its median, and how many coordinates that changed.

    In minibatch training the second moment of a unit that is hardly ever active is next to nothing, and the largest
    eigenvalue of P^-1 H then sits on a handful of such coordinates. The first gradient that reaches them makes P
    grow, so no instability follows. Where the top direction is collective the floor changes nothing.

    Args:
        frozen: A linear method with a diagonal P; any other is returned as it is.
        floor: Share of the median of P over the parameters that move and that gradients have reached.
    Returns:
        The floored method, whose condition says so, and the number of dormant coordinates.
    """
    P, D = frozen.P, frozen.D
    if frozen.status != "linear" or P is None or D is None or P.ndim != 1 or not bool((D > 0).any()):
        return frozen, 0
    moving = P[D > 0]
    reached = moving[moving >= REACHED * moving.max()]
    lowest = floor * (reached if len(reached) else moving).median()
    is_dormant = (lowest > P) & (D > 0)
    num_dormant = int(is_dormant.sum())
    if num_dormant == 0:
        return frozen, 0
    held = f"{num_dormant:,} dormant coordinates held at {floor:g} of the median of P"
    return replace(
        frozen,
        P=torch.where(is_dormant, lowest, P),
        D=torch.where(is_dormant, D * P / lowest, D),
        condition=f"{frozen.condition} and {held}" if frozen.condition else held,
    ), num_dormant
