"""Evaluate a model in another floating type than its own, on stand-ins for its parameters.

Legend: p = number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .convolution import LEAN

LOW = (torch.float16, torch.bfloat16)
FLOATING = (*LOW, torch.float32, torch.float64)
CASTS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}


class Precise(TorchFunctionMode):
    """Inside, no torch function computes in less than `dtype`: autocast is off, and casts below it lead to it.

    Convolutions are taken in a form that is cheap to differentiate twice.

    Attributes:
        num_calls: Functions called so far, attributes aside; it grows in a backward pass that runs Python.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.below = dtype, below(dtype)
        self.num_calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("__get__", "__set__", "__delete__"):
            return func(*args, **(kwargs or {}))
        self.num_calls += 1
        args, kwargs = [self.raised(x) for x in args], {key: self.raised(x) for key, x in (kwargs or {}).items()}
        if CASTS.get(func) in self.below:
            return args[0].to(self.dtype)
        with autocast_set_aside():
            return LEAN.get(func, func)(*args, **kwargs)

    def raised(self, x: Any) -> Any:
        """A tensor or type in at least this precision, also inside lists, tuples and dicts; anything else as it is."""
        if isinstance(x, Tensor):
            return x.to(self.dtype) if x.dtype in self.below else x
        if isinstance(x, torch.dtype):
            return self.dtype if x in self.below else x
        if type(x) in (list, tuple):
            return type(x)([self.raised(part) for part in x])
        return {key: self.raised(part) for key, part in x.items()} if type(x) is dict else x


def autocast_set_aside() -> AbstractContextManager[object]:
    """Inside, autocast is off; backward passes too round to half precision where it is on around them."""
    stack = ExitStack()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def below(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The floating types of less precision."""
    return FLOATING[: FLOATING.index(dtype)] if dtype in FLOATING else ()


def working_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """The finest type of the parameters, and float32 at least: in half precision curvature is lost in rounding."""
    dtypes = [w.dtype for w in params]
    return reduce(torch.promote_types, dtypes, torch.float32 if set(dtypes) & set(LOW) else dtypes[0])


def stand_ins(model: nn.Module, params: Sequence[Tensor], dtype: torch.dtype) -> dict[int, nn.Parameter]:
    """Leaves with the values of the model's parameters, in `dtype` at least, by the id of each parameter.

    Those that are trained are copies; a frozen one shares its memory where its type is right.
    """
    return {id(w): _stand_in(w, dtype) for w in (*model.parameters(), *params)}


def _stand_in(w: Tensor, dtype: torch.dtype) -> nn.Parameter:
    value = w.detach().to(dtype if w.dtype in below(dtype) else w.dtype, copy=w.requires_grad)
    return nn.Parameter(value, w.requires_grad)


@contextmanager
def standing_in(model: nn.Module, leaves: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, the model's modules hold `leaves` in place of the parameters whose ids they are filed under.

    A recurrent layer notices and lists its weights anew in its forward pass; its own list comes back with the rest.
    """
    held = [(module, dict(module._parameters)) for module in model.modules() if module._parameters]
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    lists = [(module._flat_weights, module._flat_weight_refs) for module in recurrent]
    try:
        for module, parameters in held:
            for name, w in parameters.items():
                module._parameters[name] = leaves.get(id(w), w)  # type: ignore[assignment]
        yield
    finally:
        for module, parameters in held:
            module._parameters.update(parameters)
        for each, (weights, refs) in zip(recurrent, lists, strict=True):
            each._flat_weights, each._flat_weight_refs = weights, refs
