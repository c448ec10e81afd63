"""Curvature over processes: each holds a part of the examples, all hold the same vectors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tightrope.errors import ConfigError, ShapeError, check_number

from .operators import SymmetricOperator


class Sharded(SymmetricOperator):
    """The weighted mean of every process's operator, such as the Hessian of examples spread over processes.

    Each process builds it over its own examples and calls the solver with the same arguments; the vectors are
    replicated, so inner products need no communication, and every process gets the same result. Processes must run
    on machines of one kind: where rounding differs, or one fails, it stops while the others wait for the group's
    timeout.

    Args:
        operator: This process's own; all of one size and dtype. It has the route.
        weight: Of this process in the mean: the number of its examples, for a loss that is the mean over them.
            With zero it takes no products but still answers.
        group: The processes; None for all.
    Raises:
        ConfigError: torch.distributed is not initialised, or the weights are negative or all zero.
        ShapeError: the operators differ in size.
    Cost:
        A product of the operator beneath and one all-reduce of (p,).
    """

    def __init__(
        self, operator: SymmetricOperator, weight: float = 1.0, group: dist.ProcessGroup | None = None
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ConfigError(
                "Sharded: torch.distributed must be initialised; it is not. "
                "Call torch.distributed.init_process_group, or use the operator itself."
            )
        self.operator, self.group = operator, group
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.cost = operator.cost
        # What any process finds wrong, all must: one that raised alone would leave the others waiting.
        each = torch.tensor([float(weight), float(operator.size)], dtype=torch.float64, device=operator.device)
        gathered = [torch.zeros_like(each) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, each, group=group)
        weights, sizes = torch.stack(gathered).T.tolist()
        if len(set(sizes)) > 1:
            raise ShapeError(f"Sharded: the operators must have one size; got {[int(size) for size in sizes]}.")
        for number in weights:
            check_number("Sharded: weight", number, lambda w: 0 <= w < float("inf"), "be at least 0 and finite")
        check_number("Sharded: the sum of weights", sum(weights), lambda w: w > 0, "be above 0")
        self.share = weight / sum(weights)
        self.route = f"{operator.route}, over {len(weights)} processes"

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        product: Tensor = self.share * self.operator.apply(v) if self.share else torch.zeros_like(v)
        dist.all_reduce(product, group=self.group)
        return product
