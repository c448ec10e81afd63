"""In what a measurement runs a model otherwise than training does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tightrope.curvature import LossFn, is_compiled, observing

from .rehearsal import parts

ATTENTION = (nn.functional.scaled_dot_product_attention, nn.functional.multi_head_attention_forward)


def manner(model: nn.Module, loss_fn: LossFn, batch: Any) -> tuple[str, ...]:
    """What is replaced for a measurement, in words; found by one forward pass."""
    attention = _AttentionCalls()
    with observing(model), torch.no_grad(), attention:
        for part, _ in parts(batch):
            loss_fn(model, part)
    words = {
        "attention in its plain (math) form": attention.num_calls > 0,
        "compiled modules eagerly": any(map(is_compiled, model.modules())),
    }
    return tuple(word for word, is_so in words.items() if is_so)


class _AttentionCalls(TorchFunctionMode):
    """Counts calls of fused attention, which has no second derivative and is replaced for a measurement."""

    num_calls = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_calls += function in ATTENTION
        return function(*args, **(kwargs or {}))
