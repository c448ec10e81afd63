"""CIFAR-10 and CIFAR-100 as problems: real images, the paper's networks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError

from . import models
from .archives import ARCHIVES, load
from .images import NUM_PIXELS, Array
from .networks import Design, decided
from .problem import LOSSES, Problem, ProblemConfig, check_choice, classification
from .residual import wide_residual

_WIDE = Design(channels=(160, 320, 640), blocks=4)
DESIGNS = {
    "fc": Design(hidden=(200,) * 5, activation="tanh"),
    "cnn": Design(hidden=(512, 256), activation="relu"),
    "wrn": _WIDE,
    "wrn_bn": _WIDE,
}
"""The paper's networks."""


class Cifar(ProblemConfig, frozen=True):
    """A network on the first so many training images, each channel standardised by the full training set.

    Attributes:
        model: "fc", "cnn", "wrn" (Wide ResNet without normalisation, with scalar multipliers) or "wrn_bn" (with
            BatchNorm), as in the paper's Appendix G unless a setting says otherwise.
        hidden: Widths of the fully-connected layers before the last in "fc" and "cnn"; None for the paper's.
        activation: None for the paper's: tanh in "fc", relu in "cnn".
        channels: Of each group of a Wide ResNet; None for the paper's 160, 320 and 640.
        blocks: In each group of a Wide ResNet; None for the paper's four.
        loss: "mse" against one-hot targets, or "cross_entropy".
        num_examples: The first so many training images; None for all.
        num_test_examples: The first so many held-out images, as the problem's `test_batch`.
        path: The archive, or an .npz in its place; None for the one in the data folder.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), Appendix G.1, which does not say how images are scaled. The code of
        Cohen et al. 2021 (locuslab/edge-of-stability) standardises each pixel instead of each channel.
    """

    model: str = "fc"
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    channels: tuple[int, ...] | None = None
    blocks: int | None = None
    loss: str = "mse"
    num_examples: int | None = None
    num_test_examples: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        self._design()
        check_choice("problem.loss", self.loss, LOSSES)

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        archive = ARCHIVES[str(self.__struct_config__.tag)]
        images = load(archive, self.path)
        num_examples = len(images.train_x) if self.num_examples is None else self.num_examples
        _check_count("num_examples", num_examples, 1, len(images.train_x))
        _check_count("num_test_examples", self.num_test_examples, 0, len(images.test_x))

        def first(count: int, x: Array, y: Array) -> tuple[Tensor, Tensor]:
            return images.standardised(x[:count], dtype), torch.from_numpy(y[:count].astype(np.int64))

        train = first(num_examples, images.train_x, images.train_y)
        test = first(self.num_test_examples, images.test_x, images.test_y) if self.num_test_examples else None
        return classification(
            self._network(archive.num_classes, seed), *train, archive.num_classes, self.loss, dtype, test
        )

    def _design(self) -> Design:
        return decided(DESIGNS, self.model, Design(self.hidden, self.activation, self.channels, self.blocks))

    def _network(self, num_classes: int, seed: int) -> nn.Sequential:
        design, generator = self._design(), torch.Generator().manual_seed(seed)
        if design.channels is not None and design.blocks is not None:
            is_normalised = self.model == "wrn_bn"
            return wide_residual(3, design.channels, design.blocks, num_classes, is_normalised, generator)
        assert design.hidden is not None
        assert design.activation is not None
        if self.model == "cnn":
            return models.convolutional(design.hidden, num_classes, design.activation, generator)
        return models.fully_connected(NUM_PIXELS, design.hidden, num_classes, design.activation, generator)


class Cifar10(Cifar, frozen=True, tag="cifar10"):
    """A network on CIFAR-10's real images, 10 classes; see Cifar for its settings."""


class Cifar100(Cifar, frozen=True, tag="cifar100"):
    """A network on CIFAR-100's real images, 100 classes; see Cifar for its settings."""


def _check_count(key: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise ConfigError(f"problem.{key}: must be between {least} and the {most} there are; got {count}.")
