"""The Hessian by double backward within the memory there is: the graph kept, or rebuilt in pieces that fit.

Legend: n = number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, check_number

from .graph_size import OverBudgetError, bytes_of, counted_graph, graph_size
from .loss_curvature import LossFn
from .objective import Objective
from .pieces import MicroBatches, batch_tensors, count, num_examples
from .products import Hessian
from .rebuilt import RebuiltHessian

MEAN_RTOL = 1e-4
"""How closely the losses of parts must average to the loss of the whole for it to count as their mean."""


def graph_hessian(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    params: Sequence[Tensor] | None,
    chunk_size: int | None,
    max_bytes: float = math.inf,
) -> Hessian | RebuiltHessian:
    """The kept graph, or where it would exceed `max_bytes`, graphs rebuilt in pieces that do not."""
    check_number("hessian: max_bytes", max_bytes, lambda m: m > 0, "be above 0", "Leave it out for no limit.")
    if max_bytes < math.inf:
        objective = Objective(model, loss_fn, batch, params=params, chunk_size=chunk_size)
        size = graph_size(objective, max_bytes)
        if size is None:
            return _stopped_in_time(objective, max_bytes)
        if size.of(num_examples(batch)) > max_bytes:
            most = size.num_examples_within(max_bytes)
            if most < 1:
                raise _does_not_fit(f"max_bytes is {max_bytes:.3g}, and one example takes {size.of(1):.3g}")
            return _in_pieces(objective, min(chunk_size or most, most), f"max_bytes={max_bytes:.3g}")
    return Hessian(model, loss_fn, batch, params=params, chunk_size=chunk_size)


def hessian_after_out_of_memory(
    model: nn.Module, loss_fn: LossFn, batch: Any, *, params: Sequence[Tensor] | None, chunk_size: int | None
) -> RebuiltHessian:
    """Graphs rebuilt in the user's own pieces, or else in eighths of the batch."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    objective = Objective(model, loss_fn, batch, params=params, chunk_size=chunk_size)
    return _in_pieces(objective, chunk_size or max(1, count(batch) // 8), "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or the CPU."""
    words = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("not enough memory" in words or "can't allocate memory" in words)
    )


def _stopped_in_time(objective: Objective, max_bytes: float) -> Hessian | RebuiltHessian:
    """The kept graph of a batch from which no estimate could be had, stopped before it exceeds the budget.

    It is rebuilt then if the batch comes in pieces, the user's own, and each of them fits.
    """
    o = objective
    try:
        with counted_graph([*o.model.parameters(), *batch_tensors(o.batch)], max_bytes):
            return Hessian(o.model, o.loss_fn, o.batch, params=o.params, chunk_size=o.chunk_size)
    except OverBudgetError:
        why = f"max_bytes is {max_bytes:.3g}"
        if len(o.pieces) > 1:
            if _fits_by_pieces(o, max_bytes):
                return _in_pieces(o, o.chunk_size or 1, f"max_bytes={max_bytes:.3g}")
            why += ", and a piece of the batch takes more"
        raise _does_not_fit(why) from None


def _fits_by_pieces(objective: Objective, max_bytes: float) -> bool:
    try:
        return all(bytes_of(objective, piece, max_bytes) <= max_bytes for piece, _ in objective.pieces)
    except OverBudgetError:
        return False


def _in_pieces(objective: Objective, chunk_size: int, reason: str) -> RebuiltHessian:
    o = objective
    if isinstance(o.batch, MicroBatches) and o.chunk_size is None:
        # Micro-batches are the user's own pieces: they are not cut further.
        return RebuiltHessian(o.model, o.loss_fn, o.batch, params=o.params, reason=reason)
    if o.chunk_size is None:
        whole = o.loss()
        parts = Objective(o.model, o.loss_fn, o.batch, params=o.params, chunk_size=chunk_size).loss()
        if not abs(whole - parts) <= MEAN_RTOL * abs(whole):
            raise _does_not_fit(
                f"{reason}, and the loss is not the mean of its parts' ({whole:.6g} against {parts:.6g})"
            )
    return RebuiltHessian(o.model, o.loss_fn, o.batch, params=o.params, chunk_size=chunk_size, reason=reason)


def _does_not_fit(why: str) -> ConfigError:
    return ConfigError(
        f"hessian: the graph of the gradient must fit into memory; {why}. Give a smaller batch, MicroBatches, fewer "
        "`params` or a larger budget."
    )
