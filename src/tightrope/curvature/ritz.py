"""An orthonormal basis with its products: the Rayleigh-Ritz step every eigensolver here shares.

Legend: V = orthonormal basis (p, m), AV = its products (p, m), T = V'AV (m, m), theta = Ritz values,
S = Ritz coordinates (m, k), R = residuals (p, k), K = coordinates of what a restart keeps (m, j).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .operators import SymmetricOperator

INITIAL_CAPACITY = 8

CHUNK = 65_536
"""Coordinates recombined at a time, so that a restart needs no second basis."""


class RitzSpace:
    """An orthonormal basis of (p,) that grows column by column; each new column costs one product.

    Args:
        max_products: No more than so many are taken.
        max_columns: Restart rather than hold more than so many columns; None never to restart.
        ends: How many Ritz vectors a restart must keep, from the top and from the bottom.
    Attributes:
        dimension: p; over processes that hold parts of each vector, of the whole.
        num_products: Products spent.
        num_columns: m, as many as products until a restart.
        num_restarts: How often the basis was contracted.
        is_finite: False once a product held a NaN or an infinity.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        max_products: int,
        max_columns: int | None = None,
        ends: tuple[int, int] = (1, 0),
    ) -> None:
        self.operator, self.max_products, self.ends = operator, max_products, ends
        ones = torch.ones(operator.size, 1, dtype=torch.float64, device=operator.device)
        self.dimension = round(float(operator.inner(ones, ones)))
        limit = min(max_products, self.dimension)
        self.has_restarts = max_columns is not None and max_columns < limit
        self.max_columns = max_columns if max_columns is not None and self.has_restarts else limit
        self.num_products = self.num_columns = self.num_last = self.num_restarts = 0
        self.is_finite = True
        self._V = _zeros(operator, 0)
        self._AV = _zeros(operator, 0)
        self._T = torch.zeros(0, 0, dtype=torch.float64)
        self._former = self._T
        self._largest_scale, self._largest_m = 0.0, 0

    @property
    def V(self) -> Tensor:
        return self._V[: self.num_columns].T

    @property
    def AV(self) -> Tensor:
        return self._AV[: self.num_columns].T

    @property
    def is_exhausted(self) -> bool:
        """No product is left, or none is needed."""
        return self.num_products >= self.max_products or self.is_whole

    @property
    def is_whole(self) -> bool:
        """The basis spans all of (p,), so Ritz values are eigenvalues."""
        return self.num_columns == self.dimension

    def extend(self, block: Tensor) -> int:
        """Orthonormalise the columns of block (p, j) against the basis, multiply and add them.

        Columns that already lie in the space are dropped, and all once no product is left. Where the basis would
        get too long it is restarted first, with what is new in the block beside what is kept.

        Returns:
            How many columns were added.
        """
        self.num_last = 0
        if self.has_restarts and self.num_columns and not self.is_exhausted:
            block = self._with_room(block)
        for column in block.unbind(1):
            is_full = self.is_exhausted or self.num_columns == self.max_columns
            v = None if is_full else self._orthonormalised(column)
            if v is not None:
                self._append(v)
        return self.num_last

    def last_products(self) -> Tensor:
        """Products of the columns added last (p, j), the next block of a Krylov space."""
        return self.AV[:, self.num_columns - self.num_last :]

    def ritz(self, num_top: int, num_bottom: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (m,) descending, and vectors and residuals (p, k) of the first and the last so many."""
        theta, S = self._eigenpairs()
        chosen = outer(len(theta), num_top, num_bottom)
        S = S[:, chosen].to(self.operator.device, self.operator.dtype)
        vectors = self.V @ S
        return theta, vectors, self.AV @ S - vectors * theta[chosen].to(vectors)

    @property
    def rounding(self) -> float:
        """What rounding in the basis can add to an eigenvalue or a residual, from the largest |Ritz value| seen.

        Each restart recombines vectors and products apart, and so takes AV an eps or so further from A V.
        """
        scale, m = max(self._largest_scale, _scale(self._T)), max(self._largest_m, self.num_columns)
        return 4 * (m + self.num_restarts) * torch.finfo(self.operator.dtype).eps * scale

    def _eigenpairs(self) -> tuple[Tensor, Tensor]:
        theta, S = torch.linalg.eigh((self._T + self._T.T) / 2)
        return theta.flip(0), S.flip(1)

    def _with_room(self, block: Tensor) -> Tensor:
        """What is new in a block, with the basis restarted if it has no room for it."""
        fresh = [v for v in map(self._orthonormalised, block.unbind(1)) if v is not None]
        if self.num_columns + len(fresh) > self.max_columns:
            self._restart(len(fresh))
        else:
            self._former = self._eigenpairs()[1][:, outer(self.num_columns, *self.ends)]
        return torch.stack(fresh, dim=1) if fresh else block[:, :0]

    def _restart(self, num_fresh: int) -> None:
        """Contract the basis to the extreme Ritz vectors X and what the last ones hold beside them.

        The last ones make the next step locally optimal, as in LOBPCG; extreme ones beyond those asked for make it
        a thick restart.
        """
        self._largest_scale, self._largest_m = max(self._largest_scale, _scale(self._T)), self.num_columns
        num_spare = max(0, self.max_columns - 2 * sum(self.ends) - num_fresh) // 2
        bottom = self.ends[1] and self.ends[1] + num_spare // 2
        top = self.ends[0] + num_spare - (bottom - self.ends[1])
        X = self._eigenpairs()[1][:, outer(self.num_columns, top, bottom)]
        former = pad(self._former, (0, 0, 0, self.num_columns - len(self._former)))
        U, sigma, _ = torch.linalg.svd(former - X @ (X.T @ former), full_matrices=False)
        self._recombine(torch.cat([X, U[:, sigma > torch.finfo(U.dtype).eps ** 0.5]], dim=1))
        self._former = torch.eye(self.num_columns, dtype=X.dtype)[:, outer(X.shape[1], *self.ends)]
        self.num_restarts += 1

    def _recombine(self, K: Tensor) -> None:
        """The basis V K with its products, in place; K (m, j) is first bent so that the columns come out orthonormal
        although V is so only up to rounding, or departures would add up from restart to restart.
        """
        overlap = K.T @ self.operator.inner(self.V, self.V).double().cpu() @ K
        mu, Q = torch.linalg.eigh((overlap + overlap.T) / 2)
        K = K @ (Q / mu.sqrt()) @ Q.T
        rows = K.T.to(self._V)
        for basis in (self._V, self._AV):
            for part in basis[: self.num_columns].split(CHUNK, dim=1):
                part[: len(rows)] = rows @ part
        self._T, self.num_columns = K.T @ self._T @ K, len(rows)

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
        m = self.num_columns
        if m == len(self._V):
            capacity = min(max(INITIAL_CAPACITY, 2 * m), self.max_columns)
            self._V = torch.cat([self._V, _zeros(self.operator, capacity - m)])
            self._AV = torch.cat([self._AV, _zeros(self.operator, capacity - m)])
        self._V[m] = v
        self._AV[m] = self.operator @ v
        self.num_products, self.num_columns, self.num_last = self.num_products + 1, m + 1, self.num_last + 1
        column = self.operator.inner(self.V, self._AV[m][:, None])[:, 0].double().cpu()
        self.is_finite &= bool(column.isfinite().all())
        self._T = torch.nn.functional.pad(self._T, (0, 1, 0, 1))
        self._T[:, m] = self._T[m, :] = column


def _zeros(operator: SymmetricOperator, num: int) -> Tensor:
    """num zero vectors (num, p), where and as the operator wants them."""
    return torch.zeros(num, operator.size, dtype=operator.dtype, device=operator.device)


def _scale(T: Tensor) -> float:
    return float(T.abs().sum(1).max()) if len(T) else 0.0


def outer(m: int, num_top: int, num_bottom: int) -> list[int]:
    """Which of m numbers in order are among the first or the last so many, each once."""
    return [i for i in range(m) if i < num_top or i >= m - num_bottom]
