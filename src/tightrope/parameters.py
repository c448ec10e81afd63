"""Named parameters <-> one flat vector w (p,).

Everything above this floor works on flat vectors; names and shapes live here, at the border.
Order is the order of `model.named_parameters()`; tied parameters appear once, frozen ones not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tightrope.errors import ShapeError


@dataclass(frozen=True)
class Layout:
    """Where each named parameter lies in the flat vector.

    Attributes:
        names: One name a parameter.
        shapes: Its shape.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """p, the length of the flat vector."""
        return sum(self.sizes)

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> Layout:
        pairs = list(named)
        return cls(tuple(name for name, _ in pairs), tuple(tensor.shape for _, tensor in pairs))

    def split(self, v: Tensor) -> list[Tensor]:
        """Views of v (p,), one with each parameter's shape."""
        if v.shape != (self.size,):
            raise ShapeError(f"Layout: the vector must be ({self.size},); got {tuple(v.shape)}.")
        return [part.view(shape) for part, shape in zip(v.split(self.sizes), self.shapes, strict=True)]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name; a tied parameter appears once, under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One new vector (p,) with the elements of all tensors, in order, each in row-major order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def write(parameters: Sequence[Tensor], w: Tensor) -> None:
    """Copy the flat vector w (p,) into the parameters, in place.

    Raises:
        ShapeError: w is not (p,).
    """
    p = sum(q.numel() for q in parameters)
    if w.shape != (p,):
        raise ShapeError(f"write: the weights must be ({p},); got {tuple(w.shape)}.")
    for parameter, part in zip(parameters, w.split([q.numel() for q in parameters]), strict=True):
        parameter.copy_(part.view(parameter.shape))


@contextmanager
def weights_at(parameters: Sequence[Tensor], w: Tensor | None) -> Iterator[None]:
    """Hold the parameters at w (p,) inside the block and put the former values back, bit for bit.

    With `w=None` nothing is touched.
    """
    if w is None:
        yield
        return
    former = flatten([parameter.detach() for parameter in parameters])
    write(parameters, w)
    try:
        yield
    finally:
        write(parameters, former)


def share_storage(model: nn.Module) -> nn.Parameter:
    """Move a model's trainable parameters and their gradients into one vector each, and return it.

    Afterwards every parameter is a view of `w` and its `.grad` a view of `w.grad`, so `backward()`
    fills one flat gradient and an elementwise optimizer steps on one tensor.

    Returns:
        w (p,), a leaf with `.grad` allocated and zero.
    """
    parameters = list(trainable(model).values())
    if not parameters:
        raise ShapeError("share_storage: the model must have a parameter that requires a gradient; got none.")
    w = nn.Parameter(flatten([parameter.detach() for parameter in parameters]))
    w.grad = torch.zeros_like(w)
    layout = Layout.of((str(i), parameter) for i, parameter in enumerate(parameters))
    views = zip(parameters, layout.split(w.detach()), layout.split(w.grad), strict=True)
    for parameter, value, gradient in views:
        parameter.data = value
        parameter.grad = gradient
    return w
