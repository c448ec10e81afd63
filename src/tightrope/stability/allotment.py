"""How the memory a measurement may hold is shared out between the graph of the gradient and the eigensolver.

Legend: p = number of parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tightrope.errors import ConfigError

NUM_OTHERS = 14
"""Vectors (p,) beside graph and basis: weights, gradient, preconditioner, scaling, warm start, and a product's own."""
FEWEST_COLUMNS, MOST_COLUMNS = 11, 32
"""Of the basis. The check of a first use, in float64, takes what the fewest take; with the most it is hardly ever
restarted."""
PEAK = 2.2
"""What a backward pass through a graph holds at most, in what the graph holds."""


@dataclass(frozen=True)
class Allotment:
    """What each part of a measurement may hold.

    Attributes:
        graph: Bytes that the graph of the gradient may hold; a pass through it takes as much again.
        columns: Columns of the basis, each with its product.
    """

    graph: float
    columns: int


def allotted(max_bytes: float, p: int, itemsize: int, k: int = 1) -> Allotment:
    """Half of it is for vectors, as far as they are of use, the rest for the graph and a pass through it.

    Args:
        max_bytes: For everything.
        p: Parameters measured.
        itemsize: Bytes of one number.
        k: Eigenvalues wanted.
    Raises:
        ConfigError: the vectors alone take more.
    """
    column, fewest = p * itemsize, max(FEWEST_COLUMNS, 3 * (k + 1))
    columns = min(MOST_COLUMNS, max(fewest, math.floor((max_bytes / 2 / column - NUM_OTHERS) / 2)))
    graph = (max_bytes - (NUM_OTHERS + 2 * columns) * column) / PEAK
    if graph <= 0:
        num = NUM_OTHERS + 2 * fewest
        raise ConfigError(
            f"Probe: max_bytes must hold {num} vectors of the {p:,} parameters and a graph, more than "
            f"{num * column:.3g}; got {max_bytes:.3g}. Measure fewer `params`, such as the last layer's."
        )
    return Allotment(graph, columns)
