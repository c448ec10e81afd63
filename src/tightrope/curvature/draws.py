"""Random vectors of an operator's size, from a generator of one's own.

They are drawn on the CPU, so that a seed means the same on any device; the global random state is not touched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import SymmetricOperator

SALT = 0x7169_6874
"""Sets our draws apart from those of data or weights that were drawn from the same seed: they must be independent."""


def seeded(seed: int) -> torch.Generator:
    """A generator that no `torch.manual_seed` of the same number is in step with."""
    return torch.Generator().manual_seed((seed ^ SALT) & 0xFFFF_FFFF_FFFF_FFFF)


def gaussian(operator: SymmetricOperator, num: int, generator: torch.Generator) -> Tensor:
    """Standard normal columns (p, num), uniform in direction."""
    block = torch.randn(num, operator.size, generator=generator, dtype=torch.float64)
    return block.T.to(operator.device, operator.dtype)


def rademacher(operator: SymmetricOperator, num: int, generator: torch.Generator) -> Tensor:
    """Columns (p, num) of independent signs, +1 or -1."""
    bits = torch.randint(2, (num, operator.size), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).T.to(operator.device, operator.dtype)
