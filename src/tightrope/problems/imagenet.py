"""ImageNet as a problem: ResNet-50 on images that stay in their files until a batch needs them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, DataError, check_count

from .archives import data_folder
from .images import Array
from .networks import check_blocks
from .problem import LOSSES, Problem, ProblemConfig, check_choice, classification
from .residual import bottleneck_residual

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, in [0, 1], as commonly used (torchvision, "pre-trained models")."""


class Standardised(nn.Module):
    """Bytes (n, h, w, 3) to channels (n, 3, h, w) of mean 0 and standard deviation 1, in the model's dtype."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        for name, moment in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, 255 * torch.tensor(moment, dtype=torch.float64)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return x.permute(0, 3, 1, 2).to(mean.dtype, memory_format=torch.contiguous_format).sub(mean).div(std)


class ImageNet(ProblemConfig, frozen=True, tag="imagenet"):
    """ResNet-50 with BatchNorm on images in numpy's files; not tried at full size.

    The folder holds `train_x.npy`, uint8 (n, h, w, 3), red first, all of one size (the paper's is 224), and
    `train_y.npy`, the n classes; for held-out images `test_x.npy` and `test_y.npy`. Images are mapped into memory and
    only those of a batch become numbers. A run's record identifies its data by a hash of every byte used, which at
    full size (190 GB) takes minutes when a run starts or is taken up.

    Attributes:
        path: The folder; None for `imagenet` in the data folder.
        loss: "cross_entropy", or "mse" against one-hot targets.
        num_examples: The first so many training images; None for all.
        num_test_examples: The first so many held-out images, as the problem's `test_batch`.
        num_classes: How many classes there are.
        blocks, width: Of the network, as in `bottleneck_residual`; the defaults are ResNet-50's.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), Figure 6. How it scales images or draws weights is not said: each
        channel is standardised here, and weights are N(0, 1 / fan_in).
    """

    path: str | None = None
    loss: str = "cross_entropy"
    num_examples: int | None = None
    num_test_examples: int = 0
    num_classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    def __post_init__(self) -> None:
        check_choice("problem.loss", self.loss, LOSSES)
        if not self.blocks:
            raise ConfigError("problem.blocks: there must be at least one group; got none.")
        check_blocks(self.blocks)
        for name in ("width", "num_classes"):
            check_count(f"problem.{name}:", getattr(self, name))
        if self.num_examples is not None:
            check_count("problem.num_examples:", self.num_examples)
        check_count("problem.num_test_examples:", self.num_test_examples, 0)

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        folder = data_folder() / "imagenet" if self.path is None else Path(os.path.expanduser(self.path))
        train = _part(folder, "train", self.num_examples)
        test = _part(folder, "test", self.num_test_examples) if self.num_test_examples else None
        generator = torch.Generator().manual_seed(seed)
        network = bottleneck_residual(self.num_classes, generator, self.blocks, self.width)
        model = nn.Sequential(Standardised(), *network)
        return classification(model, *train, self.num_classes, self.loss, dtype, test)


def _part(folder: Path, part: str, count: int | None) -> tuple[Tensor, Tensor]:
    """The first images, still in their file, and their classes (n,)."""
    x, y = _mapped(folder / f"{part}_x.npy"), _mapped(folder / f"{part}_y.npy")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3:
        raise DataError(f"{folder / part}_x.npy: must be uint8 (n, h, w, 3); got {x.dtype} {x.shape}.")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise DataError(
            f"{folder / part}_y.npy: must be {len(x)} whole numbers, one an image; got {y.dtype} {y.shape}."
        )
    if count is not None and count > len(x):
        key = "num_examples" if part == "train" else "num_test_examples"
        raise ConfigError(f"problem.{key}: must be at most the {len(x)} there are; got {count}.")
    return torch.from_numpy(x[:count]), torch.from_numpy(y[:count].astype(np.int64))


def _mapped(file: Path) -> Array:
    """The array of a file, in the file; what is written to it would not reach the file, and nothing is unpickled."""
    if not os.path.isfile(file):
        raise DataError(
            f"{file}: must hold ImageNet's images or classes as numpy writes them (np.save); there is no such file. "
            "Get ImageNet from https://image-net.org, cut it to one size, and set problem.path or TIGHTROPE_DATA."
        )
    try:
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: must be one plain array as np.save writes it; it cannot be read as that.") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: must be one array as np.save writes it; it holds several. Save each by itself.")
    return array
