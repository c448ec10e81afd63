"""Assembly: the readings of all groups put together into one Frozen, or the reason why they make none.

Legend: D = edge scaling, P = preconditioner, w = a parameter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..frozen import Frozen, FrozenGroup
from .reading import Reading


def assemble(optimizer: torch.optim.Optimizer, parts: list[tuple[Reading, dict[str, Any]]]) -> Frozen:
    """Frozen from the readings of all groups; without a method where they make none."""
    groups = tuple(_describe(group, reading) for reading, group in parts)
    if any(group.lr * group.weight_decay >= 2 for group in groups):
        return without_method(optimizer, "lr * weight_decay must be below 2: the decay alone diverges.")
    members = [(reading, w) for reading, group in parts for w in movable(group)]
    adaptive = [(reading.has_state(w), reading) for reading, w in members if reading.is_ready]
    if adaptive and not any(is_ready for is_ready, _ in adaptive):
        return without_method(optimizer, adaptive[0][1].unready, "not_stepped", groups)
    P = [_diagonal(reading, w) for reading, w in members]
    if len(P) > 1 and any(diagonal.ndim == 2 for diagonal in P):
        return without_method(optimizer, "a dense preconditioner must be the only group: flatten the model into one.")
    whole = P[0] if len(P) == 1 else torch.cat(P)
    D = _edge_scaling(groups, members, whole)
    # The sum is one pass; it may overflow where every element is finite.
    if not bool(D.sum().isfinite()) and not bool(D.isfinite().all()):
        return without_method(optimizer, _not_finite(whole))
    decays = {group.coupled_decay for group in groups}
    conditions = {reading.condition for reading, _ in members if reading.condition}
    shift = [torch.full((group.size,), group.coupled_decay, dtype=whole.dtype, device=whole.device) for group in groups]
    return Frozen(
        parameters=tuple(w for _, w in members),
        groups=groups,
        P=whole,
        D=D,
        shift=decays.pop() if len(decays) == 1 else torch.cat(shift),
        condition=" and ".join(sorted(conditions)),
    )


def movable(group: dict[str, Any]) -> list[Tensor]:
    """The parameters of a group that require a gradient."""
    return [w for w in group["params"] if w.requires_grad]


def _describe(group: dict[str, Any], reading: Reading) -> FrozenGroup:
    decay = float(group.get("weight_decay", 0.0)) if reading.weight_decay is None else reading.weight_decay
    return FrozenGroup(
        momentum=reading.momentum,
        lr=float(group["lr"]),
        weight_decay=decay if reading.is_decoupled else 0.0,
        coupled_decay=0.0 if reading.is_decoupled else decay,
        size=sum(w.numel() for w in movable(group)),
    )


@torch.no_grad()
def _diagonal(reading: Reading, w: Tensor) -> Tensor:
    """P of one parameter as a vector, at least in float32; ones where it is the identity or not known yet."""
    dtype = torch.promote_types(w.dtype, torch.float32)
    diagonal = reading.diagonal(w) if reading.has_state(w) else None
    if diagonal is None:
        return torch.ones(w.numel(), dtype=dtype, device=w.device)
    return diagonal.to(dtype) if diagonal.ndim == 2 and w.ndim == 1 else diagonal.reshape(-1).to(dtype)


def _edge_scaling(groups: tuple[FrozenGroup, ...], members: list[tuple[Reading, Tensor]], P: Tensor) -> Tensor:
    """D = lr F(-1) / ((2 - lr wd) P), zero where P is not known yet because nothing has moved."""
    scales = [group.lr * group.momentum.alternating_gain / (2 - group.lr * group.weight_decay) for group in groups]
    if P.ndim == 2:
        inverse: Tensor = torch.linalg.inv(P)
        return inverse * scales[0]
    D = torch.empty_like(P)
    sizes = [group.size for group in groups]
    for scale, part, target in zip(scales, P.split(sizes), D.split(sizes), strict=True):
        torch.div(torch.tensor(scale, dtype=P.dtype, device=P.device), part, out=target)
    at = 0
    for reading, w in members:
        if not reading.has_state(w):
            D[at : at + w.numel()] = 0
        at += w.numel()
    return D


def _not_finite(P: Tensor) -> str:
    if not bool(P.isfinite().all()):
        return (
            "the second moment holds NaN or infinity: a gradient was not finite. Go back to a state before it, and "
            "skip such steps."
        )
    return (
        "the preconditioner is 0 somewhere: a gradient is always 0 there, and eps is or rounds to 0; give the "
        "optimizer an eps above 0 in the dtype of its parameters (float16: at least 1e-7)."
    )


def without_method(
    optimizer: torch.optim.Optimizer,
    reason: str,
    status: str = "no_threshold",
    groups: tuple[FrozenGroup, ...] = (),
) -> Frozen:
    """Frozen that says why there is no method."""
    parameters = tuple(w for group in optimizer.param_groups for w in movable(group))
    return Frozen(parameters, groups, None, None, 0.0, status, reason)
