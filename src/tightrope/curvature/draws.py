"""Random vectors of an operator's size, from a generator of one's own.

They are drawn on the CPU, so that a seed means the same on any device; the global random state is not touched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import SymmetricOperator


def gaussian(operator: SymmetricOperator, num: int, generator: torch.Generator) -> Tensor:
    """Standard normal columns (p, num), uniform in direction."""
    block = torch.randn(num, operator.size, generator=generator, dtype=torch.float64)
    return block.T.to(operator.device, operator.dtype)


def rademacher(operator: SymmetricOperator, num: int, generator: torch.Generator) -> Tensor:
    """Columns (p, num) of independent signs, +1 or -1."""
    bits = torch.randint(2, (num, operator.size), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).T.to(operator.device, operator.dtype)
