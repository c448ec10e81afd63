"""Columns over (p,) that grow in number without being copied.

Legend: V = columns (p, m), C = coordinates (m, j).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import SymmetricOperator

WIDTH = 4
"""Columns that are made room for at a time."""

CHUNK = 65_536
"""Coordinates recombined at a time, so that it takes no second set of columns."""


class Basis:
    """Columns V (p, m) where and as an operator wants them, held in blocks.

    Attributes:
        num: m.
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        self.operator, self.num = operator, 0
        self._blocks: list[Tensor] = []

    def append(self, v: Tensor) -> None:
        """One more column (p,)."""
        block, row = divmod(self.num, WIDTH)
        if block == len(self._blocks):
            o = self.operator
            self._blocks.append(torch.empty(WIDTH, o.size, dtype=o.dtype, device=o.device))
        self._blocks[block][row] = v
        self.num += 1

    @property
    def whole(self) -> Tensor:
        """V (p, m); a copy where it takes more than one block."""
        parts = self._parts
        if not parts:
            return torch.zeros(self.operator.size, 0, dtype=self.operator.dtype, device=self.operator.device)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def last(self, num: int) -> Tensor:
        """The last so many columns (p, num)."""
        chosen = [self._blocks[i // WIDTH][i % WIDTH] for i in range(self.num - num, self.num)]
        return torch.stack(chosen, dim=1) if chosen else self.whole[:, :0]

    def inner(self, X: Tensor) -> Tensor:
        """V'X (m, j)."""
        found = [self.operator.inner(part, X) for part in self._parts]
        return torch.cat(found) if found else X.new_zeros(0, X.shape[1])

    def times(self, C: Tensor) -> Tensor:
        """V C (p, j) for the first columns of V, as many as C has rows."""
        C = C.to(self.operator.device, self.operator.dtype)
        total = torch.zeros(C.shape[1], self.operator.size, dtype=C.dtype, device=C.device)
        for part, rows in zip(self._parts, C.split(WIDTH), strict=False):
            total.addmm_(rows.T, part.T[: len(rows)])  # by rows: columns lie apart in memory
        return total.T

    def subtract(self, c: Tensor, x: Tensor) -> None:
        """x - V c in the place of x (p,), for the first columns of V, as many as c has entries."""
        c = c.to(x)
        for part, rows in zip(self._parts, c.split(WIDTH), strict=False):
            x.addmv_(part[:, : len(rows)], rows, alpha=-1)

    def recombine(self, C: Tensor) -> None:
        """V C in the place of V."""
        rows = C.T.to(self.operator.device, self.operator.dtype)
        for start in range(0, self.operator.size, CHUNK):
            stretch = slice(start, start + CHUNK)
            mixed = rows @ torch.cat([part.T[:, stretch] for part in self._parts])
            for block, new in zip(self._blocks, mixed.split(WIDTH), strict=False):
                block[: len(new), stretch] = new
        self.num = len(rows)
        del self._blocks[-(-self.num // WIDTH) :]

    @property
    def _parts(self) -> list[Tensor]:
        """Each block's columns, (p, 4) and a shorter one at the end."""
        return [block[: min(WIDTH, self.num - i * WIDTH)].T for i, block in enumerate(self._blocks)]
