"""Curvature restricted to some coordinates: one layer's, one parameter group's.

Legend: A = the operator beneath, p = its size, q = coordinates of the block, v = vector (q,).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from tightrope.errors import ShapeError, check_count
from tightrope.parameters import trainable

from .lanczos import top_eigenvalues
from .layers import Named, layout_of
from .operators import SymmetricOperator, check_operator
from .results import EigenResult

Where = slice | Tensor
"""Coordinates of a flat vector: a slice of step 1, or their indices (q,)."""


class Block(SymmetricOperator):
    """The rows and columns of a symmetric operator at some coordinates, (q, q).

    Its largest eigenvalue is a lower bound of the whole's, and its smallest an upper bound (Cauchy interlacing). A
    layer of a kept-graph Hessian takes only what its own product needs; other operators take one of the whole.

    Args:
        operator: A, (p, p).
        where: A slice of step 1, or indices (q,), each once.
    Raises:
        ShapeError: there are no coordinates, they are not below p, or one occurs twice.
    """

    def __init__(self, operator: SymmetricOperator, where: Where) -> None:
        self.where = _checked("Block", operator.size, where)
        self.operator = operator
        self.size = _length(self.where)
        self.dtype, self.device = operator.dtype, operator.device
        self.cost = operator.cost
        self.route = (
            f"{operator.route}; block of {self.size} of {operator.size} coordinates, whose largest eigenvalue is a "
            "lower bound of the whole's"
        )

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        return self.operator.inner(U, V)

    def apply(self, v: Tensor) -> Tensor:
        return self.operator.apply_block(v, self.where)


def block_eigenvalues(
    operator: SymmetricOperator,
    blocks: Mapping[str, Where],
    k: int = 1,
    *,
    start: Mapping[str, Tensor] | None = None,
    rtol: float = 1e-2,
    max_products: int = 64,
    max_basis: int | None = None,
    seed: int = 0,
) -> dict[str, EigenResult]:
    """Largest k eigenvalues of each block on the diagonal; each block's is a lower bound of the whole's.

    What couples the blocks is not seen: the whole's largest eigenvalue can be far above all of theirs, though by no
    more than their sum where the operator is positive semidefinite.

    Args:
        operator: Symmetric, (p, p), such as a Hessian, or one scaled by D^1/2 (by a diagonal).
        blocks: Coordinates by name, such as `layer_blocks(model)`; no two share one.
        k: How many of each; a block of fewer coordinates gives all it has.
        start: Of each block, where it has one: its former `warm_start`.
        rtol, max_products, max_basis, seed: Of each solve, as in `top_eigenvalues`.
    Returns:
        By name, in the order of the blocks.
    Raises:
        ShapeError: there is no block, or one is empty, reaches past p or overlaps another; or as `top_eigenvalues`.
    Cost:
        At most max_products products a block, each at most as dear as one with the operator.
    Example:
        >>> from tightrope.curvature import Dense
        >>> A = Dense(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))  # its largest eigenvalue is 3
        >>> {name: float(found.values) for name, found in block_eigenvalues(A, {"a": slice(0, 1)}).items()}
        {'a': 2.0}
    """
    check_operator("block_eigenvalues", operator)
    check_count("block_eigenvalues: k", k)
    _check_apart(operator.size, blocks)
    found = {}
    for name, where in blocks.items():
        block = Block(operator, where)
        found[name] = top_eigenvalues(
            block,
            min(k, block.size),
            start=None if start is None else start.get(name),
            rtol=rtol,
            max_products=max_products,
            max_basis=max_basis,
            seed=seed,
        )
    return found


def layer_blocks(model: nn.Module | Named) -> dict[str, Where]:
    """Coordinates of each layer of a model: of the trainable parameters that one module holds, by its name.

    Args:
        model: A module, a Layout, or parameters by name, in the order of the operator's vectors. A parameter that no
            module below holds stands under its own name.
    Example:
        >>> layer_blocks(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
        {'0': slice(0, 9, None), '2': slice(9, 13, None)}
    """
    layout = layout_of(trainable(model) if isinstance(model, nn.Module) else model)
    return _gathered(layout.sizes, [name.rpartition(".")[0] or name for name in layout.names])


def group_blocks(optimizer: torch.optim.Optimizer, model: nn.Module | Iterable[Tensor]) -> dict[str, Where]:
    """Coordinates of each parameter group of an optimizer, as "group 0" and so on; groups with none are left out.

    Args:
        model: A module, or the parameters measured, in the order of the operator's vectors.
    """
    params = list(trainable(model).values() if isinstance(model, nn.Module) else model)
    group_of = {id(w): f"group {i}" for i, group in enumerate(optimizer.param_groups) for w in group["params"]}
    found = _gathered([w.numel() for w in params], [group_of.get(id(w), "") for w in params])
    return {name: found[name] for name in dict.fromkeys(group_of.values()) if name in found}


def _gathered(sizes: Sequence[int], labels: Sequence[str]) -> dict[str, Where]:
    """Coordinates by label, of parts that lie one behind another: a slice where a label's parts are neighbours."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for size, end, label in zip(sizes, accumulate(sizes), labels, strict=True):
        of_label = spans.setdefault(label, [])
        if of_label and of_label[-1][1] == end - size:
            of_label[-1] = of_label[-1][0], end
        else:
            of_label.append((end - size, end))
    return {
        label: slice(*each[0]) if len(each) == 1 else torch.cat([torch.arange(*span) for span in each])
        for label, each in spans.items()
    }


def _length(where: Where) -> int:
    return where.stop - where.start if isinstance(where, slice) else len(where)


def _checked(name: str, p: int, where: Where) -> Where:
    """The coordinates, a slice with its bounds written out."""
    if isinstance(where, slice):
        first, stop = where.start or 0, p if where.stop is None else where.stop
        is_right, got = where.step in (None, 1) and 0 <= first < stop <= p, str(where)
        where = slice(first, stop)
    elif isinstance(where, Tensor) and where.dtype == torch.int64 and where.ndim == 1 and len(where):
        low, high, num = int(where.min()), int(where.max()), len(where.unique())
        is_right, got = low >= 0 and high < p and num == len(where), f"{len(where)} in {low}..{high}, {num} different"
    else:
        is_right, got = False, f"{where.dtype} {tuple(where.shape)}" if isinstance(where, Tensor) else repr(where)
    if not is_right:
        raise ShapeError(
            f"{name}: the coordinates must be at least one of 0..{p - 1}, each once; got {got}. "
            "Pass slice(first, stop) or a tensor of int64 indices."
        )
    return where


def _check_apart(p: int, blocks: Mapping[str, Where]) -> None:
    if not blocks:
        raise ShapeError("block_eigenvalues: blocks must name at least one; got none. Take layer_blocks(model).")
    owner = torch.full((p,), -1)
    for i, (name, where) in enumerate(blocks.items()):
        where = _checked(f"block_eigenvalues: block {name!r}", p, where)
        former = int(owner[where].max())
        if former >= 0:
            raise ShapeError(
                f"block_eigenvalues: blocks must not overlap; got {name!r} and {list(blocks)[former]!r} with a "
                "coordinate in common. Ask for them one at a time."
            )
        owner[where] = i
