"""Readers: what one parameter group of a known optimizer says of its frozen linear method.

Legend: b1, b2 = decay of first and second moment, nu = second moment, t = step, P = preconditioner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError

from ..method import GradientMethod
from ..momentum import Momentum, heavy_ball, nesterov, none

NOT_STEPPED = "the optimizer has no preconditioner before its first step; call optimizer.step() once, then measure."


@dataclass(frozen=True)
class Reading:
    """What one parameter group says of itself.

    Attributes:
        momentum: Its linear momentum rule.
        is_decoupled: Whether decay acts on the weights directly instead of being added to the gradient.
        diagonal: A parameter -> its P in the parameter's shape, positive; None for the identity. A new tensor.
        is_ready: Whether a parameter has what P is read from; None where P is known from the start.
        weight_decay: Decay per unit of lr; None for the group's own `weight_decay`.
        unready: What to do where no parameter is ready.
    """

    momentum: Momentum
    is_decoupled: bool = False
    diagonal: Callable[[Tensor], Tensor | None] = lambda w: None
    is_ready: Callable[[Tensor], bool] | None = None
    weight_decay: float | None = None
    unready: str = NOT_STEPPED

    def has_state(self, w: Tensor) -> bool:
        """Whether P is known for a parameter."""
        return self.is_ready is None or self.is_ready(w)


Reader = Callable[[Any, dict[str, Any]], Reading]


def _holds(optimizer: torch.optim.Optimizer, *names: str, is_shaped: bool = True) -> Callable[[Tensor], bool]:
    """Whether a parameter has been moved; refuses a state that is half there or another optimizer's.

    Args:
        names: What its state holds then.
        is_shaped: Whether the last of it has the shape of the parameter.
    """

    def is_ready(w: Tensor) -> bool:
        state = optimizer.state.get(w)
        if not state:
            return False
        kind, missing = type(optimizer).__name__, [name for name in names if name not in state]
        if missing:
            raise ConfigError(
                f"the state of {kind} must hold {', '.join(missing)}; it holds {', '.join(map(str, state))}. Load the "
                f"state of the same {kind}, or clear optimizer.state and take a step."
            )
        shape = state[names[-1]].shape
        if is_shaped and shape != w.shape:
            raise ConfigError(
                f"the state of {kind} must have the parameter's shape {tuple(w.shape)}; got {tuple(shape)}. Load the "
                "state of the same model."
            )
        return True

    return is_ready


def read_gradient_method(optimizer: GradientMethod, group: dict[str, Any]) -> Reading:
    """Our own methods keep their rules in the group."""
    return Reading(
        momentum=optimizer.momentum(group),
        is_decoupled=group["decoupled_weight_decay"],
        diagonal=lambda w: optimizer.preconditioner(group, w),
        is_ready=(lambda w: optimizer.has_preconditioner(group, w)) if group["preconditioner"].is_adaptive else None,
    )


def read_sgd(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's SGD, with dampening and Nesterov: P = I."""
    return Reading(Momentum.of_sgd(group["momentum"], group["dampening"], group["nesterov"]))


def read_adam(optimizer: torch.optim.Optimizer, group: dict[str, Any], is_decoupled: bool = False) -> Reading:
    """torch's Adam: P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps); AMSGrad's maximum is corrected as torch does."""
    b1, b2 = (float(b) for b in group["betas"])
    name = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu: Tensor = state[name]
        t = int(state["step"])
        # P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps) in three passes.
        return nu.sqrt().mul_((1 - b1**t) / math.sqrt(1 - b2**t)).add_(float(group["eps"]) * (1 - b1**t))

    return Reading(
        momentum=heavy_ball(b1, ema=True),
        is_decoupled=is_decoupled or group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=_holds(optimizer, "step", "exp_avg", name),
    )


def read_adamw(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's AdamW."""
    return read_adam(optimizer, group, is_decoupled=True)


def read_rmsprop(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's RMSprop: its momentum sums gradients after P; centered, nu is a variance."""

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu: Tensor = state["square_avg"]
        if group["centered"]:
            nu = nu.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
        return nu.sqrt() + float(group["eps"])

    return Reading(
        momentum=heavy_ball(group["momentum"], ema=False),
        diagonal=diagonal,
        is_ready=_holds(optimizer, "step", *(["grad_avg"] if group["centered"] else []), "square_avg"),
    )


def read_adagrad(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adagrad, its decay of lr carried in P."""

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        P: Tensor = state["sum"].sqrt() + float(group["eps"])
        # torch lowers the learning rate by this factor; here it is carried in P, as bias correction is.
        return P * (1 + (int(state["step"]) - 1) * float(group["lr_decay"]))

    holds = _holds(optimizer, "step", "sum")
    # torch fills the sum when the optimizer is made; before the first step it says nothing yet.
    return Reading(none(), diagonal=diagonal, is_ready=lambda w: holds(w) and int(optimizer.state[w]["step"]) > 0)


def read_adamax(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adamax: P = (1 - b1^t) max |g|, fading by b2."""
    b1 = float(group["betas"][0])

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        largest: Tensor = state["exp_inf"]
        return largest * (1 - b1 ** int(state["step"]))

    return Reading(
        heavy_ball(b1, ema=True), diagonal=diagonal, is_ready=_holds(optimizer, "step", "exp_avg", "exp_inf")
    )


def read_radam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's RAdam at its present step."""
    b1, b2 = (float(b) for b in group["betas"])

    def diagonal(w: Tensor) -> Tensor:
        """P with the rectification of Liu et al. 2020 (arXiv 1908.03265), Algorithm 2; flat in the first steps."""
        state = optimizer.state[w]
        t = int(state["step"])
        limit = 2 / (1 - b2) - 1
        length = limit - 2 * t * b2**t / (1 - b2**t)
        nu: Tensor = state["exp_avg_sq"]
        if length <= 5:
            return torch.full_like(nu, 1 - b1**t)
        rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        return (nu.sqrt() + float(group["eps"])) * ((1 - b1**t) / math.sqrt(rectified * (1 - b2**t)))

    return Reading(
        momentum=heavy_ball(b1, ema=True),
        is_decoupled=group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=_holds(optimizer, "step", "exp_avg", "exp_avg_sq"),
    )


def read_nadam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Nadam at its present step: its weights of the gradient and of the average change every step."""
    b1, b2 = (float(b) for b in group["betas"])
    ready = [optimizer.state[w] for w in group["params"] if "mu_product" in optimizer.state.get(w, {})]

    def mu(t: int) -> float:
        return b1 * (1 - 0.5 * math.pow(0.96, t * float(group["momentum_decay"])))

    def momentum(state: dict[str, Any]) -> Momentum:
        t, product = int(state["step"]), float(state["mu_product"])
        fresh, averaged = (1 - mu(t)) / (1 - product), mu(t + 1) / (1 - product * mu(t + 1))
        return Momentum(beta=b1, discount=averaged / (fresh + averaged), gain=fresh + averaged)

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu: Tensor = state["exp_avg_sq"]
        return (nu / (1 - b2 ** int(state["step"]))).sqrt() + float(group["eps"])

    return Reading(
        momentum=momentum(ready[0]) if ready else nesterov(b1, ema=True),
        is_decoupled=group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=_holds(optimizer, "step", "mu_product", "exp_avg_sq"),
    )


def read_adafactor(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adafactor: its step is cut by the size of its own update and scaled by the size of the weights.

    Neither is in its state. Both follow from that step's gradient, so `.grad` must still hold it. With the update
    u = P0^-1 g and the weights w after the step, the size r of the weights before it solves
    n r^2 (1 - lr wd)^2 = ||w + s u||^2, where s = max(eps2, r) rho / cut is the step's length along u.
    """

    def diagonal(w: Tensor) -> Tensor:
        state, g = optimizer.state[w], w.grad
        t, lr = int(state["step"]), float(group["lr"])
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(w.dtype).eps if eps1 is None else eps1
        P0 = _factored(state, eps1).clamp(min=eps1 * eps1).sqrt_()
        assert g is not None
        u = g / P0
        size = math.sqrt(w.numel())
        cut = max(1.0, float(u.norm()) / (size * group["d"]))
        rho = min(lr, 1 / math.sqrt(t))
        r = _size_before(w, u, rho / cut, eps2, 1 - lr * group["weight_decay"])
        # Everything but lr is carried in P.
        return P0.mul_(cut / (r * (rho / lr if lr > 0 else 1.0)))

    whole = _holds(optimizer, "step", "variance")
    factored = _holds(optimizer, "step", "row_var", "col_var", is_shaped=False)
    return Reading(
        none(),
        is_decoupled=True,
        diagonal=diagonal,
        is_ready=lambda w: (factored if w.ndim > 1 else whole)(w) and w.grad is not None,
        unready="Adafactor's step is cut by the size of its gradient: after step() measure before zero_grad().",
    )


def _factored(state: dict[str, Any], eps: float) -> Tensor:
    """The second moment, from its row and column means where it is kept by them."""
    if "variance" in state:
        return state["variance"].clone()  # type: ignore[no-any-return]
    row, col = state["row_var"], state["col_var"]
    return (row @ col).div_(row.mean(dim=-2, keepdim=True).clamp_(min=eps))  # type: ignore[no-any-return]


def _size_before(w: Tensor, u: Tensor, step: float, floor: float, kept: float) -> float:
    """max(floor, r) for the root mean square r of the weights before a step that left w = kept w_before - step r u."""
    n = w.numel()
    ww, wu, uu = (float((a * b).sum(dtype=torch.float64)) / n for a, b in ((w, w), (w, u), (u, u)))
    a, b = kept * kept - step * step * uu, step * wu
    if a <= 0:
        raise ConfigError(
            "Adafactor's last step was as long as the weights themselves, whose size before it cannot be recovered; "
            "lower lr."
        )
    r = (b + math.sqrt(max(0.0, b * b + a * ww))) / a
    return r if r >= floor else floor


# By "package.Class"; `register_reader` adds to it.
READERS: dict[type | str, Reader] = {
    "tightrope.GradientMethod": read_gradient_method,
    "torch.SGD": read_sgd,
    "torch.Adam": read_adam,
    "torch.AdamW": read_adamw,
    "torch.RMSprop": read_rmsprop,
    "torch.Adagrad": read_adagrad,
    "torch.Adamax": read_adamax,
    "torch.RAdam": read_radam,
    "torch.NAdam": read_nadam,
    "torch.Adafactor": read_adafactor,
}
