"""Problems that need no file: scikit-learn's digits, a Chebyshev polynomial, quadratics."""

from __future__ import annotations

import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.parameters import share_storage

from . import data, losses, models
from .networks import Design, decided
from .problem import LOSSES, Problem, ProblemConfig, check_choice, classification, supervised
from .residual import wide_residual

_WIDE = Design(channels=(8, 16), blocks=1)
DESIGNS = {
    "fc": Design(hidden=(200,) * 5, activation="tanh"),
    "cnn": Design(hidden=(64,), activation="relu"),
    "wrn": _WIDE,
    "wrn_bn": _WIDE,
}
"""The networks on digits: the paper's fully-connected one, and its others made small."""


class Digits(ProblemConfig, frozen=True, tag="digits"):
    """A network on scikit-learn's digits.

    Attributes:
        model: "fc"; "cnn" (two convolutions); "wrn" (Wide ResNet of two groups of one block, without normalisation,
            with scalar multipliers) or "wrn_bn" (with BatchNorm).
        hidden: Widths of the fully-connected layers before the last; None for the model's own: five of 200 in "fc",
            one of 64 in "cnn".
        activation: None for the model's own: tanh in "fc", relu in "cnn".
        channels: Of each group of a Wide ResNet; None for 8 and 16.
        blocks: In each group of a Wide ResNet; None for one.
        loss: "mse" against one-hot targets, or "cross_entropy".
        num_examples: The first so many for training; None for all that are not held out.
        num_test_examples: The last so many are held out, as the problem's `test_batch`.
    """

    model: str = "fc"
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    channels: tuple[int, ...] | None = None
    blocks: int | None = None
    loss: str = "mse"
    num_examples: int | None = None
    num_test_examples: int = 0

    def __post_init__(self) -> None:
        self._design()
        check_choice("problem.loss", self.loss, LOSSES)

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        x, labels = data.digits()
        x = x if self.model == "fc" else x.view(-1, 1, 8, 8)
        num_train = data.split(len(x), self.num_examples, self.num_test_examples)
        first_test = len(x) - self.num_test_examples
        test = (x[first_test:], labels[first_test:]) if self.num_test_examples else None
        return classification(self._network(seed), x[:num_train], labels[:num_train], 10, self.loss, dtype, test)

    def _design(self) -> Design:
        return decided(DESIGNS, self.model, Design(self.hidden, self.activation, self.channels, self.blocks))

    def _network(self, seed: int) -> nn.Sequential:
        design, generator = self._design(), torch.Generator().manual_seed(seed)
        if design.channels is not None and design.blocks is not None:
            return wide_residual(1, design.channels, design.blocks, 10, self.model == "wrn_bn", generator)
        assert design.hidden is not None
        assert design.activation is not None
        if self.model == "cnn":
            return models.small_convolutional(design.hidden, 10, design.activation, generator)
        return models.fully_connected(64, design.hidden, 10, design.activation, generator)


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
