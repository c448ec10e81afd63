"""A batch cut into pieces whose losses, each times its weight, add up to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ShapeError


@dataclass(frozen=True)
class MicroBatches:
    """Several batches whose losses, each times its weight, add up to the loss: gradient accumulation.

    Args:
        batches: What loss_fn takes, one after the other.
        weights: Of each batch's loss; default 1 / len(batches), the mean of the losses. Ones for their sum.
    Raises:
        ShapeError: there is no batch, not one weight a batch, or the batches are no sequence.
    Example:
        >>> MicroBatches(["a", "b"]).weights
        (0.5, 0.5)
    """

    batches: Sequence[Any]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.batches, Sequence | Tensor):
            raise ShapeError(
                f"MicroBatches: needs a sequence of batches; got {type(self.batches).__name__}. They are gone through "
                "again for every product: write list(batches), or [batch] for one."
            )
        object.__setattr__(self, "weights", tuple(self.weights))
        n = len(self.batches)
        if n == 0 or len(self.weights) not in (0, n):
            raise ShapeError(
                f"MicroBatches: needs one batch or more, and a weight for each; got {n} batches and "
                f"{len(self.weights)} weights. Leave the weights out for the mean of the losses."
            )
        object.__setattr__(self, "weights", self.weights or (1 / n,) * n)


def pieces(batch: Any, chunk_size: int | None) -> Iterator[tuple[Any, float]]:
    """(piece, weight of its loss) pairs that cover the batch."""
    if isinstance(batch, MicroBatches):
        for part, weight in zip(batch.batches, batch.weights, strict=True):
            yield from ((piece, weight * share) for piece, share in pieces(part, chunk_size))
    elif chunk_size is None:
        yield batch, 1.0
    else:
        yield from _chunks(batch, chunk_size)


def num_examples(batch: Any) -> int:
    """Number of examples of a batch that can be cut.

    Raises:
        ShapeError: it is not made of dense tensors with one common, positive length.
    """
    lengths = {len(x) if x.ndim and x.layout == torch.strided else 0 for x in tensors(batch)}
    if len(lengths) != 1 or 0 in lengths:
        raise ShapeError(
            "Hessian: to be chunked, a batch must be a tensor, or a tuple, list or dict of tensors with one "
            f"common, positive number of examples; got {type(batch).__name__} with lengths {sorted(lengths)}."
        )
    return lengths.pop()


def tensors(batch: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for part in _parts(batch) for tensor in tensors(part)]


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch, of the type it had, with every tensor in it changed; what has none is handed back as it is."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, MutableMapping):
        found = copy(batch)  # which keeps what else the type has, such as attributes for keys
        for key, part in batch.items():
            found[key] = mapped(part, change)
        return found
    if isinstance(batch, Mapping):
        return {key: mapped(part, change) for key, part in batch.items()}
    if _is_record(batch):
        found = copy(batch)
        for field in fields(batch):
            object.__setattr__(found, field.name, mapped(getattr(batch, field.name), change))
        return found
    if not isinstance(batch, list | tuple):
        return batch
    parts = [mapped(part, change) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def count(batch: Any) -> int:
    """Number of examples, or 1 where a batch cannot be cut."""
    try:
        return num_examples(batch)
    except ShapeError:
        return 1


def batch_tensors(batch: Any) -> list[Tensor]:
    """Every tensor of a batch, or of all its micro-batches."""
    parts = batch.batches if isinstance(batch, MicroBatches) else [batch]
    return [tensor for part in parts for tensor in tensors(part)]


def few(batch: Any, num: int) -> Any:
    """The first few examples of a batch, or of its first micro-batch; the whole of what cannot be cut."""
    first = batch.batches[0] if isinstance(batch, MicroBatches) else batch
    try:
        return rows(first, slice(0, num)) if num_examples(first) > num else batch
    except ShapeError:
        return batch


def rows(batch: Any, wanted: slice) -> Any:
    """The batch with every tensor cut to these rows."""
    return mapped(batch, lambda x: x[wanted])


def _parts(batch: Any) -> Iterable[Any]:
    if isinstance(batch, Mapping):
        return batch.values()
    if _is_record(batch):
        return [getattr(batch, field.name) for field in fields(batch)]
    return batch if isinstance(batch, list | tuple) else ()


def _is_record(batch: Any) -> bool:
    """Whether a batch is made of the fields of a dataclass; micro-batches are several."""
    return is_dataclass(batch) and not isinstance(batch, type | MicroBatches)


def _chunks(batch: Any, chunk_size: int) -> Iterator[tuple[Any, float]]:
    if chunk_size < 1:
        raise ShapeError(f"Hessian: chunk_size must be at least 1; got {chunk_size}.")
    n = num_examples(batch)
    for start in range(0, n, chunk_size):
        stop = min(start + chunk_size, n)
        yield rows(batch, slice(start, stop)), (stop - start) / n
