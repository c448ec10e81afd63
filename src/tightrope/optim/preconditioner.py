"""Preconditioner rules: how each method turns past gradients into the positive scaling P of its step.

Legend: g = gradient, nu = second moment, P = preconditioner, t = number of the step that uses P (1, 2, ...).
A rule is its hyperparameters; its state is a dict that the caller keeps, of tensors and of what torch's
load_state_dict must not round to the dtype of a parameter: counts and flags, which are plain numbers.
"""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar

import msgspec
import torch
from torch import Tensor

from tightrope.errors import ShapeError, check_number

State = dict[str, Any]


class AbstractStructMeta(msgspec.StructMeta, ABCMeta):
    """A Struct that may have abstract methods."""


class PreconditionerRule(msgspec.Struct, metaclass=AbstractStructMeta, frozen=True, tag_field="name"):
    """How P follows from past gradients, one parameter tensor at a time.

    `is_diagonal` says whether P acts elementwise, `is_adaptive` whether it follows the gradients, `needs_shapes`
    whether a flat vector would not do,
    `is_bias_corrected` whether the method divides its average gradient by 1 - beta1^t, which is then carried
    in P (Cohen et al. 2022, eq. 2).
    """

    is_diagonal: ClassVar[bool] = True
    is_adaptive: ClassVar[bool] = False
    needs_shapes: ClassVar[bool] = False

    @property
    def is_bias_corrected(self) -> bool:
        return False

    @property
    @abstractmethod
    def formula(self) -> str:
        """P written out, for people."""

    def check_size(self, num_elements: int) -> None:
        """Raise ShapeError unless the rule fits a group of that many parameter elements."""

    @abstractmethod
    def init(self, w: Tensor, start: int) -> State:
        """State before the first step, for the parameter w whose first element is number `start` of its group."""

    @abstractmethod
    def update(self, state: State, g: Tensor) -> None:
        """Take in the gradient g of this step, in place."""

    @abstractmethod
    def diagonal(self, state: State, t: int) -> Tensor | None:
        """P of step t in the shape of the parameter, or None where P is the identity.

        A dense rule returns P itself, (p, p).
        """


class Identity(PreconditionerRule, frozen=True, tag="identity", forbid_unknown_fields=True):
    """P = I: gradient descent and its momentum forms."""

    @property
    def formula(self) -> str:
        return "I"

    def init(self, w: Tensor, start: int) -> State:
        return {}

    def update(self, state: State, g: Tensor) -> None:
        pass

    def diagonal(self, state: State, t: int) -> Tensor | None:
        return None


class RMS(PreconditionerRule, frozen=True, tag="rms", forbid_unknown_fields=True):
    """P = nu^power + eps, with nu <- beta nu + (1 - beta) g^2 (RMSProp, Adam, AMSGrad, Padam).

    Args:
        beta: Decay of the second moment, in [0, 1).
        eps: Floor of P, at least 0; outside the root unless `eps_inside_root`.
        power: 1/2 for RMSProp and Adam; Padam takes less.
        bias_correction: Divide nu by 1 - beta^t, and P by the average gradient's own correction.
        eps_inside_root: P = (nu + eps)^power, the form of some lecture notes.
        running_max: Use the largest nu so far (AMSGrad), so that P never falls. The maximum is of nu itself; with
            bias_correction it is divided by 1 - beta^t afterwards, as torch does, and P can fall early on.
        gradient_init: Start nu at the first g^2 instead of 0. With bias_correction, which then overcorrects, steps
            are warmed up by sqrt(1 - beta^t) (GI-Adam); without, it takes the place of the correction.
    References:
        Tieleman and Hinton 2012; Kingma and Ba 2015 (arXiv 1412.6980), Algorithm 1; Reddi et al. 2018 (arXiv
        1904.09237), Algorithm 2; Chen et al. 2018 (arXiv 1806.06763), Algorithm 1; Cohen et al. 2022, eqs. 1-2;
        Kalra and Barkeshli 2024 (arXiv 2406.09405) for GI-Adam.
    """

    is_adaptive: ClassVar[bool] = True
    beta: float = 0.999
    eps: float = 1e-8
    power: float = 0.5
    bias_correction: bool = False
    eps_inside_root: bool = False
    running_max: bool = False
    gradient_init: bool = False

    def __post_init__(self) -> None:
        check_number("RMS: beta", self.beta, lambda beta: 0 <= beta < 1, "be in [0, 1)")
        check_number("RMS: eps", self.eps, lambda eps: 0 <= eps < math.inf, "be finite and at least 0")
        check_number("RMS: power", self.power, lambda q: 0 < q <= 0.5, "be in (0, 1/2]", "1/2 is RMSProp and Adam.")

    @property
    def is_bias_corrected(self) -> bool:
        return self.bias_correction

    @property
    def formula(self) -> str:
        nu = "max nu" if self.running_max else "nu"
        nu = f"{nu}/(1-beta2^t)" if self.bias_correction else nu
        root = "sqrt({})" if self.power == 0.5 else "({})^" + f"{self.power:g}"
        inner = root.format(f"{nu} + eps") if self.eps_inside_root else f"{root.format(nu)} + eps"
        return f"(1-beta1^t) ({inner})" if self.bias_correction else inner

    def init(self, w: Tensor, start: int) -> State:
        names = ("nu", "max_nu") if self.running_max else ("nu",)
        state: State = {name: torch.zeros_like(w, memory_format=torch.preserve_format) for name in names}
        return {**state, "is_started": False} if self.gradient_init else state

    def update(self, state: State, g: Tensor) -> None:
        if self.gradient_init and not state["is_started"]:
            state["nu"].addcmul_(g, g)
            state["is_started"] = True
        nu = state["nu"].mul_(self.beta).addcmul_(g, g, value=1 - self.beta)
        if self.running_max:
            torch.maximum(state["max_nu"], nu, out=state["max_nu"])

    def diagonal(self, state: State, t: int) -> Tensor:
        nu: Tensor = state["max_nu" if self.running_max else "nu"]
        if self.bias_correction:
            nu = nu / (1 - self.beta**t)
        if self.eps_inside_root:
            return (nu + self.eps).pow_(self.power)
        root = nu.sqrt() if self.power == 0.5 else nu.pow(self.power)
        return root.add_(self.eps)


class Accumulated(PreconditionerRule, frozen=True, tag="accumulated", forbid_unknown_fields=True):
    """P = sqrt(initial + sum of g^2) + eps: AdaGrad, whose P only grows.

    Args:
        eps: Floor of P, at least 0; outside the root unless `eps_inside_root`.
        initial: What the sum starts from, at least 0.
    References:
        Duchi et al. 2011, JMLR 12, Figure 1 (diagonal).
    """

    is_adaptive: ClassVar[bool] = True
    eps: float = 1e-10
    initial: float = 0.0
    eps_inside_root: bool = False

    def __post_init__(self) -> None:
        positive = "be finite and at least 0"
        check_number("Accumulated: eps", self.eps, lambda eps: 0 <= eps < math.inf, positive)
        check_number("Accumulated: initial", self.initial, lambda initial: 0 <= initial < math.inf, positive)

    @property
    def formula(self) -> str:
        return "sqrt(sum g^2 + eps)" if self.eps_inside_root else "sqrt(sum g^2) + eps"

    def init(self, w: Tensor, start: int) -> State:
        return {"sum": torch.full_like(w, self.initial, memory_format=torch.preserve_format)}

    def update(self, state: State, g: Tensor) -> None:
        state["sum"].addcmul_(g, g)

    def diagonal(self, state: State, t: int) -> Tensor:
        total: Tensor = state["sum"]
        return (total + self.eps).sqrt_() if self.eps_inside_root else total.sqrt().add_(self.eps)


class Factored(PreconditionerRule, frozen=True, tag="factored", forbid_unknown_fields=True):
    """P = sqrt(nu) with nu kept as the outer product of its row and column means: Adafactor.

    Matrices (and the last two dimensions of larger tensors) keep one number a row and one a column; vectors keep
    all. The decay grows with the step, 1 - t^-decay. The paper this follows names decay, momentum and eps only,
    so here are, as an assumption, no relative step, no scaling by the parameter and no clipping; momentum is
    taken of the gradient, as in Adam.

    Args:
        decay: Exponent of the decay 1 - t^-decay, in (0, 1].
        eps: Added to g^2, at least 0.
    References:
        Shazeer and Stern 2018 (arXiv 1804.04235), Algorithms 2 and 4, section 7.2; Cohen et al. 2022, Appendix G.2.
    """

    is_adaptive: ClassVar[bool] = True
    needs_shapes: ClassVar[bool] = True
    decay: float = 0.8
    eps: float = 1e-7

    def __post_init__(self) -> None:
        check_number("Factored: decay", self.decay, lambda decay: 0 < decay <= 1, "be in (0, 1]")
        check_number("Factored: eps", self.eps, lambda eps: 0 <= eps < math.inf, "be finite and at least 0")

    @property
    def formula(self) -> str:
        return "sqrt(rows of nu x columns of nu / mean of nu)"

    def init(self, w: Tensor, start: int) -> State:
        if w.ndim < 2:
            return {"count": 0, "nu": torch.zeros_like(w, memory_format=torch.preserve_format)}
        return {"count": 0, "rows": w.new_zeros(w.shape[:-1]), "columns": w.new_zeros(*w.shape[:-2], w.shape[-1])}

    def update(self, state: State, g: Tensor) -> None:
        state["count"] += 1
        weight = state["count"] ** -self.decay
        square = g.square().add_(self.eps)
        if "nu" in state:
            state["nu"].lerp_(square, weight)
        else:
            state["rows"].lerp_(square.mean(dim=-1), weight)
            state["columns"].lerp_(square.mean(dim=-2), weight)

    def diagonal(self, state: State, t: int) -> Tensor:
        if "nu" in state:
            nu: Tensor = state["nu"]
            return nu.sqrt()
        rows: Tensor = state["rows"]
        columns: Tensor = state["columns"]
        relative = rows / rows.mean(dim=-1, keepdim=True)
        return (relative[..., :, None] * columns[..., None, :]).sqrt_()


class FixedDiagonal(PreconditionerRule, frozen=True, tag="fixed_diagonal", eq=False):
    """P = diag(P), constant: one learning rate a parameter, or an adaptive method frozen in time.

    Args:
        P: (p,) positive, in the order of the optimizer's parameters.
    """

    P: Tensor

    def __post_init__(self) -> None:
        if self.P.ndim != 1 or not bool((self.P > 0).all()):
            raise ShapeError("FixedDiagonal: P must be one positive vector (p,); flatten it, and floor zeros.")

    @property
    def formula(self) -> str:
        return "diag(P), fixed"

    def check_size(self, num_elements: int) -> None:
        if num_elements != self.P.numel():
            raise ShapeError(
                f"FixedDiagonal: P must have one entry a parameter element of its group; got {self.P.numel()} "
                f"for {num_elements}."
            )

    def init(self, w: Tensor, start: int) -> State:
        return {"P": self.P[start : start + w.numel()].reshape(w.shape).to(w)}

    def update(self, state: State, g: Tensor) -> None:
        pass

    def diagonal(self, state: State, t: int) -> Tensor:
        P: Tensor = state["P"]
        return P


class FixedDense(PreconditionerRule, frozen=True, tag="fixed_dense", eq=False):
    """P a constant symmetric positive definite matrix; P = H is Newton's method.

    Acts on one flat parameter (p,): see `tightrope.parameters.share_storage`.

    Args:
        P: (p, p) symmetric positive definite.
    Cost:
        One Cholesky factorisation, p^3 / 3; each step p^2.
    """

    is_diagonal: ClassVar[bool] = False
    P: Tensor

    def __post_init__(self) -> None:
        P = self.P
        if P.ndim != 2 or P.shape[0] != P.shape[1] or not torch.allclose(P, P.T):
            raise ShapeError(f"FixedDense: P must be a symmetric matrix (p, p); got {tuple(P.shape)}.")
        if torch.linalg.cholesky_ex(P).info != 0:
            raise ShapeError("FixedDense: P must be positive definite; add a multiple of the identity to it.")

    @property
    def formula(self) -> str:
        return "P, fixed and dense"

    def init(self, w: Tensor, start: int) -> State:
        if start != 0 or w.shape != self.P.shape[:1]:
            raise ShapeError(
                f"FixedDense: needs one flat parameter ({self.P.shape[0]},); got shape {tuple(w.shape)}. "
                "Flatten the model with tightrope.parameters.share_storage."
            )
        P = self.P.to(w)
        return {"P": P, "cholesky": torch.linalg.cholesky(P)}

    def update(self, state: State, g: Tensor) -> None:
        pass

    def diagonal(self, state: State, t: int) -> Tensor:
        P: Tensor = state["P"]
        return P
