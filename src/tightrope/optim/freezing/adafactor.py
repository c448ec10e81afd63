"""torch's Adafactor, whose frozen method is not in its state alone.

Legend: P0 = preconditioner without the cut, u = P0^-1 g the update, t = step, rho = relative step size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError

from ..momentum import none
from .reading import Reading, holds, wide


def read_adafactor(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adafactor: its step is cut by the size of its own update and scaled by the size of the weights.

    Neither is in its state. Both follow from that step's gradient, so `.grad` must still hold it: that it is the one
    of the last step cannot be told from the state, only that it cannot be, and is what the edge is conditioned on.
    With the update u = P0^-1 g and the weights w after the step, the size r of the weights before it solves
    n r^2 (1 - lr wd)^2 = ||w + s u||^2, where s = max(eps2, r) rho / cut is the step's length along u.
    """

    def diagonal(w: Tensor) -> Tensor:
        state, t, lr = optimizer.state[w], int(optimizer.state[w]["step"]), float(group["lr"])
        assert w.grad is not None
        w_after, g = wide(w), wide(w.grad)
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(w.dtype).eps if eps1 is None else eps1
        moment = _factored(state, eps1)
        _check_gradient(state, g, fresh=t ** group["beta2_decay"])
        P0 = moment.clamp(min=eps1 * eps1).sqrt_()
        u = g / P0
        cut = max(1.0, float(u.norm()) / (math.sqrt(w.numel()) * group["d"]))
        rho = min(lr, 1 / math.sqrt(t))
        r = _size_before(w_after, u, rho / cut, eps2, 1 - lr * group["weight_decay"], torch.finfo(w.dtype).eps)
        # Everything but lr is carried in P.
        return P0.mul_(cut / (r * (rho / lr if lr > 0 else 1.0)))

    whole = holds(optimizer, "step", "variance")
    factored = holds(optimizer, "step", "row_var", "col_var", is_shaped=False)
    return Reading(
        none(),
        is_decoupled=True,
        diagonal=diagonal,
        is_ready=lambda w: (factored if w.ndim > 1 else whole)(w) and w.grad is not None,
        unready="Adafactor's step is cut by the size of its gradient: after step() measure before zero_grad().",
        condition="Adafactor's cut held at that of the gradient in .grad",
    )


def _factored(state: dict[str, Any], eps: float) -> Tensor:
    """The second moment, from its row and column means where it is kept by them."""
    if "variance" in state:
        return wide(state["variance"]).clone()
    row, col = wide(state["row_var"]), wide(state["col_var"])
    return (row @ col).div_(row.mean(dim=-2, keepdim=True).clamp_(min=eps))


def _check_gradient(state: dict[str, Any], g: Tensor, fresh: float) -> None:
    """Raise where a gradient cannot be that of the last step, which entered the second moment with a share `fresh`."""
    square = g.square()
    parts = (
        [(wide(state["variance"]), square)]
        if "variance" in state
        else [(wide(state["row_var"]), square.mean(-1, True)), (wide(state["col_var"]), square.mean(-2, True))]
    )
    is_cleared = not bool(g.any()) and any(bool(moment.any()) for moment, _ in parts)
    is_larger = any(bool((fresh * mean > 1.05 * moment + 1e-30).any()) for moment, mean in parts)
    if is_cleared or is_larger:
        raise ConfigError(
            "Adafactor's step is cut by the size of its gradient, and .grad is not that of its last step: after step() "
            "measure before zero_grad() and before the next backward()."
        )


def _size_before(w: Tensor, u: Tensor, step: float, floor: float, kept: float, eps: float) -> float:
    """max(floor, r) for the root mean square r of the weights before a step that left w = kept w_before - step r u."""
    n = w.numel()
    ww, wu, uu = (float((a * b).sum(dtype=torch.float64)) / n for a, b in ((w, w), (w, u), (u, u)))
    a, b = kept * kept - step * step * uu, step * wu
    if a <= math.sqrt(eps) * kept * kept:  # below it, a is rounding
        raise ConfigError(
            "Adafactor's last step was as long as the weights themselves, whose size before it cannot be recovered; "
            "lower lr."
        )
    r = (b + math.sqrt(max(0.0, b * b + a * ww))) / a
    return r if r >= floor else floor
