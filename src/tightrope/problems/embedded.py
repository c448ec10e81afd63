"""Problems that need no file: scikit-learn's digits, a Chebyshev polynomial, quadratics."""

from __future__ import annotations

import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.parameters import share_storage

from . import data, losses, models
from .problem import Problem, ProblemConfig, check_network, classification, supervised


class Digits(ProblemConfig, frozen=True, tag="digits"):
    """A fully-connected network on scikit-learn's digits, in mean squared error or cross-entropy."""

    hidden: tuple[int, ...] = (200,) * 5
    activation: str = "tanh"
    loss: str = "mse"
    num_examples: int | None = None

    def __post_init__(self) -> None:
        check_network(self.hidden, self.activation, self.loss)

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        x, labels = data.digits(self.num_examples)
        generator = torch.Generator().manual_seed(seed)
        model = models.fully_connected(64, self.hidden, 10, self.activation, generator)
        return classification(model, x, labels, 10, self.loss, dtype)


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
