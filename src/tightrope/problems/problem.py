"""A problem is model + data + loss as w -> L(w): its configuration is a value, building it makes tensors."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, did_you_mean
from tightrope.parameters import share_storage, trainable

from . import data, losses, models

Batch = tuple[Tensor, ...]
Criterion = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, tuple[Callable[[Tensor, int], Tensor], Criterion]] = {
    "mse": (data.one_hot, losses.half_squared_error),
    "cross_entropy": (data.class_numbers, losses.cross_entropy),
}
"""How class numbers become targets, and the loss on them."""


@dataclass(frozen=True)
class Problem:
    """A model on one flat parameter, its data and its loss.

    Attributes:
        model: Its parameters are views of `w`.
        w: (p,) all trainable parameters, with `.grad`.
        batch: The full training data, tensors whose first dimension counts examples.
        loss_fn: (model, batch) -> scalar, the mean over the batch's examples.
        test_batch: Held-out data in the same form, where the problem has any.
    """

    model: nn.Module
    w: nn.Parameter
    batch: Batch
    loss_fn: Callable[[Any, Any], Tensor]
    test_batch: Batch | None = None

    @property
    def num_examples(self) -> int:
        return len(self.batch[0])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's trainable parameters, views of `w` in its order."""
        return list(trainable(self.model).values())

    @property
    def gradient(self) -> Tensor:
        """(p,) the flat gradient that `backward()` fills."""
        assert self.w.grad is not None
        return self.w.grad

    def first(self, num_examples: int | None) -> Batch:
        """The first examples; all with None."""
        return tuple(tensor[:num_examples] for tensor in self.batch)

    def digest(self) -> str:
        """Of the data, held-out data included: equal for equal data, and for nothing else."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (*self.batch, *(self.test_batch or ())):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def test(self) -> dict[str, float | int]:
        """On the held-out data: examples, loss, and the share that is put into a wrong class."""
        assert self.test_batch is not None
        inputs, targets = self.test_batch
        classes = targets.argmax(1) if targets.is_floating_point() else targets
        is_wrong = self.model(inputs).argmax(1) != classes
        loss = self.loss_fn(self.model, self.test_batch).item()
        return {"num_examples": len(inputs), "loss": loss, "error": is_wrong.double().mean().item()}

    def rows(self, index: Tensor) -> Batch:
        """The examples with these numbers."""
        return tuple(tensor[index] for tensor in self.batch)


def supervised(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Criterion,
    dtype: torch.dtype,
    test: Batch | None = None,
) -> Problem:
    """A model that maps inputs to targets, in one dtype; `test` holds such inputs and targets too.

    Raises:
        ConfigError: there are no examples, or inputs and targets differ in number.
    """
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ConfigError(
            f"problem: inputs and targets must be equally many and at least one; got {len(inputs)} and {len(targets)}."
        )
    model = model.to(dtype)
    return Problem(
        model,
        share_storage(model),
        _cast((inputs, targets), dtype),
        lambda model, batch: criterion(model(batch[0]), batch[1]),
        None if test is None else _cast(test, dtype),
    )


def classification(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    num_classes: int,
    loss: str,
    dtype: torch.dtype,
    test: Batch | None = None,
) -> Problem:
    """A model that tells classes apart, in mean squared error against one-hot targets or in cross-entropy.

    Args:
        labels: (n,) class numbers.
        loss: "mse" or "cross_entropy".
        test: Held-out inputs and labels.
    Raises:
        ConfigError: there are no examples, or a label is outside 0..num_classes-1.
    """
    targets_of, criterion = LOSSES[loss]
    targets = targets_of(labels, num_classes)
    test = None if test is None else (test[0], targets_of(test[1], num_classes))
    return supervised(model, inputs, targets, criterion, dtype, test)


class ProblemConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"):
    """A problem as a value, the `[problem]` table of a configuration."""

    @abstractmethod
    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        """The problem with the weights this seed draws.

        Raises:
            ConfigError: the data is empty, or a setting is out of its range.
            DataError: a file it needs is missing, damaged or not what it should be.
        """


def check_choice(key: str, value: str, known: Iterable[str]) -> None:
    """Raise unless the value is one of the known ones.

    Raises:
        ConfigError: with the nearest known one.
    """
    if value not in known:
        raise ConfigError(f"{key}: '{value}' is not known. {did_you_mean(value, known)}")


def check_network(hidden: Iterable[int] | None, activation: str | None, loss: str) -> None:
    """Raise unless widths are positive, and activation and loss known; None stands for a network's own.

    Raises:
        ConfigError: as said.
    """
    if hidden is not None and any(width < 1 for width in hidden):
        raise ConfigError(f"problem.hidden: widths must be at least 1; got {list(hidden)}.")
    if activation is not None:
        check_choice("problem.activation", activation, models.ACTIVATIONS)
    check_choice("problem.loss", loss, LOSSES)


def _cast(tensors: Batch, dtype: torch.dtype) -> Batch:
    """Numbers in the dtype; class numbers as they are."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
