"""Derivatives from torch's autograd engine, called so that a backward pass leaves the modes around it in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    """Vectors times the derivative of outputs in inputs, dense; None for an input that is not used.

    Not by `torch.autograd.grad`: that leaves a torch function mode for the whole backward pass, and with it the
    forward passes that gradient checkpointing repeats there.
    """
    found = torch.autograd.graph._engine_run_backward(
        tuple(outputs),
        tuple(vectors),
        keep_graph,
        create_graph,
        tuple(inputs),
        allow_unreachable=True,
        accumulate_grad=False,
    )
    return tuple(None if x is None else dense(x) for x in found)


def accumulate(loss: Tensor) -> None:
    """`loss.backward()`, by the same way as `differentiated`."""
    torch.autograd.graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def dense(x: Tensor) -> Tensor:
    """A gradient as it is, or with the zeros that a sparse embedding's leaves out."""
    return x if x.layout == torch.strided else x.to_dense()


def nodes(z: Tensor) -> list[Any]:
    """Every node of the graph behind a tensor."""
    found, waiting = {}, [z.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = True
            waiting += [following for following, _ in node.next_functions]
    return list(found)


def leaves_of(z: Tensor) -> list[Tensor]:
    """Every leaf that a backward pass from a tensor writes a gradient to, except those only Python code knows."""
    return [node.variable for node in nodes(z) if hasattr(node, "variable")]


def has_python_node(z: Tensor) -> bool:
    """Whether a custom autograd function is part of the graph: parameters may lie behind it that the graph lacks."""
    return any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in nodes(z))


def flat(parts: Sequence[Tensor]) -> Tensor:
    """(p,) without its graph."""
    return flatten([part.detach() for part in parts])
