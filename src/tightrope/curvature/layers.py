"""Which parameters hold a direction of weight space, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from tightrope.errors import ShapeError
from tightrope.parameters import Layout

Named = Layout | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class LayerShare:
    """What part of a direction lies in one named parameter.

    Attributes:
        name: Of the parameter.
        share: Of the direction's squared norm; over all parameters they sum to 1.
        participation: How many of the parameter's entries hold its share, 1 to size; 0 where it holds none.
        size: Number of its entries.
    """

    name: str
    share: float
    participation: float
    size: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


def layer_shares(vector: Tensor, named: Named) -> list[LayerShare]:
    """How the squared norm of a direction is spread over named parameters, in their order.

    Args:
        vector: (p,) of any length but zero, such as a column of `EigenResult.vectors`.
        named: A Layout, or parameters by name such as `trainable(model)`, in the order of the vector. A parameter
            that appears again under another name counts once, under its first.
    Returns:
        One LayerShare a parameter. NaN throughout where the vector is zero or not finite.
    Raises:
        ShapeError: the vector is not (p,).
    Example:
        >>> import torch
        >>> [first, second] = layer_shares(torch.tensor([0.6, 0.8, 0.0]), {"a": torch.zeros(1), "b": torch.zeros(2)})
        >>> second.name, round(second.share, 4), round(second.participation, 4)
        ('b', 0.64, 1.0)
    """
    layout = layout_of(named)
    u = _unit(vector)
    parts = [part.reshape(-1) for part in layout.split(u)]
    return [
        LayerShare(name, float(part.pow(2).sum()), float(_participation(part)), part.numel())
        for name, part in zip(layout.names, parts, strict=True)
    ]


def participation(vector: Tensor) -> float:
    """How many coordinates hold a direction u: 1 / sum(u^4) at unit length, 1 to p; NaN for zero or not finite.

    Example:
        >>> import torch
        >>> participation(torch.tensor([1.0, -1.0, 0.0]))
        2.0
    """
    if vector.ndim != 1:
        raise ShapeError(f"participation: the vector must be (p,); got {tuple(vector.shape)}. Take one column.")
    return float(_participation(_unit(vector)))


def layout_of(named: Named) -> Layout:
    """Of parameters by name; one that appears again under another name counts once, under its first."""
    if isinstance(named, Layout):
        return named
    pairs = named.items() if isinstance(named, Mapping) else named
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in pairs:
        first.setdefault(id(tensor), (name, tensor))
    return Layout.of(first.values())


def _unit(vector: Tensor) -> Tensor:
    """The vector at unit length in float64, without over- or underflow on the way."""
    u = vector.double() / vector.abs().max().double() if vector.numel() else vector.double()
    length: Tensor = u.norm()
    return u / length


def _participation(part: Tensor) -> Tensor:
    """(sum u^2)^2 / sum u^4, the same at any length; 0 for a part of zeros."""
    largest = part.abs().max() if part.numel() else part.new_zeros(())
    if largest == 0:
        return part.new_zeros(())
    squares = (part / largest) ** 2
    return squares.sum() ** 2 / (squares**2).sum()
