"""freeze(optimizer): read the frozen linear method out of an optimizer's own state.

Dispatch is on the class name along the method resolution order, so nothing is imported needlessly.
Legend: b1, b2 = decay of first and second moment, nu = second moment, t = step, P = preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .frozen import Frozen, FrozenGroup
from .method import GradientMethod
from .momentum import Momentum, heavy_ball

NOT_STEPPED = "the optimizer has no preconditioner before its first step; call optimizer.step() once, then measure."


@dataclass(frozen=True)
class Reading:
    """What one parameter group says of itself.

    `diagonal` maps a parameter to its P in the parameter's shape (None = identity); `is_ready` says whether a
    parameter has the state P is read from. Decay is coupled unless `is_decoupled`.
    """

    momentum: Momentum
    is_decoupled: bool = False
    diagonal: Callable[[Tensor], Tensor | None] = lambda w: None
    is_ready: Callable[[Tensor], bool] = lambda w: True


def freeze(optimizer: torch.optim.Optimizer) -> Frozen:
    """The optimizer with its preconditioner frozen as its last step used it.

    Returns:
        Frozen; where no linear method can be read its status and reason say why, and no number is given.
    Cost:
        A few elementwise passes over the parameters; no gradient, no product.
    Example:
        >>> freeze(torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)).stability_threshold()
        20.0
    """
    for kind in type(optimizer).__mro__:
        if kind.__name__ in READERS:
            return _assemble(optimizer, READERS[kind.__name__])
    known = ", ".join(sorted(READERS))
    return _without_method(
        optimizer, f"{type(optimizer).__name__} is not an optimizer whose frozen method is known. Known: {known}."
    )


def _assemble(optimizer: torch.optim.Optimizer, read: Callable[[Any, dict[str, Any]], Reading]) -> Frozen:
    groups: list[FrozenGroup] = []
    P: list[Tensor] = []
    D: list[Tensor] = []
    shift: list[Tensor] = []
    has_any_state = False
    for group in optimizer.param_groups:
        if group.get("maximize", False):
            return _without_method(optimizer, "maximize=True ascends the loss: no stability threshold applies.")
        reading = read(optimizer, group)
        frozen_group = _describe(group, reading)
        if frozen_group.lr * frozen_group.weight_decay >= 2:
            return _without_method(optimizer, "lr * weight_decay must be below 2: the decay alone diverges.")
        groups.append(frozen_group)
        for w in _movable(group):
            is_ready = reading.is_ready(w)
            has_any_state |= is_ready
            diagonal = _diagonal(reading, w, is_ready)
            P.append(diagonal)
            D.append(_edge_scaling(frozen_group, diagonal) if is_ready else torch.zeros_like(diagonal))
            shift.append(torch.full((w.numel(),), frozen_group.coupled_decay, dtype=P[-1].dtype, device=w.device))
    if not has_any_state:
        return _without_method(optimizer, NOT_STEPPED, "not_stepped", tuple(groups))
    decays = {group.coupled_decay for group in groups}
    return Frozen(
        parameters=tuple(w for group in optimizer.param_groups for w in _movable(group)),
        groups=tuple(groups),
        P=P[0] if len(P) == 1 else torch.cat(P),
        D=D[0] if len(D) == 1 else torch.cat(D),
        shift=decays.pop() if len(decays) == 1 else torch.cat(shift),
    )


def _movable(group: dict[str, Any]) -> list[Tensor]:
    return [w for w in group["params"] if w.requires_grad]


def _describe(group: dict[str, Any], reading: Reading) -> FrozenGroup:
    decay = float(group.get("weight_decay", 0.0))
    return FrozenGroup(
        momentum=reading.momentum,
        lr=float(group["lr"]),
        weight_decay=decay if reading.is_decoupled else 0.0,
        coupled_decay=0.0 if reading.is_decoupled else decay,
        size=sum(w.numel() for w in _movable(group)),
    )


@torch.no_grad()
def _diagonal(reading: Reading, w: Tensor, is_ready: bool) -> Tensor:
    """P of one parameter as a vector, at least in float32; ones where it is the identity or not known yet."""
    dtype = torch.promote_types(w.dtype, torch.float32)
    diagonal = reading.diagonal(w) if is_ready else None
    if diagonal is None:
        return torch.ones(w.numel(), dtype=dtype, device=w.device)
    return diagonal.to(dtype) if diagonal.ndim == 2 and w.ndim == 1 else diagonal.reshape(-1).to(dtype)


def _edge_scaling(group: FrozenGroup, P: Tensor) -> Tensor:
    scale = group.lr * group.momentum.alternating_gain / (2 - group.lr * group.weight_decay)
    return scale / P if P.ndim == 1 else scale * torch.linalg.inv(P)


def _without_method(
    optimizer: torch.optim.Optimizer,
    reason: str,
    status: str = "no_threshold",
    groups: tuple[FrozenGroup, ...] = (),
) -> Frozen:
    parameters = tuple(w for group in optimizer.param_groups for w in _movable(group))
    return Frozen(parameters, groups, None, None, 0.0, status, reason)


def _read_gradient_method(optimizer: GradientMethod, group: dict[str, Any]) -> Reading:
    return Reading(
        momentum=group["momentum"],
        is_decoupled=group["decoupled_weight_decay"],
        diagonal=lambda w: optimizer.preconditioner(group, w),
        is_ready=lambda w: optimizer.has_preconditioner(group, w),
    )


def _read_sgd(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    return Reading(Momentum.of_sgd(group["momentum"], group["dampening"], group["nesterov"]))


def _read_adam(optimizer: torch.optim.Optimizer, group: dict[str, Any], is_decoupled: bool = False) -> Reading:
    b1, b2 = (float(b) for b in group["betas"])

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu: Tensor = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        t = int(state["step"])
        return ((nu / (1 - b2**t)).sqrt() + float(group["eps"])) * (1 - b1**t)

    return Reading(
        momentum=heavy_ball(b1, ema=True),
        is_decoupled=is_decoupled or group.get("decoupled_weight_decay", False),
        diagonal=diagonal,
        is_ready=lambda w: "exp_avg_sq" in optimizer.state.get(w, {}),
    )


def _read_adamw(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    return _read_adam(optimizer, group, is_decoupled=True)


def _read_rmsprop(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        nu: Tensor = state["square_avg"]
        if group["centered"]:
            nu = nu.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
        return nu.sqrt() + float(group["eps"])

    return Reading(
        momentum=heavy_ball(group["momentum"], ema=False),
        diagonal=diagonal,
        is_ready=lambda w: "square_avg" in optimizer.state.get(w, {}),
    )


READERS: dict[str, Callable[[Any, dict[str, Any]], Reading]] = {
    "GradientMethod": _read_gradient_method,
    "SGD": _read_sgd,
    "Adam": _read_adam,
    "AdamW": _read_adamw,
    "RMSprop": _read_rmsprop,
}
