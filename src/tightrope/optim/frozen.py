"""Frozen: what stability sees of any optimizer, its method with the preconditioner held still.

Legend: D = edge scaling, F = transfer function of the momentum rule, P = preconditioner, wd = weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tightrope.errors import ShapeError, UnsupportedOptimizerError

from .ascent import Ascent
from .clipping import Clipped
from .momentum import Momentum


@dataclass(frozen=True)
class FrozenGroup:
    """One parameter group's linear method, for display.

    Attributes:
        momentum: Its linear momentum rule.
        lr: The learning rate its group holds.
        weight_decay: Decoupled decay.
        coupled_decay: Decay added to the gradient (L2).
        size: Number of parameter elements.
    """

    momentum: Momentum
    lr: float
    weight_decay: float
    coupled_decay: float
    size: int

    @property
    def threshold(self) -> float:
        """Threshold on lambda_1(P^-1 T(H)) for this group alone; inf where lr is 0."""
        return self.momentum.stability_threshold(self.lr, self.weight_decay) if self.lr > 0 else float("inf")


@dataclass(frozen=True)
class Frozen:
    """An optimizer with its preconditioner frozen: linear on any quadratic, so its edge is exact.

    The edge is `lambda_1(D^1/2 T(H) D^1/2) = 1` with `D_i = lr_i F_i(-1) / ((2 - lr_i wd_i) P_i)` and
    `T(H) = R^1/2 (H + c H S H) R^1/2 + diag(shift)`: c and S come from SAM's ascent, R from clipping, and are 0 and I
    without them. Groups may differ in lr, momentum and decay.

    Attributes:
        parameters: The tensors the optimizer moves, in the order of every vector here.
        groups: What each parameter group does.
        P: (p,) preconditioner, or (p, p) where it is dense.
        D: Edge scaling in the shape of P; zero where a parameter does not move.
        shift: Coupled decay, a number or (p,).
        status: "linear", "not_stepped" (P is not known yet, thresholds are) or "no_threshold".
        reason: Why the status is not "linear"; empty otherwise.
        ascent: c and S of SAM's last ascent; None where the gradient is taken where the weights are.
        response: R, what clipping multiplies a small change of the gradient by, a number or (p,).
        condition: What else is held fixed as it was at the last step, in words; empty where P alone is.
    """

    parameters: tuple[Tensor, ...]
    groups: tuple[FrozenGroup, ...]
    P: Tensor | None
    D: Tensor | None
    shift: Tensor | float
    status: str = "linear"
    reason: str = ""
    ascent: Ascent | None = None
    response: Tensor | float = 1.0
    condition: str = ""

    def clipped(self, clipped: Clipped) -> Frozen:
        """The same method while clipping acts as it did at this step: a condition its edge then has.

        Parameters that were not clipped, or that the optimizer does not move, are as they were.

        Raises:
            ShapeError: the optimizer moves none of the parameters that were clipped.
        """
        if clipped.num_clipped == 0 or not self.parameters:
            return self
        response = _response(self.parameters, clipped)
        if isinstance(response, Tensor) and self.D is not None and self.D.ndim == 2:
            reason = "clipping element by element and a dense preconditioner do not commute: no threshold is known."
            return replace(self, groups=(), P=None, D=None, status="no_threshold", reason=reason)
        held = (
            f"clipping held at its factor {clipped.factor:.3g}"
            if isinstance(clipped.factor, float)
            else f"clipping held on the {clipped.num_clipped} of {clipped.num_units} units it acted on"
        )
        condition = f"{self.condition} and {held}" if self.condition else held
        return replace(self, response=self.response * response, condition=condition)

    def stability_threshold(self) -> float:
        """The one threshold on lambda_1(P^-1 T(H)), in units of 1 / lr.

        Raises:
            UnsupportedOptimizerError: there is none, or the groups have different ones (they are named).
        """
        if not self.groups:
            raise UnsupportedOptimizerError(f"stability_threshold: {self.reason}")
        threshold = self.shared_threshold
        if threshold is None:
            each = ", ".join(f"group {i}: {group.threshold:.6g}" for i, group in enumerate(self.groups))
            raise UnsupportedOptimizerError(
                f"stability_threshold: the groups must share one threshold; got {each}. See .groups, or use the "
                "ratio, whose edge is 1 for all groups together."
            )
        return threshold

    @property
    def shared_threshold(self) -> float | None:
        """The threshold all groups share, or None where they differ or none exists."""
        thresholds = {group.threshold for group in self.groups}
        return thresholds.pop() if len(thresholds) == 1 else None

    def half_scaling(self) -> Tensor:
        """L with L L' = D: (p,) square roots, or (p, p) for a dense D.

        Raises:
            UnsupportedOptimizerError: there is no D, or it has no real root.
        """
        if self.D is None:
            raise UnsupportedOptimizerError(f"half_scaling: {self.reason}")
        if self.D.ndim == 2 and bool(self.D.isfinite().all()):
            return _dense_root(self.D)
        if bool((self.D >= 0).all() & self.D.isfinite().all()):
            return self.D.sqrt()
        raise _no_root(self.D.diagonal() if self.D.ndim == 2 else self.D)


def _dense_root(D: Tensor) -> Tensor:
    """Cholesky's factor, or that by eigenvectors where D is singular: coordinates are held still."""
    L, info = torch.linalg.cholesky_ex(D)
    if not info:
        return torch.as_tensor(L)
    values, Q = torch.linalg.eigh(D)
    if values[0] < -len(D) * torch.finfo(D.dtype).eps * values[-1].abs():
        raise _no_root(values)
    return torch.mul(Q, values.clamp(min=0).sqrt())


def _no_root(values: Tensor) -> UnsupportedOptimizerError:
    kind = f"{float(values.min()):.3g} in it" if bool(values.isfinite().all()) else "entries that are not finite"
    return UnsupportedOptimizerError(
        f"half_scaling: D must be finite and nonnegative, to have a root; got {kind}. Is a learning rate or second "
        "moment negative, NaN or infinite?"
    )


def _response(parameters: tuple[Tensor, ...], clipped: Clipped) -> Tensor | float:
    """What the clipping multiplies a change of the gradient by, for these parameters: one number, or (p,)."""
    places = {w: place for w in clipped.parameters if (place := _place(parameters, w)) is not None}
    p = sum(w.numel() for w in parameters)
    if not places:
        raise ShapeError("clipped: the optimizer must move what was clipped; got other parameters. Freeze its own.")
    if isinstance(clipped.factor, float) and sum(w.numel() for w in places) == p:
        return clipped.factor
    response = torch.ones(p, dtype=torch.promote_types(parameters[0].dtype, torch.float32), device=parameters[0].device)
    at = 0
    for w in clipped.parameters:
        factor = clipped.factor if isinstance(clipped.factor, float) else clipped.factor[at : at + w.numel()]
        if w in places:
            response[places[w] : places[w] + w.numel()] = factor
        at += w.numel()
    return response


def _place(parameters: tuple[Tensor, ...], w: Tensor) -> int | None:
    """Where w lies in the vector of all parameters, itself or as a view of one of them; None if it does not."""
    at = 0
    for whole in parameters:
        if w is whole:
            return at
        offset = (w.data_ptr() - whole.data_ptr()) // whole.element_size()
        is_inside = w.dtype == whole.dtype and w.device == whole.device and 0 <= offset <= whole.numel() - w.numel()
        if is_inside and w.numel() and whole.is_contiguous() and w.is_contiguous():
            return at + offset
        at += whole.numel()
    return None
