"""Labelled colour images as they are stored, checked once, and standardised into tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tightrope.errors import DataError

Array = NDArray[Any]
SHAPE = (32, 32, 3)
NUM_PIXELS = 32 * 32 * 3
KEYS = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True)
class Images:
    """Images and their classes, for training and held out.

    Attributes:
        train_x, test_x: (n, 32, 32, 3) bytes, red, green and blue last.
        train_y, test_y: (n,) class numbers.
        mean, std: (3,) of each channel over the full training set, in bytes (0 to 255).
    """

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    mean: Array
    std: Array

    @classmethod
    def of(
        cls,
        file: Path,
        num_classes: int,
        train: tuple[Array, Array],
        test: tuple[Array, Array],
        moments: tuple[Array, Array] | None = None,
    ) -> Images:
        """Checked images out of a file; moments (mean, std) are those of the training images unless given.

        Raises:
            DataError: dtype, shape or labels are wrong, there are none, or a channel is constant.
        """
        _check_part(file, "train", *train, num_classes)
        _check_part(file, "test", *test, num_classes)
        mean, std = moments or channel_moments(train[0])
        if not (std > 0).all():
            raise DataError(
                f"{file}: the training images must vary in each channel; their standard deviations are {std.tolist()}."
            )
        return cls(*train, *test, mean, std)

    def standardised(self, images: Array, dtype: torch.dtype) -> Tensor:
        """Images (n, 3, 32, 32) less the channel's mean, over its standard deviation.

        Cost: one array of the result's size; the arithmetic is in place.
        """
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)
        mean, std = (torch.from_numpy(moment).to(dtype)[:, None, None] for moment in (self.mean, self.std))
        return x.sub_(mean).div_(std)


def read_npz(file: Path, num_classes: int) -> Images:
    """The images of an .npz with train_x, train_y, test_x, test_y; nothing in it is unpickled.

    `pixel_mean` and `pixel_std`, in [0, 1] and (32, 32, 3) or (3,), may say the moments of a larger training set
    that these images were taken from.

    Raises:
        DataError: it cannot be read, or does not hold what it must.
    """
    try:
        # Opened here, because numpy leaves a damaged file open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in (*KEYS, "pixel_mean", "pixel_std") if key in arrays}
    except Exception as error:
        # Damaged bytes make zipfile, zlib, the tokenizer and numpy raise a dozen kinds of errors, all alike to a user.
        why = getattr(error, "strerror", None) or "it is damaged, or something else"
        raise DataError(f"{file}: must be an .npz of plain arrays, as np.savez writes it; {why}.") from error
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise DataError(f"{file}: must hold {', '.join(KEYS)}; it lacks {', '.join(missing)}.")
    train, test = ((content[f"{part}_x"], content[f"{part}_y"]) for part in ("train", "test"))
    return Images.of(file, num_classes, train, test, _stored_moments(file, content))


def channel_moments(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (3,) of each channel of bytes (n, 32, 32, 3), from sums of whole numbers."""
    num_values = x.size // 3
    # Summing over images first is several times faster than over all but the channels at once.
    mean = x.sum(axis=0, dtype=np.int64).sum(axis=(0, 1)) / num_values
    square = np.einsum("nhwc,nhwc->c", x, x, dtype=np.int64) / num_values
    return mean, np.sqrt(square - mean**2)


def _stored_moments(file: Path, content: Mapping[str, Array]) -> tuple[Array, Array] | None:
    """Channel moments from stored ones, of each channel or of each pixel (their mixture, by the law of variance)."""
    stored = [content[key] for key in ("pixel_mean", "pixel_std") if key in content]
    if not stored:
        return None
    is_sound = len(stored) == 2 and all(
        moment.dtype.kind == "f" and moment.shape in (SHAPE, (3,)) and ((moment >= 0) & (moment <= 1)).all()
        for moment in stored
    )
    if not is_sound:
        got = ", ".join(f"{moment.dtype} {moment.shape}" for moment in stored)
        raise DataError(
            f"{file}: pixel_mean and pixel_std must both be floats in [0, 1] of shape (32, 32, 3) or (3,); got {got}."
        )
    pixel_mean, pixel_std = (moment.astype(np.float64).reshape(-1, 3) for moment in stored)
    mean = pixel_mean.mean(axis=0)
    variance = (pixel_std**2).mean(axis=0) + ((pixel_mean - mean) ** 2).mean(axis=0)
    return 255 * mean, 255 * np.sqrt(variance)


def _check_part(file: Path, part: str, x: Array, y: Array, num_classes: int) -> None:
    if x.dtype != np.uint8 or x.shape[1:] != SHAPE:
        raise DataError(f"{file}: {part}_x must be uint8 (n, 32, 32, 3); got {x.dtype} {x.shape}.")
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise DataError(f"{file}: {part}_y must be {len(x)} whole numbers, one an image; got {y.dtype} {y.shape}.")
    if len(x) == 0:
        raise DataError(f"{file}: {part}_x must hold at least one image; got none.")
    if y.min() < 0 or y.max() >= num_classes:
        raise DataError(f"{file}: {part}_y must be classes 0..{num_classes - 1}; got {y.min()}..{y.max()}.")
