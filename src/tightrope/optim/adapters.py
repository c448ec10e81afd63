"""freeze(optimizer): read the frozen linear method out of an optimizer's own state.

Dispatch is on the class name along the method resolution order, so nothing is imported needlessly.
Legend: b1, b2 = decay of first and second moment, nu = second moment, t = step, P = preconditioner.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError, UnsupportedOptimizerError

from .frozen import Frozen, FrozenGroup
from .method import GradientMethod
from .momentum import Momentum, heavy_ball, nesterov, none
from .sam import SAM

NOT_STEPPED = "the optimizer has no preconditioner before its first step; call optimizer.step() once, then measure."


@dataclass(frozen=True)
class Reading:
    """What one parameter group says of itself.

    `diagonal` maps a parameter to its P in the parameter's shape (None = identity); `is_ready` says whether a
    parameter has the state an adaptive P is read from, and is None where P is known from the start. Decay is
    coupled unless `is_decoupled`.
    """

    momentum: Momentum
    is_decoupled: bool = False
    diagonal: Callable[[Tensor], Tensor | None] = lambda w: None
    is_ready: Callable[[Tensor], bool] | None = None

    def has_state(self, w: Tensor) -> bool:
        """Whether P is known for a parameter."""
        return self.is_ready is None or self.is_ready(w)


def freeze(optimizer: torch.optim.Optimizer) -> Frozen:
    """The optimizer with its preconditioner frozen as its last step left it.

    Learning rate, betas and decay are those its groups hold now: call it before `scheduler.step()`.

    Returns:
        Frozen; where no linear method can be read its status and reason say why, and no number is given.
    Cost:
        A few elementwise passes over the parameters; no gradient, no product.
    Example:
        >>> freeze(torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)).stability_threshold()
        20.0
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UnsupportedOptimizerError(f"freeze: needs a torch optimizer; got {type(optimizer).__name__}.")
    if isinstance(optimizer, SAM):
        return optimizer.frozen(freeze(optimizer.base))
    for kind in type(optimizer).__mro__:
        # A class of the same name from elsewhere may follow another rule.
        is_ours = kind.__module__.split(".")[0] in ("torch", "tightrope")
        if is_ours and kind.__name__ in NO_LINEAR_METHOD:
            return _without_method(optimizer, f"{kind.__name__}: {NO_LINEAR_METHOD[kind.__name__]}")
        if is_ours and kind.__name__ in READERS and not _steps_as(type(optimizer), kind):
            return _without_method(
                optimizer, f"{type(optimizer).__name__} takes steps of its own, not those of {kind.__name__}."
            )
        if is_ours and kind.__name__ in READERS:
            try:
                return _assemble(optimizer, READERS[kind.__name__])
            except ConfigError as error:
                return _without_method(optimizer, str(error))
    known = ", ".join(sorted(READERS))
    return _without_method(
        optimizer, f"{type(optimizer).__name__} is not an optimizer whose frozen method is known. Known: {known}."
    )


def _steps_as(kind: type, known: type) -> bool:
    """Whether a class takes the very steps of a known one; torch wraps `step` for its profiler."""
    return inspect.unwrap(kind.step) is inspect.unwrap(known.step)  # type: ignore[attr-defined]


def _assemble(optimizer: torch.optim.Optimizer, read: Callable[[Any, dict[str, Any]], Reading]) -> Frozen:
    parts = [(read(optimizer, group), group) for group in optimizer.param_groups if _movable(group)]
    if not parts:
        return _without_method(optimizer, "no parameter of the optimizer requires a gradient.")
    groups = tuple(_describe(group, reading) for reading, group in parts)
    if any(group.get("maximize", False) for _, group in parts):
        return _without_method(optimizer, "maximize=True ascends the loss: no stability threshold applies.")
    if any(group.lr * group.weight_decay >= 2 for group in groups):
        return _without_method(optimizer, "lr * weight_decay must be below 2: the decay alone diverges.")
    adaptive = [reading.has_state(w) for reading, group in parts if reading.is_ready for w in _movable(group)]
    if adaptive and not any(adaptive):
        return _without_method(optimizer, NOT_STEPPED, "not_stepped", groups)
    P: list[Tensor] = []
    D: list[Tensor] = []
    shift: list[Tensor] = []
    for frozen_group, (reading, group) in zip(groups, parts, strict=True):
        for w in _movable(group):
            is_known = reading.has_state(w)
            diagonal = _diagonal(reading, w, is_known)
            P.append(diagonal)
            D.append(_edge_scaling(frozen_group, diagonal) if is_known else torch.zeros_like(diagonal))
            shift.append(torch.full((w.numel(),), frozen_group.coupled_decay, dtype=diagonal.dtype, device=w.device))
    if len(P) > 1 and any(diagonal.ndim == 2 for diagonal in P):
        return _without_method(optimizer, "a dense preconditioner must be the only group: flatten the model into one.")
    decays = {group.coupled_decay for group in groups}
    return Frozen(
        parameters=tuple(w for _, group in parts for w in _movable(group)),
        groups=groups,
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
def _diagonal(reading: Reading, w: Tensor, is_known: bool) -> Tensor:
    """P of one parameter as a vector, at least in float32; ones where it is the identity or not known yet."""
    dtype = torch.promote_types(w.dtype, torch.float32)
    diagonal = reading.diagonal(w) if is_known else None
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
        momentum=optimizer.momentum(group),
        is_decoupled=group["decoupled_weight_decay"],
        diagonal=lambda w: optimizer.preconditioner(group, w),
        is_ready=(lambda w: optimizer.has_preconditioner(group, w)) if group["preconditioner"].is_adaptive else None,
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


def _read_adagrad(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        P: Tensor = state["sum"].sqrt() + float(group["eps"])
        # torch lowers the learning rate by this factor; here it is carried in P, as bias correction is.
        return P * (1 + (int(state["step"]) - 1) * float(group["lr_decay"]))

    # torch fills the sum when the optimizer is made; before the first step it says nothing yet.
    return Reading(none(), diagonal=diagonal, is_ready=lambda w: int(optimizer.state.get(w, {}).get("step", 0)) > 0)


def _read_adamax(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    b1 = float(group["betas"][0])

    def diagonal(w: Tensor) -> Tensor:
        state = optimizer.state[w]
        largest: Tensor = state["exp_inf"]
        return largest * (1 - b1 ** int(state["step"]))

    return Reading(
        heavy_ball(b1, ema=True), diagonal=diagonal, is_ready=lambda w: "exp_inf" in optimizer.state.get(w, {})
    )


def _read_radam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
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
        is_ready=lambda w: "exp_avg_sq" in optimizer.state.get(w, {}),
    )


def _read_nadam(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Reading:
    """torch's Nadam at its present step: its weights of the gradient and of the average change every step."""
    b1, b2 = (float(b) for b in group["betas"])
    ready = [optimizer.state[w] for w in _movable(group) if "mu_product" in optimizer.state.get(w, {})]

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
        is_ready=lambda w: "mu_product" in optimizer.state.get(w, {}),
    )


READERS: dict[str, Callable[[Any, dict[str, Any]], Reading]] = {
    "GradientMethod": _read_gradient_method,
    "SGD": _read_sgd,
    "Adam": _read_adam,
    "AdamW": _read_adamw,
    "RMSprop": _read_rmsprop,
    "Adagrad": _read_adagrad,
    "Adamax": _read_adamax,
    "RAdam": _read_radam,
    "NAdam": _read_nadam,
}
NO_LINEAR_METHOD = {
    "Adadelta": "its step is scaled by past steps, so with P held still it is not linear in the gradient.",
    "Rprop": "its step depends on the signs of gradients only, so it has no linear threshold.",
    "LBFGS": "its step comes from a history of secants and a line search, not from a linear recurrence.",
    "ASGD": "its learning rate decays inside the step and it averages iterates; freeze the SGD beneath it.",
    "SparseAdam": "it updates the moments of touched rows only, so one frozen P does not describe its next step.",
    "Muon": "it steps by an orthogonalised matrix of constant size, which is not linear in the gradient.",
}
