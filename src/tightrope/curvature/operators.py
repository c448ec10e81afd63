"""Symmetric operators on flat vectors: what a solver may ask of a matrix it never sees.

Legend: p = number of parameters, k = number of vectors, V = block of vectors (p, k).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tightrope.errors import ShapeError

STRETCH = 4096
"""Coordinates that are summed in the vectors' own type."""


def inner_product(U: Tensor, V: Tensor) -> Tensor:
    """U'V, where the sum over millions of coordinates does not add up their rounding.

    A matrix product sums in the type of its factors one after the other: over 3e6 float32 coordinates that is off by
    2e-3. Here stretches are summed so, and their sums in float64.
    """
    if U.dtype == torch.float64 or len(U) <= STRETCH:
        return U.T @ V
    whole = len(U) - len(U) % STRETCH
    A, B = (X.T[:, :whole].unflatten(1, (-1, STRETCH)).transpose(0, 1) for X in (U, V))
    total: Tensor = (A @ B.mT).double().sum(0) + (U[whole:].T @ V[whole:]).double()
    return total.to(U.dtype)


class SymmetricOperator(ABC):
    """A symmetric linear map on (p,), known by its products.

    Attributes:
        size: p.
        dtype: Of the vectors it takes.
        device: Where they live.
        route: How a product is computed, in words.
        cost: Products of the innermost operator that one product takes.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    route: str
    cost: int = 1

    @abstractmethod
    def apply(self, v: Tensor) -> Tensor:
        """The product with one vector, (p,) -> (p,)."""

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        """U'V for blocks (p, j) and (p, k); the only reduction over p that solvers use."""
        return inner_product(U, V)

    def apply_block(self, v: Tensor, where: slice | Tensor) -> Tensor:
        """The product at some coordinates (q,) with a vector (q,) that is zero at all others."""
        whole = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        whole[where] = v
        return self.apply(whole)[where]

    def __matmul__(self, V: Tensor) -> Tensor:
        """The product with a vector (p,) or a block (p, k).

        Raises:
            ShapeError: V has another length, dtype or device.
        """
        if not isinstance(V, Tensor) or V.ndim not in (1, 2) or V.shape[0] != self.size:
            got = tuple(V.shape) if isinstance(V, Tensor) else type(V).__name__
            raise ShapeError(f"{type(self).__name__}: needs vectors ({self.size},) or ({self.size}, k); got {got}.")
        if V.dtype != self.dtype or V.device != self.device:
            raise ShapeError(
                f"{type(self).__name__}: needs {self.dtype} on {self.device}; got {V.dtype} on {V.device}. "
                "Convert with .to()."
            )
        if V.ndim == 1:
            return self.apply(V)
        products = [self.apply(v) for v in V.T.contiguous()]
        return torch.stack(products, dim=1) if products else V.clone()


def check_operator(where: str, operator: object) -> None:
    """Raise unless it is an operator.

    Raises:
        ShapeError: "WHERE: the operator must be ...; got ..."
    """
    if not isinstance(operator, SymmetricOperator):
        got = f"a tensor {tuple(operator.shape)}" if isinstance(operator, Tensor) else type(operator).__name__
        raise ShapeError(
            f"{where}: the operator must be a SymmetricOperator; got {got}. Write Dense(A) for a matrix at hand, "
            "hessian(model, loss_fn, batch) for a loss."
        )


class Dense(SymmetricOperator):
    """A symmetric matrix at hand, (p, p).

    Raises:
        ShapeError: A is not square, not of real floating-point numbers, or not symmetric to half its digits.
    """

    route = "dense"

    def __init__(self, A: Tensor) -> None:
        if not isinstance(A, Tensor) or A.ndim != 2 or A.shape[0] != A.shape[1]:
            got = tuple(A.shape) if isinstance(A, Tensor) else type(A).__name__
            raise ShapeError(f"Dense: the matrix must be a tensor (p, p); got {got}.")
        if not A.is_floating_point():
            raise ShapeError(
                f"Dense: the matrix must be of real floating-point numbers; got {A.dtype}. Write A.double()."
            )
        worst, largest = (float(x.abs().max()) if x.numel() else 0.0 for x in (A - A.T, A))
        if worst > torch.finfo(A.dtype).eps ** 0.5 * largest:  # with a NaN it is not, and products say so
            raise ShapeError(
                f"Dense: the matrix must be symmetric; got entries up to {largest:.3g}, and {worst:.3g} between one "
                "and its mirror image. Write (A + A.T) / 2 for its symmetric part."
            )
        self.A = A
        self.size, self.dtype, self.device = A.shape[0], A.dtype, A.device

    def apply(self, v: Tensor) -> Tensor:
        return self.A @ v


class Scaled(SymmetricOperator):
    """L' (A + diag(shift)) L, the curvature seen through an edge scaling D = L L'.

    Args:
        operator: A, (p, p).
        half: (p,) for a diagonal L, or L itself (p, p); zero where a coordinate is held still.
        shift: A number or (p,) added to A's diagonal (coupled weight decay).
    Raises:
        ShapeError: half or shift is of another shape, or half not finite.
    """

    def __init__(self, operator: SymmetricOperator, half: Tensor, shift: Tensor | float = 0.0) -> None:
        if half.shape not in ((operator.size,), (operator.size, operator.size)):
            raise ShapeError(f"Scaled: half must be ({operator.size},) or square; got {tuple(half.shape)}.")
        if not bool(half.isfinite().all()):
            raise ShapeError(
                f"Scaled: half must be finite; got {int((~half.isfinite()).sum())} entries that are not. The root of D "
                "exists where D is finite and nonnegative."
            )
        if isinstance(shift, Tensor) and shift.shape not in ((), (operator.size,)):
            raise ShapeError(f"Scaled: shift must be a number or ({operator.size},); got {tuple(shift.shape)}.")
        self.operator, self.half, self.shift = operator, half.to(operator.dtype), shift
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.route, self.cost = operator.route, operator.cost

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        if self.half.ndim == 2:
            x = self.half @ v
            return self.half.T @ (self.operator.apply(x) + self.shift * x)
        x = self.half * v
        return self.half * (self.operator.apply(x) + self.shift * x)

    def apply_block(self, v: Tensor, where: slice | Tensor) -> Tensor:
        if self.half.ndim == 2:
            return SymmetricOperator.apply_block(self, v, where)
        half = self.half[where]
        x = half * v
        shift = self.shift.expand(self.size)[where] if isinstance(self.shift, Tensor) else self.shift
        return half * (self.operator.apply_block(x, where) + shift * x)


class Ascended(SymmetricOperator):
    """A + factor A diag(scale) A, the curvature met by gradients taken uphill (sharpness-aware minimisation).

    Args:
        operator: A, (p, p).
        factor: c, what a gradient is multiplied by to give the ascent.
        scale: (p,) diagonal between the two products; None for the identity.
    """

    def __init__(self, operator: SymmetricOperator, factor: float, scale: Tensor | None = None) -> None:
        if scale is not None and scale.shape != (operator.size,):
            raise ShapeError(f"Ascended: scale must be ({operator.size},); got {tuple(scale.shape)}.")
        self.operator, self.factor = operator, factor
        self.scale = None if scale is None else scale.to(operator.device, operator.dtype)
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.route, self.cost = operator.route, 2 * operator.cost

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        g = self.operator.apply(v)
        eps = self.factor * (g if self.scale is None else self.scale * g)
        return g + self.operator.apply(eps)
