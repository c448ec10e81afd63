"""The Hessian of a loss by whichever route works on the model at hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from tightrope.errors import ConfigError

from .differences import FiniteDifference
from .loss_curvature import LossCurvature, LossFn, SelfCheck
from .memory import graph_hessian, hessian_after_out_of_memory, is_out_of_memory
from .pieces import batch_tensors, few
from .products import Hessian
from .rebuilt import RebuiltHessian
from .selfcheck import self_check, summary

ASKED: dict[str, type[Hessian] | type[RebuiltHessian] | type[FiniteDifference]] = {
    "kept graph": Hessian,
    "rebuilt graph": RebuiltHessian,
    "central difference": FiniteDifference,
}

NUM_CHECKED = 32
"""Examples on which a route is checked: it is the model's code that is tried, not the data."""

MAX_REMEMBERED = 64
"""Checks of one model, as with losses that are made anew for every call."""

_checks: WeakKeyDictionary[nn.Module, dict[Any, SelfCheck]] = WeakKeyDictionary()
"""What the first use of each model found, by loss, parameters and modes."""


def hessian(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    params: Sequence[Tensor] | None = None,
    chunk_size: int | None = None,
    max_bytes: float | None = None,
    route: str = "auto",
    known: SelfCheck | None = None,
) -> LossCurvature:
    """The Hessian of a loss by the cheapest route that works on this model; its `route` says which, and why.

    "auto" takes the kept graph, or where that does not fit into memory graphs rebuilt for each product. On first use
    of a model with a loss it tries two products (`self_check`); where there is no second derivative, or products
    come out wrong, it takes central differences of gradients instead, then and later.

    Args:
        model, loss_fn, batch, params, chunk_size: As in `Hessian`.
        max_bytes: That the kept graph may hold. Estimated from the graphs of a few examples before it is spent; a
            batch is cut to fit only if its loss is seen to be the mean of its parts' losses.
        known: What an earlier process found of this model, where this one is to go on as that did.
        route: "auto", or "kept graph", "rebuilt graph" or "central difference", which is then taken unchecked.
    Returns:
        LossCurvature, with what was found on first use as `check`.
    Raises:
        ShapeError: as in `Hessian`.
        ConfigError: the route is unknown, or the graph does not fit and the batch cannot be cut.
    Cost:
        As the operator taken; on first use two products and five gradients in float64 more, of 32 examples.
    Example:
        >>> import torch
        >>> H = hessian(torch.nn.Linear(2, 1), lambda model, x: (model(x) ** 2).mean(), torch.eye(2))
        >>> H.route, H.check.is_passed
        ('kept graph', True)
    """
    if route in ASKED:
        return ASKED[route](model, loss_fn, batch, params=params, chunk_size=chunk_size)
    if route != "auto":
        raise ConfigError(f"hessian: route must be 'auto' or one of {', '.join(ASKED)}; got {route!r}.")
    checks, key = _checks.setdefault(model, {}), _key(model, loss_fn, batch, params)
    check = checks.get(key) or (None if checks else known)
    if check is None or check.is_passed:
        budget = math.inf if max_bytes is None else max_bytes
        H, check = _by_graph((model, loss_fn, batch), params, chunk_size, budget, check)
        if H is not None:
            H.check = check
            if check is not None:
                if len(checks) >= MAX_REMEMBERED:
                    checks.clear()
                checks[key] = check
            return H
    assert check is not None
    differences = FiniteDifference(model, loss_fn, batch, params=params, chunk_size=chunk_size, reason=check.words)
    differences.check = checks[key] = check
    return differences


def _by_graph(
    request: tuple[nn.Module, LossFn, Any],
    params: Sequence[Tensor] | None,
    chunk_size: int | None,
    max_bytes: float,
    known: SelfCheck | None,
) -> tuple[LossCurvature | None, SelfCheck | None]:
    """The Hessian by double backward and what its check says, if the loss is finite; no Hessian where that fails."""
    for is_short in (False, True):
        try:
            H: Hessian | RebuiltHessian
            if is_short:
                H = hessian_after_out_of_memory(*request, params=params, chunk_size=chunk_size)
            else:
                H = graph_hessian(*request, params=params, chunk_size=chunk_size, max_bytes=max_bytes)
            check = known or (_checked(H, request, params, max_bytes) if bool(H.gradient.isfinite().all()) else None)
            return H if check is None or check.is_passed else None, check
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                if is_short:
                    raise
                continue
            # If it is the loss itself that fails, it fails again in a difference, and that error is the one to see.
            words = f"no second derivative: {summary(error)}"
            return None, SelfCheck(math.nan, math.nan, "kept graph", False, words)
    raise AssertionError("the second attempt returns or raises")


def _checked(
    H: Hessian | RebuiltHessian,
    request: tuple[nn.Module, LossFn, Any],
    params: Sequence[Tensor] | None,
    max_bytes: float,
) -> SelfCheck:
    """The check of a route: on a few of the examples, or where the loss does not take them, on all."""
    model, loss_fn, batch = request
    most = NUM_CHECKED if max_bytes == math.inf else NUM_CHECKED // 4  # in float64, and more than one graph at a time
    sample = few(batch, most if isinstance(H, Hessian) else min(most, max(2, H.piece_size // 2)))
    if sample is not batch:
        with suppress(RuntimeError, ValueError, TypeError):
            small = Hessian(model, loss_fn, sample, params=params)
            if bool(small.gradient.isfinite().all()) and bool(small.gradient.any()):
                return replace(self_check(small), route=H.route)
    return self_check(H)


def _key(model: nn.Module, loss_fn: LossFn, batch: Any, params: Sequence[Tensor] | None) -> Any:
    """What a check holds for: the loss and what it holds, the parameters, the modes and the switches of modules."""
    shapes = tuple((w.shape, w.dtype, w.requires_grad) for w in (model.parameters() if params is None else params))
    switches = tuple(
        tuple(value for value in vars(module).values() if isinstance(value, bool | str)) for module in model.modules()
    )
    leaves = tuple(x.requires_grad for x in batch_tensors(batch))  # what a reentrant checkpoint looks at
    return _loss_key(loss_fn), shapes, switches, leaves


def _loss_key(loss_fn: Any) -> Any:
    """The code of a function and the identity of what it closes over; that of any other callable."""
    if isinstance(loss_fn, partial):
        return _loss_key(loss_fn.func), *map(id, loss_fn.args), *((name, id(x)) for name, x in loss_fn.keywords.items())
    code = getattr(loss_fn, "__code__", None)
    if code is None:
        return id(loss_fn)
    held = inspect.getclosurevars(loss_fn).nonlocals if inspect.isfunction(loss_fn) else {}
    return code, id(getattr(loss_fn, "__self__", None)), *((name, id(value)) for name, value in held.items())
