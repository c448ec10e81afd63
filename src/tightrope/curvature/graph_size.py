"""How many bytes the kept graph of a gradient takes, known before they are spent.

Legend: n = number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ShapeError

from .objective import Objective
from .pieces import batch_tensors, num_examples, rows

SAMPLES = (2, 4)
"""Examples in the two small graphs from which the whole is extrapolated; batch normalisation refuses one alone."""


class OverBudgetError(Exception):
    """A graph was about to hold more bytes than it may."""


@dataclass(frozen=True)
class GraphSize:
    """Bytes that the graph of the gradient of n examples holds: fixed + each * n."""

    fixed: float
    each: float

    def of(self, n: int) -> float:
        return self.fixed + self.each * n

    def num_examples_within(self, max_bytes: float) -> int:
        """The largest n whose graph fits; 0 for none."""
        return max(0, math.floor((max_bytes - self.fixed) / self.each)) if self.each else 0


@contextmanager
def counted_graph(known: Sequence[Tensor], max_bytes: float = math.inf) -> Iterator[dict[int, int]]:
    """Count the memory that graphs built inside save, that of `known` tensors aside, and stop it at a limit.

    Yields:
        Bytes by the address of each piece of memory saved so far.
    Raises:
        OverBudgetError: it would exceed max_bytes.
    """
    aside = {x.untyped_storage().data_ptr() for x in known}
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        memory = x.untyped_storage()
        if memory.data_ptr() not in aside:
            saved[memory.data_ptr()] = memory.nbytes()
            if sum(saved.values()) > max_bytes:
                raise OverBudgetError
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield saved


def graph_size(objective: Objective, max_bytes: float) -> GraphSize | None:
    """What the kept graph of an objective takes, from those of a few examples; None where it cannot be told so.

    Cost:
        Two recorded gradients of at most four examples.
    """
    try:
        n = num_examples(objective.batch)
        if n < max(SAMPLES):
            return None
        small, large = (bytes_of(objective, rows(objective.batch, slice(0, m)), max_bytes) for m in SAMPLES)
    except (ShapeError, OverBudgetError):
        return None
    each = max(0.0, (large - small) / (SAMPLES[1] - SAMPLES[0]))
    return GraphSize(max(0.0, small - each * SAMPLES[0]), each)


def bytes_of(objective: Objective, batch: Any, max_bytes: float) -> int:
    """What the kept graph of an objective takes on another batch.

    Raises:
        OverBudgetError: what it saves would exceed max_bytes.
    """
    known = [*objective.leaves, *objective.model.parameters(), *batch_tensors(objective.batch)]
    with objective.environment(), counted_graph(known, max_bytes) as saved:
        g = objective.gradient(objective.evaluate(batch, 1.0), create_graph=True)
        return sum(saved.values()) + sum(part.nbytes for part in g)
