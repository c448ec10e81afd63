"""The last layer alone: what can be measured of a model that is too large, and is a lower bound of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import LossFn
from tightrope.errors import TightropeError, UnsupportedOptimizerError
from tightrope.optim import freeze
from tightrope.stability import Probe, restricted

from .blame import blame
from .examination import Part, counted
from .rehearsal import timed


def last_layer(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFn, batch: Any, max_bytes: float
) -> tuple[Part | None, str]:
    """Measure the last layer, and say in words what it is worth; or why it cannot be measured."""
    frozen = freeze(optimizer)
    name, params = last_parameters(model, frozen.parameters)
    limit = max_bytes if math.isfinite(max_bytes) else None
    probe, device = Probe(model, loss_fn, params=params, max_bytes=limit), params[0].device
    try:
        part = restricted(frozen, params)
        measurement, cold = timed(probe, part, batch, device)
        _, warm = timed(probe, part, batch, device)
    except (TightropeError, MemoryError, RuntimeError) as error:
        return None, f"Nor can its last layer alone: {blame(error)}"
    if not measurement.has_ratio:
        return None, f"Its last layer alone has no ratio either: {measurement.reason}"
    size = sum(w.numel() for w in params)
    return Part(name, size, measurement.ratio, cold, warm), (
        f"Its last layer ('{name}', {counted(size, 'parameter')}) can be measured alone; the ratio there, now "
        f"{measurement.ratio:.3g}, is a lower bound of the whole's, and takes {cold:.3g} s the first time and "
        f"{warm:.3g} s warm."
    )


def last_parameters(model: nn.Module, params: Iterable[Tensor]) -> tuple[str, list[Tensor]]:
    """Name and parameters of the last module that holds one of these parameters itself."""
    moved = {id(w) for w in params}
    names = [name for name, w in model.named_parameters() if id(w) in moved]
    if not names:
        raise UnsupportedOptimizerError("doctor: the optimizer must move parameters of the model; it moves others.")
    prefix = names[-1].rpartition(".")[0]
    held: list[Tensor] = [
        w for name, w in model.named_parameters() if id(w) in moved and name.rpartition(".")[0] == prefix
    ]
    return prefix or names[-1], held if prefix else held[-1:]
