"""The method of a block of parameters: what is left to measure where a whole model is too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tightrope.errors import ShapeError, UnsupportedOptimizerError
from tightrope.optim import Frozen


def restricted(frozen: Frozen, params: Sequence[Tensor]) -> Frozen:
    """The frozen method of some of its parameters alone, the others held still.

    The matrix of the block is a principal submatrix of the whole's, so its ratio is a lower bound of the whole's
    (Cauchy's interlacing theorem). A `Probe` takes it in place of the optimizer.

    Args:
        frozen: What `freeze` made of the optimizer.
        params: Some of its parameters.
    Raises:
        ShapeError: a parameter is not the optimizer's.
        UnsupportedOptimizerError: the method couples parameters (SAM, a dense preconditioner), so that a block of
            its matrix is not that of the block.
    Example:
        >>> from tightrope.optim import freeze
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> whole = freeze(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> len(whole.D), len(restricted(whole, list(model[1].parameters())).D)
        (23, 8)
    """
    if frozen.ascent is not None or (frozen.D is not None and frozen.D.ndim == 2):
        raise UnsupportedOptimizerError(
            "restricted: the method must act on each parameter by itself; SAM's ascent and a dense preconditioner do "
            "not. Measure the whole."
        )
    places, at = {}, 0
    for w in frozen.parameters:
        places[id(w)] = torch.arange(at, at + w.numel(), device=w.device)
        at += w.numel()
    if any(id(w) not in places for w in params):
        raise ShapeError("restricted: every parameter must be one the optimizer moves; got another. Leave it out.")
    kept = torch.cat([places[id(w)] for w in params])
    return replace(
        frozen,
        parameters=tuple(params),
        P=None if frozen.P is None else frozen.P[kept],
        D=None if frozen.D is None else frozen.D[kept],
        shift=_of(frozen.shift, kept),
        response=_of(frozen.response, kept),
    )


def _of(value: Tensor | float, kept: Tensor) -> Tensor | float:
    return value[kept] if isinstance(value, Tensor) and value.ndim else value
