"""Operators made of operators: shifted, squared, summed, kept off a subspace, or handed to scipy.

Legend: A = the operator beneath, p = its size, Q = orthonormal block (p, j).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tightrope.errors import ShapeError

from .operators import SymmetricOperator, check_operator

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator  # type: ignore[import-untyped]


class Shifted(SymmetricOperator):
    """A + c I, or A + diag(c): curvature with coupled weight decay, or damped.

    Args:
        operator: A, (p, p).
        shift: c, a number or (p,).
    """

    def __init__(self, operator: SymmetricOperator, shift: Tensor | float) -> None:
        if isinstance(shift, Tensor) and shift.shape not in ((), (operator.size,)):
            raise ShapeError(f"Shifted: shift must be a number or ({operator.size},); got {tuple(shift.shape)}.")
        self.operator = operator
        self.shift = shift.to(operator.device, operator.dtype) if isinstance(shift, Tensor) else shift
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.route, self.cost = operator.route, operator.cost

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        return self.operator.apply(v) + self.shift * v


class Squared(SymmetricOperator):
    """A A: the same eigenvectors, the eigenvalues squared."""

    def __init__(self, operator: SymmetricOperator) -> None:
        self.operator = operator
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.route, self.cost = operator.route, 2 * operator.cost

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        return self.operator.apply(self.operator.apply(v))


class Sum(SymmetricOperator):
    """c_1 A_1 + c_2 A_2 + ...: the curvature of a weighted sum of losses, such as those of several batches.

    Inner products are the first operator's; a product takes one of each.

    Args:
        operators: At least one; of one size, dtype and device.
        weights: A number each; None for 1. The mean over batches takes their shares of the examples.
    """

    def __init__(self, operators: Sequence[SymmetricOperator], weights: Sequence[float] | None = None) -> None:
        self.operators = tuple(operators)
        self.weights = tuple(1.0 for _ in self.operators) if weights is None else tuple(weights)
        if not self.operators or len(self.weights) != len(self.operators):
            raise ShapeError(
                "Sum: there must be at least one operator, and one weight each; "
                f"got {len(self.operators)} operators and {len(self.weights)} weights."
            )
        kinds = {(operator.size, operator.dtype, operator.device) for operator in self.operators}
        if len(kinds) > 1:
            listed = ", ".join(sorted(f"({size}, {dtype}, {device})" for size, dtype, device in kinds))
            raise ShapeError(f"Sum: the operators must share one size, dtype and device; got {listed}.")
        ((self.size, self.dtype, self.device),) = kinds
        self.route = " + ".join(dict.fromkeys(operator.route for operator in self.operators))
        self.cost = sum(operator.cost for operator in self.operators)

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operators[0].inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for weight, operator in zip(self.weights, self.operators, strict=True):
            total += weight * operator.apply(v)
        return total


class Projected(SymmetricOperator):
    """(I - Q Q') A (I - Q Q'): what A does off a subspace, which it sends to zero.

    Off the eigenvectors already known it shows the rest of a spectrum.

    Args:
        operator: A, (p, p).
        Q: (p, j), orthonormal columns, such as `EigenResult.vectors`.
    """

    def __init__(self, operator: SymmetricOperator, Q: Tensor) -> None:
        if Q.ndim != 2 or Q.shape[0] != operator.size:
            raise ShapeError(f"Projected: Q must be ({operator.size}, j); got {tuple(Q.shape)}.")
        self.operator, self.Q = operator, Q.to(operator.device, operator.dtype)
        defect = operator.inner(self.Q, self.Q).double().cpu() - torch.eye(Q.shape[1], dtype=torch.float64)
        worst = float(defect.abs().max()) if defect.numel() else 0.0
        if not worst <= torch.finfo(operator.dtype).eps ** 0.5:  # a NaN is refused too
            raise ShapeError(
                f"Projected: the columns of Q must be orthonormal; got Q'Q off the identity by {worst:.1e}. "
                "Take torch.linalg.qr(Q).Q."
            )
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.route, self.cost = operator.route, operator.cost

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        return self._off(self.operator.apply(self._off(v)))

    def _off(self, v: Tensor) -> Tensor:
        return v - self.Q @ self.operator.inner(self.Q, v[:, None])[:, 0]


def to_scipy(operator: SymmetricOperator) -> LinearOperator:
    """The operator as a scipy LinearOperator (p, p), for scipy's solvers: `eigsh(to_scipy(H), k=3)`.

    Vectors pass through the CPU; numpy's float64 stands for float64 and its float32 for any smaller type.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

    check_operator("to_scipy", operator)
    dtype = torch.float64 if operator.dtype == torch.float64 else torch.float32

    def multiply(V: np.ndarray) -> np.ndarray:
        V = np.require(V, requirements=["C", "W"])  # torch shares no memory that is read-only or runs backwards
        product: np.ndarray = (
            (operator @ torch.from_numpy(V).to(operator.device, operator.dtype)).to("cpu", dtype).numpy()
        )
        return product

    def matvec(v: np.ndarray) -> np.ndarray:
        return multiply(v.reshape(-1))

    kind = torch.empty(0, dtype=dtype).numpy().dtype
    shape = (operator.size, operator.size)
    return LinearOperator(shape, matvec=matvec, rmatvec=matvec, matmat=multiply, rmatmat=multiply, dtype=kind)
