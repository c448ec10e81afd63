"""A problem is model + data + loss as w -> L(w): its configuration is a value, building it makes tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, did_you_mean
from tightrope.parameters import share_storage, trainable

from . import data, losses, models

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem:
    """A model on one flat parameter, its data and its loss.

    Attributes:
        model: Its parameters are views of `w`.
        w: (p,) all trainable parameters, with `.grad`.
        batch: The full training data, tensors whose first dimension counts examples.
        loss_fn: (model, batch) -> scalar, the mean over the batch's examples.
    """

    model: nn.Module
    w: nn.Parameter
    batch: Batch
    loss_fn: Callable[[Any, Any], Tensor]

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

    def rows(self, index: Tensor) -> Batch:
        """The examples with these numbers."""
        return tuple(tensor[index] for tensor in self.batch)


def supervised(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype,
) -> Problem:
    """A model that maps inputs to targets, in one dtype.

    Raises:
        ConfigError: there are no examples, or inputs and targets differ in number.
    """
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ConfigError(
            f"problem: inputs and targets must be equally many and at least one; got {len(inputs)} and {len(targets)}."
        )
    model = model.to(dtype)
    cast = targets.to(dtype) if targets.is_floating_point() else targets
    return Problem(
        model, share_storage(model), (inputs.to(dtype), cast), lambda model, batch: criterion(model(batch[0]), batch[1])
    )


class ProblemConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"):
    """A problem as a value, the `[problem]` table of a configuration."""

    @abstractmethod
    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        """The problem with the weights this seed draws.

        Raises:
            ConfigError: the data is empty, or a setting is out of its range.
        """


class Digits(ProblemConfig, frozen=True, tag="digits"):
    """A fully-connected network on scikit-learn's digits, in mean squared error or cross-entropy."""

    hidden: tuple[int, ...] = (200,) * 5
    activation: str = "tanh"
    loss: str = "mse"
    num_examples: int | None = None

    def __post_init__(self) -> None:
        _check_choice("problem.activation", self.activation, models.ACTIVATIONS)
        _check_choice("problem.loss", self.loss, ("mse", "cross_entropy"))
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"problem.hidden: widths must be at least 1; got {list(self.hidden)}.")

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        x, labels = data.digits(self.num_examples)
        data.check_labels(labels, 10)
        generator = torch.Generator().manual_seed(seed)
        model = models.fully_connected(64, self.hidden, 10, self.activation, generator)
        if self.loss == "mse":
            return supervised(model, x, data.one_hot(labels, 10), losses.half_squared_error, dtype)
        return supervised(model, x, labels, losses.cross_entropy, dtype)


class Chebyshev(ProblemConfig, frozen=True, tag="chebyshev"):
    """One hidden layer of tanh on a Chebyshev polynomial: small enough for an exact Hessian."""

    num_points: int = 20
    degree: int = 5
    width: int = 100

    def __post_init__(self) -> None:
        if min(self.num_points, self.width) < 1 or self.degree < 0:
            raise ConfigError("problem: num_points and width must be at least 1 and degree at least 0.")

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        x, y = data.chebyshev(self.num_points, self.degree)
        return supervised(self._model(seed), x, y, losses.half_squared_error, dtype)

    def _model(self, seed: int) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                first, second = nn.Linear(1, self.width), nn.Linear(self.width, 1, bias=False)
                nn.init.xavier_normal_(first.weight, gain=1.9)
                nn.init.zeros_(first.bias)
                nn.init.xavier_normal_(second.weight)
            finally:
                torch.set_default_dtype(default)
        return nn.Sequential(first, nn.Tanh(), second)


class Quadratic(ProblemConfig, frozen=True, tag="quadratic"):
    """f(x) = 1/2 sum_i a_i x_i^2 from a given start.

    x^2 / 2 is curvatures (1,); the bowl x^2 + y^2 (2, 2); the ravine x^2 + 5 y^2 (2, 10); the example
    (10 x^2 + y^2) / 2 from (1, 10) is (10, 1).
    """

    curvatures: tuple[float, ...] = (1.0,)
    start: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.curvatures or len(self.curvatures) != len(self.start):
            raise ConfigError(
                "problem: curvatures and start must be equally many and at least one; "
                f"got {len(self.curvatures)} and {len(self.start)}."
            )

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        model = models.Point(torch.tensor(self.start, dtype=dtype))
        curvatures = torch.tensor([self.curvatures], dtype=dtype)
        return Problem(
            model,
            share_storage(model),
            (curvatures,),
            lambda model, batch: (batch[0] * model().square()).sum() / (2 * len(batch[0])),
        )


AnyProblem = Digits | Chebyshev | Quadratic
PROBLEMS: dict[str, type[ProblemConfig]] = {"digits": Digits, "chebyshev": Chebyshev, "quadratic": Quadratic}


def _check_choice(key: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f"{key}: '{value}' is not known. {did_you_mean(value, known)}")
