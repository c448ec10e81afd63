"""A second forward pass that leaves no trace in buffers, such as BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def buffers_kept(model: nn.Module | None = None) -> Iterator[None]:
    """Put every buffer back, bit for bit and in the same tensor, on leaving the block.

    Args:
        model: Whose buffers; default those of every module that runs inside, together with the modules it holds.
    """
    seen: set[nn.Module] = set()
    kept: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def keep(module: nn.Module, _: Any = None) -> None:
        if module in seen:
            return
        for part in set(module.modules()) - seen:
            seen.add(part)
            kept.extend((part, name, b, b.detach().clone()) for name, b in part._buffers.items() if b is not None)

    if model is not None:
        keep(model)
    watching = register_module_forward_pre_hook(keep) if model is None else None
    try:
        yield
    finally:
        if watching is not None:
            watching.remove()
        with torch.no_grad():
            for module, name, buffer, former in kept:
                buffer.copy_(former)
                module._buffers[name] = buffer
