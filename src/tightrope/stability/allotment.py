"""How the memory a measurement may hold is shared out between the graph of the gradient and the eigensolver.

Legend: p = number of parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tightrope.errors import ConfigError

NUM_OTHERS = 14
"""Vectors (p,) beside graph and basis: weights, gradient, preconditioner, scaling, warm start, and a product's own."""
MOST_COLUMNS = 32
"""Of the basis; with so many it is hardly ever restarted."""


@dataclass(frozen=True)
class Allotment:
    """What each part of a measurement may hold.

    Attributes:
        graph: Bytes for the graph of the gradient.
        columns: Columns of the basis, each with its product.
    """

    graph: float
    columns: int


def allotted(max_bytes: float, p: int, itemsize: int, k: int = 1) -> Allotment:
    """Half of what the unavoidable vectors leave is for the basis, as far as it is of use, the rest for the graph.

    Args:
        max_bytes: For everything.
        p: Parameters measured.
        itemsize: Bytes of one number.
        k: Eigenvalues wanted.
    Raises:
        ConfigError: the vectors alone take more.
    """
    column, fewest = p * itemsize, 3 * (k + 1)
    left = max_bytes - NUM_OTHERS * column
    columns = min(MOST_COLUMNS, max(fewest, math.floor(left / 2 / (2 * column))))
    graph = left - 2 * columns * column
    if graph <= 0:
        num = NUM_OTHERS + 2 * fewest
        raise ConfigError(
            f"Probe: max_bytes must hold {num} vectors of the {p:,} parameters and a graph, more than "
            f"{num * column:.3g}; got {max_bytes:.3g}. Measure fewer `params`, such as the last layer's."
        )
    return Allotment(graph, columns)
