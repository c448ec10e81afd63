"""A margin for small batches: curvature met by the batch gradient, on the batch and on all data. Experimental.

Legend: D = edge scaling, F = transfer function of the momentum rule, g_B = gradient of a batch B, H = Hessian on the
probe set, H_B = Hessian on the batch, q = D^1/2 g_B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from tightrope.curvature import LossFn, hessian
from tightrope.errors import ConfigError
from tightrope.optim import Frozen
from tightrope.parameters import weights_at

NUM_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class BatchLook:
    """What one batch showed; all three sums are over the same q.

    Attributes:
        on_batch: q'D^1/2 H_B D^1/2 q.
        on_probe: q'D^1/2 H D^1/2 q.
        length: q'q.
    """

    on_batch: float
    on_probe: float
    length: float


@dataclass(frozen=True)
class BatchMargin:
    """What several batches showed, each number with a bootstrap interval.

    Attributes:
        batch_sharpness: E[q'H_B q] / E[q'q] in the ratio's unit, "BS" with F(-1) in it.
        gradient_sharpness: E[q'H q] / E[q'q] in the ratio's unit, "AG".
        margin: AG + (BS - AG) / F(-1), "R": the full-batch ratio along the gradient where batches are all of the
            data, the mean-square law of plain descent where their noise dominates.
        batch_sharpness_interval, gradient_sharpness_interval, margin_interval: Of 95 %.
        num_batches: That were looked at.
    """

    batch_sharpness: float
    gradient_sharpness: float
    margin: float
    batch_sharpness_interval: tuple[float, float]
    gradient_sharpness_interval: tuple[float, float]
    margin_interval: tuple[float, float]
    num_batches: int


def batch_look(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    probe: Any,
    frozen: Frozen,
    *,
    params: Sequence[Tensor] | None = None,
    w: Tensor | None = None,
) -> BatchLook | None:
    """Look at one batch: its gradient, and the curvature it meets there and on the probe set.

    Args:
        model, loss_fn: The loss.
        batch: As trained on.
        probe: The data that stands for all.
        frozen: A linear method with a diagonal D.
        params: In the order of `frozen`; default its own.
        w: (p,) weights to look at; default as they are.
    Returns:
        BatchLook; None where a number is not finite.
    Cost:
        Two recorded gradients and two products, one each on the batch and on the probe set.
    """
    if frozen.D is None or frozen.D.ndim != 1:
        return None
    params = list(frozen.parameters if params is None else params)
    with weights_at(params, w):
        H_B = hessian(model, loss_fn, batch, params=params)
        half = frozen.D.sqrt().to(H_B.dtype)
        q = half * H_B.gradient
        on_batch = float(q @ (half * H_B.apply(half * q)))
        del H_B  # its graph, before another is built
        on_probe = float(q @ (half * hessian(model, loss_fn, probe, params=params).apply(half * q)))
    look = BatchLook(on_batch, on_probe, float(q.double() @ q.double()))
    is_finite = all(map(math.isfinite, (look.on_batch, look.on_probe, look.length)))
    return look if is_finite and look.length > 0 else None


def batch_margin(looks: Sequence[BatchLook], transfer: float, *, seed: int = 0) -> BatchMargin:
    """Ratios of means over the batches looked at, with bootstrap intervals over batches.

    Args:
        looks: Two or more.
        transfer: F(-1) of the momentum rule; 1 without momentum, (1 - beta1) / (1 + beta1) for Adam.
        seed: Of the resampling.
    Raises:
        ConfigError: fewer than two looks, or transfer is not positive.
    """
    if len(looks) < 2 or not transfer > 0:
        raise ConfigError(
            f"batch_margin: needs two batches or more and F(-1) above 0; got {len(looks)} and {transfer:g}."
        )
    table = np.array([(look.on_batch, look.on_probe, look.length) for look in looks])
    picks = np.random.default_rng(seed).integers(len(looks), size=(NUM_RESAMPLES, len(looks)))
    means = _numbers(table.mean(axis=0, keepdims=True), transfer)[0]
    resampled = _numbers(table[picks].mean(axis=1), transfer)
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tails, 1 - tails], axis=0)
    between = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    BS, AG, R = (float(mean) for mean in means)
    return BatchMargin(BS, AG, R, between[0], between[1], between[2], len(looks))


def shared_transfer(frozen: Frozen) -> float | None:
    """F(-1) of the momentum all groups share; None where they differ."""
    transfers = {round(group.momentum.alternating_gain, 12) for group in frozen.groups}
    return transfers.pop() if len(transfers) == 1 else None


def _numbers(means: np.ndarray, transfer: float) -> np.ndarray:
    """(m, 3) of BS, AG and R from the means (m, 3) of the three sums."""
    on_batch, on_probe, length = means.T
    BS, AG = on_batch / length, on_probe / length
    return np.stack([BS, AG, AG + (BS - AG) / transfer], axis=1)
