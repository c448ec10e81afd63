"""Derivatives from torch's autograd engine, called so that a backward pass leaves the modes around it in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tightrope.parameters import flatten


def differentiated(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor],
    *,
    create_graph: bool = False,
    keep_graph: bool = True,
) -> tuple[Tensor | None, ...]:
    """Vectors times the derivative of outputs in inputs; None for an input that is not used.

    Not by `torch.autograd.grad`: that leaves a torch function mode for the whole backward pass, and with it the
    forward passes that gradient checkpointing repeats there.
    """
    return torch.autograd.graph._engine_run_backward(
        tuple(outputs),
        tuple(vectors),
        keep_graph,
        create_graph,
        tuple(inputs),
        allow_unreachable=True,
        accumulate_grad=False,
    )


def accumulate(loss: Tensor) -> None:
    """`loss.backward()`, by the same way as `differentiated`."""
    torch.autograd.graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def flat(parts: Sequence[Tensor]) -> Tensor:
    """(p,) without its graph."""
    return flatten([part.detach() for part in parts])
