"""Hessian-vector products of a model's loss on flat vectors.

Legend: g = gradient, H = Hessian, n = number of examples, p = number of parameters, v = vector (p,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.errors import ShapeError
from tightrope.parameters import Layout, flatten, trainable

from .observation import hooks_set_aside, observing
from .operators import SymmetricOperator

LossFn = Callable[[Any, Any], Tensor]


class Hessian(SymmetricOperator):
    """Hessian of `loss_fn(model, batch)` in the model's trainable parameters, (p, p), never materialised.

    The graph of the gradient is built once and kept; each product is one backward pass through it
    (Pearlmutter 1994). Products see the weights, modes and random draws of the moment of construction.

    Args:
        model: Any module. Nothing of it is changed, neither buffers nor gradients nor modes.
        loss_fn: (model, batch) -> scalar.
        batch: Whatever loss_fn takes; with `chunk_size`, a tensor or a tuple, list or dict of tensors whose
            first dimension counts examples.
        params: Parameters to differentiate in, in the order of the flat vector; default all trainable ones.
        chunk_size: Evaluate this many examples at a time, for a loss that is the mean over its examples.
    Attributes:
        loss: The loss, a float.
        gradient: (p,).
    Raises:
        ShapeError: the loss is not a real scalar or depends on no parameter, or the batch cannot be chunked.
    Cost:
        Construction one forward and one recorded backward; a product 1.3 to 2.6 gradients. Memory: the graph.
    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> H = Hessian(model, lambda model, x: (model(x) ** 2).mean() / 2, torch.eye(2))
        >>> H @ torch.tensor([1.0, 0.0])
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.params = list(trainable(model).values()) if params is None else list(params)
        if not self.params:
            raise ShapeError("Hessian: the model must have a parameter that requires a gradient; got none.")
        self.layout = Layout.of((str(i), parameter) for i, parameter in enumerate(self.params))
        self.size = self.layout.size
        self.dtype, self.device = self.params[0].dtype, self.params[0].device
        self.route = "kept graph" if chunk_size is None else f"kept graph, chunks of {chunk_size}"
        self.loss = 0.0
        self.gradient = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        self._graphs: list[tuple[Tensor, ...]] = []
        with observing(model), hooks_set_aside(self.params):
            for chunk, weight in _chunks(batch, chunk_size):
                loss = weight * _checked(loss_fn(model, chunk))
                g = _gradient(loss, self.params)
                self.loss += float(loss.detach())
                self.gradient += flatten([part.detach() for part in g])
                self._graphs.append(g)

    def apply(self, v: Tensor) -> Tensor:
        parts = self.layout.split(v.contiguous())
        Hv = torch.zeros_like(v)
        with hooks_set_aside(self.params):
            for g in self._graphs:
                Hv += self._product(g, parts)
        return Hv

    def _product(self, g: tuple[Tensor, ...], parts: list[Tensor]) -> Tensor | float:
        """Backward through one chunk's gradient; 0 where it does not depend on the parameters."""
        curved = [(g_i, v_i) for g_i, v_i in zip(g, parts, strict=True) if g_i.requires_grad]
        if not curved:
            return 0.0
        outputs, vectors = zip(*curved, strict=True)
        return flatten(torch.autograd.grad(outputs, self.params, vectors, retain_graph=True, materialize_grads=True))


def _gradient(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    g = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    if all(part is None for part in g):
        raise ShapeError(
            "Hessian: the loss must depend on the parameters measured; it depends on none of them. Was the model "
            "copied or replaced after the optimizer was made?"
        )
    return tuple(torch.zeros_like(w) if part is None else part for w, part in zip(params, g, strict=True))


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        kind = f"shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ShapeError(f"Hessian: loss_fn must return a scalar; got {kind}. Average it: loss.mean().")
    if not loss.requires_grad:
        raise ShapeError(
            "Hessian: the loss must depend on a trainable parameter; got one that depends on none. "
            "Is it detached, or computed under torch.no_grad() or inference_mode()?"
        )
    return loss.reshape(())


def _chunks(batch: Any, chunk_size: int | None) -> Iterator[tuple[Any, float]]:
    """(chunk, share of the examples) pairs that cover the batch."""
    if chunk_size is None:
        yield batch, 1.0
        return
    if chunk_size < 1:
        raise ShapeError(f"Hessian: chunk_size must be at least 1; got {chunk_size}.")
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in _tensors(batch)}
    if len(lengths) != 1 or 0 in lengths:
        raise ShapeError(
            "Hessian: to be chunked, a batch must be a tensor, or a tuple, list or dict of tensors with one "
            f"common, positive number of examples; got {type(batch).__name__} with lengths {sorted(lengths)}."
        )
    (n,) = lengths
    for start in range(0, n, chunk_size):
        stop = min(start + chunk_size, n)
        yield _rows(batch, slice(start, stop)), (stop - start) / n


def _tensors(batch: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _rows(batch: Any, rows: slice) -> Any:
    """The batch with every tensor cut to these rows."""
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, dict):
        return {key: _rows(part, rows) for key, part in batch.items()}
    if not isinstance(batch, list | tuple):
        return batch
    parts = [_rows(part, rows) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
