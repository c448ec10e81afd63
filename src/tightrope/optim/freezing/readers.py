"""Readers: what one parameter group of a known optimizer says of its frozen linear method.

Legend: b1, b2 = decay of first and second moment, nu = second moment, t = step, P = preconditioner.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..method import GradientMethod
from ..momentum import Momentum, heavy_ball, nesterov, none
from .adafactor import read_adafactor
from .reading import Reader, Reading, eps_of, holds, wide


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
        nu, t = wide(state[name]), int(state["step"])
        # P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps) in three passes.
        return nu.sqrt().mul_((1 - b1**t) / math.sqrt(1 - b2**t)).add_(eps_of(group, w) * (1 - b1**t))

    return Reading(
        momentum=heavy_ball(b1, ema=True),
        is_decoupled=is_decoupled or group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=holds(optimizer, "step", "exp_avg", name),
    )


def read_adamw(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's AdamW."""
    return read_adam(optimizer, group, is_decoupled=True)


def read_rmsprop(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's RMSprop: its momentum sums gradients after P; centered, nu is a variance."""

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu = wide(state["square_avg"])
        if group["centered"]:
            mean = wide(state["grad_avg"])
            nu = nu.addcmul(mean, mean, value=-1)
        return nu.sqrt() + eps_of(group, w)

    return Reading(
        momentum=heavy_ball(group["momentum"], ema=False),
        diagonal=diagonal,
        is_ready=holds(optimizer, "step", *(["grad_avg"] if group["centered"] else []), "square_avg"),
    )


def read_adagrad(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adagrad, its decay of lr carried in P."""

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        P = wide(state["sum"]).sqrt() + eps_of(group, w)
        # torch lowers the learning rate by this factor; here it is carried in P, as bias correction is.
        return P * (1 + (int(state["step"]) - 1) * float(group["lr_decay"]))

    return Reading(none(), diagonal=diagonal, is_ready=holds(optimizer, "step", "sum"))


def read_adamax(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Adamax: P = (1 - b1^t) max |g|, fading by b2."""
    b1 = float(group["betas"][0])

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        return wide(state["exp_inf"]) * (1 - b1 ** int(state["step"]))

    return Reading(heavy_ball(b1, ema=True), diagonal=diagonal, is_ready=holds(optimizer, "step", "exp_avg", "exp_inf"))


def read_radam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's RAdam at its present step."""
    b1, b2 = (float(b) for b in group["betas"])

    def diagonal(w: Tensor) -> Tensor:
        """P with the rectification of Liu et al. 2020 (arXiv 1908.03265), Algorithm 2; flat in the first steps."""
        state = optimizer.state[w]
        t = int(state["step"])
        limit = 2 / (1 - b2) - 1
        length = limit - 2 * t * b2**t / (1 - b2**t)
        nu = wide(state["exp_avg_sq"])
        if length <= 5:
            return torch.full_like(nu, 1 - b1**t)
        rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        return (nu.sqrt() + eps_of(group, w)) * ((1 - b1**t) / math.sqrt(rectified * (1 - b2**t)))

    return Reading(
        momentum=heavy_ball(b1, ema=True),
        is_decoupled=group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=holds(optimizer, "step", "exp_avg", "exp_avg_sq"),
    )


def read_nadam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Nadam at its present step: its weights of the gradient and of the average change every step.

    `freeze` asks apart for parameters that have taken different numbers of steps.
    """
    b1, b2 = (float(b) for b in group["betas"])
    ready = [
        state for w in group["params"] if (state := optimizer.state.get(w, {})) and state.get("mu_product", 1) != 1
    ]

    def mu(t: int) -> float:
        return b1 * (1 - 0.5 * math.pow(0.96, t * float(group["momentum_decay"])))

    def momentum(state: dict[str, Any]) -> Momentum:
        t, product = int(state["step"]), float(state["mu_product"])
        fresh, averaged = (1 - mu(t)) / (1 - product), mu(t + 1) / (1 - product * mu(t + 1))
        return Momentum(beta=b1, discount=averaged / (fresh + averaged), gain=fresh + averaged)

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        return (wide(state["exp_avg_sq"]) / (1 - b2 ** int(state["step"]))).sqrt() + eps_of(group, w)

    return Reading(
        momentum=momentum(ready[0]) if ready else nesterov(b1, ema=True),
        is_decoupled=group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=holds(optimizer, "step", "mu_product", "exp_avg_sq"),
    )


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
