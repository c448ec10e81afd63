"""A problem is model + data + loss as w -> L(w): its configuration is a value, building it makes tensors."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, did_you_mean
from tightrope.parameters import share_storage, trainable

from . import data, losses

Batch = tuple[Tensor, ...]
Criterion = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, tuple[Callable[[Tensor, int], Tensor], Criterion]] = {
    "mse": (data.one_hot, losses.half_squared_error),
    "cross_entropy": (data.class_numbers, losses.cross_entropy),
}
"""How class numbers become targets, and the loss on them."""

NUM_AT_ONCE = 500
"""Held-out examples that are looked at together; a mean over examples is the same however they are cut."""


def misclassified(model: Any, batch: Batch) -> Tensor:
    """Which examples (n,) a model puts into a wrong class; targets are class numbers, or rows with one largest."""
    inputs, targets = batch
    classes = targets.argmax(1) if targets.is_floating_point() else targets
    wrong: Tensor = model(inputs).argmax(1) != classes
    return wrong


@dataclass(frozen=True)
class Problem:
    """A model on one flat parameter, its data and its loss.

    Attributes:
        model: Its parameters are views of `w`.
        w: (p,) all trainable parameters, with `.grad`.
        batch: The full training data, tensors whose first dimension counts examples.
        loss_fn: (model, batch) -> scalar, the mean over the batch's examples.
        test_batch: Held-out data in the same form, where the problem has any.
        mistakes_fn: (model, batch) -> which of the model's predictions are wrong, one or more an example.
    """

    model: nn.Module
    w: nn.Parameter
    batch: Batch
    loss_fn: Callable[[Any, Any], Tensor]
    test_batch: Batch | None = None
    mistakes_fn: Callable[[Any, Any], Tensor] = misclassified

    def on(self, device: torch.device) -> Problem:
        """The same problem with model and data on a device; as it is where they are there already.

        The model itself is moved, so that the problem it was made for is of no use afterwards.
        """
        if self.w.device == device:
            return self
        model = self.model.to(device)
        moved = tuple(tensor.to(device) for tensor in self.batch)
        test = None if self.test_batch is None else tuple(tensor.to(device) for tensor in self.test_batch)
        return replace(self, model=model, w=share_storage(model), batch=moved, test_batch=test)

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
        """Of the data, held-out data included: equal for equal data, and for nothing else.

        Cost: every byte is read once, from the file where data lie in one; asked again it is known.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (*self.batch, *(self.test_batch or ())):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def test(self) -> dict[str, float | int]:
        """On the held-out data, in evaluation mode: examples, loss, and the share of predictions that are wrong.

        Modes and buffers stay as they are: BatchNorm uses the statistics it has gathered, and gathers none.
        """
        assert self.test_batch is not None
        n, loss, mistakes = len(self.test_batch[0]), 0.0, []
        with _evaluating(self.model):
            for start in range(0, n, NUM_AT_ONCE):
                part = tuple(tensor[start : start + NUM_AT_ONCE] for tensor in self.test_batch)
                loss += len(part[0]) / n * self.loss_fn(self.model, part).item()
                mistakes.append(self.mistakes_fn(self.model, part))
        return {"num_examples": n, "loss": loss, "error": torch.cat(mistakes).double().mean().item()}

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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each part in the mode it was in."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for part, is_training in modes:
            part.training = is_training


def _cast(tensors: Batch, dtype: torch.dtype) -> Batch:
    """Numbers in the dtype; class numbers as they are."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
