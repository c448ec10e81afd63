"""An orthonormal basis with its products: the Rayleigh-Ritz step every eigensolver here shares.

Legend: V = orthonormal basis (p, m), AV = its products (p, m), T = V'AV (m, m), theta = Ritz values,
S = Ritz coordinates (m, k), R = residuals (p, k), K = coordinates of what a restart keeps (m, j).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .basis import Basis
from .operators import SymmetricOperator

DROPPED = 32
"""In units of rounding: what is left of a unit vector beside the basis is nothing below this."""

SMALL = 1e-25
"""A square below this, or above its inverse, may have lost something to the range of its type."""

KEPT = 0.7
"""Of a vector's length, left when it is made orthogonal; with less it is done again (Kahan: twice is enough)."""


class RitzSpace:
    """An orthonormal basis of (p,) that grows column by column; each new column costs one product.

    Args:
        max_products: No more than so many are taken.
        max_columns: Restart rather than hold more than so many columns; None never to restart.
        ends: How many Ritz vectors a restart must keep, from the top and from the bottom.
        keeps_products: False for a Krylov space that grows by `extend_krylov` alone: its products but the last lie in
            it, so that none need be held.
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
        keeps_products: bool = True,
    ) -> None:
        self.operator, self.max_products, self.ends = operator, max_products, ends
        ones = torch.ones(operator.size, 1, dtype=torch.float64, device=operator.device)
        self.dimension = round(float(operator.inner(ones, ones)))
        limit = min(max_products, self.dimension)
        self.has_restarts = max_columns is not None and max_columns < limit
        self.max_columns = max_columns if max_columns is not None and self.has_restarts else limit
        self.num_products = self.num_columns = self.num_last = self.num_restarts = 0
        self.is_finite = True
        self.keeps_products = keeps_products or self.has_restarts
        self._V, self._AV = Basis(operator), Basis(operator)
        self._ends: list[int] = []
        self._last_square = 0.0
        self._T = torch.zeros(0, 0, dtype=torch.float64)
        self._former = self._T
        self._largest_scale, self._largest_m = 0.0, 0

    @property
    def V(self) -> Tensor:
        return self._V.whole

    @property
    def AV(self) -> Tensor:
        return self._AV.whole

    @property
    def T(self) -> Tensor:
        """V'AV (m, m), symmetric, in float64 on the CPU."""
        return (self._T + self._T.T) / 2

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

    def extend_krylov(self) -> int:
        """Grow the space by the products that lead out of it; returns how many columns that made."""
        ends, products = self._ends, self._AV.last(len(self._ends))
        known = self._T[:, ends]
        self.num_last, self._ends, self._AV = 0, [], Basis(self.operator)
        for j, column, c in zip(ends, products.unbind(1), known.unbind(1), strict=True):
            if self.is_exhausted:
                self._AV.append(column)
                self._ends.append(j)
                continue
            v = self._orthonormalised(column, c)
            if v is not None:
                self._append(v)
        return self.num_last

    def last_products(self) -> Tensor:
        """Products of the columns added last (p, j)."""
        return self._AV.last(self.num_last)

    @property
    def next_length(self) -> float | None:
        """How far the one product that leads out of the space does so, from what is at hand: at least the root of
        rounding. None where there is not one but several, or all products are kept.
        """
        if self.keeps_products or self._ends != [self.num_columns - 1]:
            return None
        square, c = self._last_square, self._T[:, -1]
        floor = DROPPED * torch.finfo(self.operator.dtype).eps * square
        return math.sqrt(max(square - float(c @ c), 0.0) + floor)

    def eigenpairs(self) -> tuple[Tensor, Tensor]:
        """Ritz values (m,) descending, and their coordinates (m, m)."""
        theta, S = torch.linalg.eigh(self.T)
        return theta.flip(0), S.flip(1)

    def ritz(self, num_top: int, num_bottom: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (m,) descending, and vectors and residuals (p, k) of the first and the last so many."""
        theta, S = self.eigenpairs()
        chosen = outer(len(theta), num_top, num_bottom)
        S = S[:, chosen]
        vectors = self._V.times(S)
        if self.keeps_products:
            return theta, vectors, self._AV.times(S) - vectors * theta[chosen].to(vectors)
        # A V = V T but for the columns whose products lead out of the space: what is out there is the residual.
        ends = S[self._ends]
        return theta, vectors, self._AV.times(ends) - self._V.times(self._T[:, self._ends] @ ends)

    @property
    def rounding(self) -> float:
        """What rounding in the basis can add to an eigenvalue or a residual, from the largest |Ritz value| seen.

        Each restart recombines vectors and products apart, and so takes AV an eps or so further from A V.
        """
        scale, m = max(self._largest_scale, _scale(self._T)), max(self._largest_m, self.num_columns)
        return 4 * (m + self.num_restarts) * torch.finfo(self.operator.dtype).eps * scale

    @property
    def dropped(self) -> float:
        """What more a residual may hold that no product was kept to show."""
        scale = max(self._largest_scale, _scale(self._T))
        return 0.0 if self.keeps_products or self.is_whole else self._negligible * scale

    def _with_room(self, block: Tensor) -> Tensor:
        """What is new in a block, with the basis restarted if it has no room for it."""
        fresh = [v for v in map(self._orthonormalised, block.unbind(1)) if v is not None]
        if self.num_columns + len(fresh) > self.max_columns:
            self._restart(len(fresh))
        else:
            self._former = self.eigenpairs()[1][:, outer(self.num_columns, *self.ends)]
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
        X = self.eigenpairs()[1][:, outer(self.num_columns, top, bottom)]
        former = pad(self._former, (0, 0, 0, self.num_columns - len(self._former)))
        U, sigma, _ = torch.linalg.svd(former - X @ (X.T @ former), full_matrices=False)
        self._recombine(torch.cat([X, U[:, sigma > torch.finfo(U.dtype).eps ** 0.5]], dim=1))
        self._former = torch.eye(self.num_columns, dtype=X.dtype)[:, outer(X.shape[1], *self.ends)]
        self.num_restarts += 1

    def _recombine(self, K: Tensor) -> None:
        """The basis V K with its products, in place; K (m, j) is first bent so that the columns come out orthonormal
        although V is so only up to rounding, or departures would add up from restart to restart.
        """
        overlap = K.T @ self._V.gram().double().cpu() @ K
        mu, Q = torch.linalg.eigh((overlap + overlap.T) / 2)
        K = K @ (Q / mu.sqrt()) @ Q.T
        self._V.recombine(K)
        self._AV.recombine(K)
        self._T, self.num_columns = K.T @ self._T @ K, K.shape[1]

    def _orthonormalised(self, x: Tensor, known: Tensor | None = None) -> Tensor | None:
        """What x has beside the basis, at unit length; `known` are its inner products with the first columns."""
        length = self._length(x)
        if not 0 < length < float("inf"):
            return None
        x = x / length
        if known is not None:
            self._V.subtract(known / length, x)
            if self._normalise(x) < self._negligible:
                return None
        for _ in range(3):
            self._V.subtract(self._V.inner(x[:, None])[:, 0], x)
            length = self._normalise(x)
            if length < self._negligible:
                return None
            if length > KEPT:
                break
        return x

    @property
    def _negligible(self) -> float:
        return DROPPED * torch.finfo(self.operator.dtype).eps

    def _normalise(self, x: Tensor) -> float:
        """Bring x to unit length, in place, unless it is zero; returns the length it had."""
        length = math.sqrt(float(self.operator.inner(x[:, None], x[:, None])))
        if length > 0:
            x /= length
        return length

    def _length(self, x: Tensor) -> float:
        column = x[:, None]
        square = float(self.operator.inner(column, column))
        if not SMALL < square < 1 / SMALL:  # squares of float32 numbers leave its range
            column = column.double()
            square = float(self.operator.inner(column, column))
        return math.sqrt(square)

    def _append(self, v: Tensor) -> None:
        y = self.operator @ v
        self._V.append(v)
        self._AV.append(y)
        m = self.num_columns
        if not self.keeps_products:
            self._ends.append(m)
            self._last_square = self._length(y) ** 2
        self.num_products, self.num_columns, self.num_last = self.num_products + 1, m + 1, self.num_last + 1
        column = self._V.inner(y[:, None])[:, 0].double().cpu()
        self.is_finite &= bool(column.isfinite().all())
        self._T = torch.nn.functional.pad(self._T, (0, 1, 0, 1))
        self._T[:, m] = self._T[m, :] = column


def _scale(T: Tensor) -> float:
    return float(T.abs().sum(1).max()) if len(T) else 0.0


def outer(m: int, num_top: int, num_bottom: int) -> list[int]:
    """Which of m numbers in order are among the first or the last so many, each once."""
    return [i for i in range(m) if i < num_top or i >= m - num_bottom]
