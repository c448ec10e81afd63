"""A growing orthonormal basis with its products: the Rayleigh-Ritz step every eigensolver here shares.

Legend: V = orthonormal basis (p, m), AV = its products (p, m), T = V'AV (m, m), theta = Ritz values,
S = Ritz coordinates (m, k), R = residuals (p, k).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operators import SymmetricOperator

INITIAL_CAPACITY = 8


class RitzSpace:
    """An orthonormal basis of (p,) that grows column by column; each new column costs one product.

    Attributes:
        num_products: Products spent, the number of columns.
        is_finite: False once a product held a NaN or an infinity.
    """

    def __init__(self, operator: SymmetricOperator, max_products: int) -> None:
        self.operator = operator
        self.max_products = min(max_products, operator.size)
        self.num_products = 0
        self.num_last = 0
        self.is_finite = True
        self._V = _zeros(operator, 0)
        self._AV = _zeros(operator, 0)
        self._T = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def V(self) -> Tensor:
        return self._V[: self.num_products].T

    @property
    def AV(self) -> Tensor:
        return self._AV[: self.num_products].T

    @property
    def is_exhausted(self) -> bool:
        """No product is left."""
        return self.num_products >= self.max_products

    @property
    def is_whole(self) -> bool:
        """The basis spans all of (p,), so Ritz values are eigenvalues."""
        return self.num_products == self.operator.size

    def extend(self, block: Tensor) -> int:
        """Orthonormalise the columns of block (p, j) against the basis, multiply and add them.

        Columns that already lie in the space are dropped, and all once no product is left.

        Returns:
            How many columns were added.
        """
        self.num_last = 0
        for column in block.unbind(1):
            v = None if self.is_exhausted else self._orthonormalised(column)
            if v is not None:
                self._append(v)
        return self.num_last

    def last_products(self) -> Tensor:
        """Products of the columns added last (p, j), the next block of a Krylov space."""
        return self.AV[:, self.num_products - self.num_last :]

    def ritz(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The largest Ritz values (m,) descending, and vectors and residuals (p, k) of the first k."""
        theta, S = torch.linalg.eigh((self._T + self._T.T) / 2)
        theta, S = theta.flip(0), S.flip(1)[:, :k].to(self.operator.device, self.operator.dtype)
        vectors = self.V @ S
        return theta, vectors, self.AV @ S - vectors * theta[:k].to(vectors)

    @property
    def rounding(self) -> float:
        """What rounding in the basis can add to an eigenvalue or a residual, from the largest |Ritz value|."""
        scale = float(self._T.abs().sum(1).max()) if self.num_products else 0.0
        return 4 * self.num_products * torch.finfo(self.operator.dtype).eps * scale

    def _orthonormalised(self, x: Tensor) -> Tensor | None:
        length = self._norm(x)
        if not 0 < length < float("inf"):
            return None
        x = x / length
        for _ in range(3):
            # Twice is enough (Kahan) unless the first pass cancelled almost everything; then once more.
            x = x - self.V @ self.operator.inner(self.V, x[:, None])[:, 0]
            length = self._norm(x)
            if length < 32 * torch.finfo(x.dtype).eps:
                return None
            x = x / length
        return x

    def _norm(self, x: Tensor) -> float:
        column = x[:, None].double()  # squares of float32 numbers leave its range
        return math.sqrt(float(self.operator.inner(column, column)))

    def _append(self, v: Tensor) -> None:
        m = self.num_products
        if m == len(self._V):
            capacity = min(max(INITIAL_CAPACITY, 2 * m), self.max_products)
            self._V = torch.cat([self._V, _zeros(self.operator, capacity - m)])
            self._AV = torch.cat([self._AV, _zeros(self.operator, capacity - m)])
        self._V[m] = v
        self._AV[m] = self.operator @ v
        self.num_products, self.num_last = m + 1, self.num_last + 1
        column = self.operator.inner(self.V, self._AV[m][:, None])[:, 0].double().cpu()
        self.is_finite &= bool(column.isfinite().all())
        self._T = torch.nn.functional.pad(self._T, (0, 1, 0, 1))
        self._T[:, m] = self._T[m, :] = column


def _zeros(operator: SymmetricOperator, num: int) -> Tensor:
    """num zero vectors (num, p), where and as the operator wants them."""
    return torch.zeros(num, operator.size, dtype=operator.dtype, device=operator.device)
