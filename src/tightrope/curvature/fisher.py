"""Fisher information of a model's predictions, exact, sampled or empirical, by its products.

Legend: F = Fisher matrix, J = derivative of the outputs in the parameters, n = number of predictions (rows of z),
s = gradient of -log p(y | z) in z, (n, d), z = outputs, (n, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, ShapeError, did_you_mean

from .gauss_newton import Criterion, curved_criterion
from .linearised import Linearised, Metric, linearised, outputs_objective, product, undefined
from .loss_curvature import LossCurvature, LossFn

DISTRIBUTIONS = ("categorical", "normal")


class Fisher(LossCurvature):
    """Fisher matrix, the mean over predictions of E[g g'] with g the gradient of -log p(y | z), (p, p).

    A prediction is a row of the outputs z (..., d): an example, or a token. Three matrices go by this name:

    - *true* (the default): y is drawn from the model's own distribution, and the mean over it is taken exactly. For
      logits under cross-entropy and means under squared error it is the Gauss-Newton matrix of that criterion.
    - *sampled*, with num_samples > 0: the same from that many draws a prediction: unbiased, of rank num_samples * n
      at the most, and noisy.
    - *empirical*: y are the labels in the batch. It is the uncentred second moment of the gradients of single
      predictions, no approximation of the Hessian in general (Kunstner et al. 2019).

    Args:
        model: Any module; left bit for bit as it was.
        forward: (model, batch) -> z, such as logits.
        criterion: (z, batch) -> scalar, the mean of -log p(y | z) over all predictions.
        batch, params, chunk_size: As in `Hessian`.
        distribution: What z are the parameters of: "categorical" (logits) or "normal" (means, of variance 1).
        empirical: Take the batch's labels.
        num_samples: Draws a prediction; 0 for the exact mean.
        seed: Of the draws.
    Attributes:
        loss: The criterion, a float.
        gradient: (p,).
    Raises:
        ConfigError: distribution is unknown, num_samples is negative, or samples of an empirical matrix are asked for.
        ShapeError: as in `GaussNewton`.
    Cost:
        As `GaussNewton`.
    References:
        Martens 2020 (arXiv 1412.1193), sections 5, 9 and 11; Kunstner, Balles and Hennig 2019 (arXiv 1905.12558).
    """

    def __init__(
        self,
        model: nn.Module,
        forward: LossFn,
        criterion: Criterion,
        batch: Any,
        *,
        distribution: str = "categorical",
        empirical: bool = False,
        num_samples: int = 0,
        seed: int = 0,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        _check(distribution, empirical, num_samples)
        self.objective = objective = outputs_objective("Fisher", model, batch, params, chunk_size)
        self.size, self.dtype, self.device = objective.layout.size, objective.dtype, objective.device
        kind = "empirical" if empirical else f"{num_samples} samples" if num_samples else "exact"
        self.route = f"Fisher, {kind}, kept linearisation" + objective.scope
        self.loss, self.gradient = 0.0, objective.zeros()
        self._pieces: list[tuple[Linearised, Metric]] = []
        generator = torch.Generator().manual_seed(seed)
        with objective.environment():
            for each in linearised(objective, forward):
                loss, dz, metric = curved_criterion(each, criterion)
                self.loss += each.weight * loss
                self.gradient += each.weight * each.pull(dz)
                z = _rows(each.z.detach())
                if metric is undefined:
                    pass
                elif empirical:
                    metric = _outer(len(z) * _rows(dz)[None])
                elif num_samples:
                    metric = _outer(_sampled(z, distribution, num_samples, generator))
                else:
                    metric = _exact(z, distribution)
                self._pieces.append((each, metric))

    def apply(self, v: Tensor) -> Tensor:
        return product(self._pieces, v)


def _exact(z: Tensor, distribution: str) -> Metric:
    """E[s s'] / n of each row: diag(q) - q q' with q = softmax(z), or the identity."""
    q = z.softmax(dim=1)

    def metric(u: Tensor) -> Tensor:
        if distribution == "normal":
            return u / len(z)
        qu = q * _rows(u)
        return ((qu - q * qu.sum(dim=1, keepdim=True)) / len(z)).view(u.shape)

    return metric


def _outer(s: Tensor) -> Metric:
    """The mean of s s' over samples, over n, for s (samples, n, d)."""

    def metric(u: Tensor) -> Tensor:
        along = (s * _rows(u)).sum(dim=2, keepdim=True)
        return ((s * along).sum(dim=0) / (s.shape[0] * s.shape[1])).view(u.shape)

    return metric


def _sampled(z: Tensor, distribution: str, num_samples: int, generator: torch.Generator) -> Tensor:
    """Gradients s of -log p(y | z) in z at draws of y, (num_samples, n, d)."""
    n, d = z.shape
    if distribution == "normal":
        return torch.randn(num_samples, n, d, generator=generator).to(z)
    q = z.softmax(dim=1)
    if not bool(q.isfinite().all()):
        return q.new_full((num_samples, n, d), float("nan"))
    y = torch.multinomial(q.cpu(), num_samples, replacement=True, generator=generator).T
    return q - nn.functional.one_hot(y, d).to(q)


def _rows(z: Tensor) -> Tensor:
    """(n, d), a row for each prediction."""
    if z.ndim < 2:
        raise ShapeError(f"Fisher: outputs must be (..., d), d to a prediction; got {tuple(z.shape)}. Use z[:, None].")
    return z.reshape(-1, z.shape[-1])


def _check(distribution: str, empirical: bool, num_samples: int) -> None:
    if distribution not in DISTRIBUTIONS:
        hint = did_you_mean(distribution, DISTRIBUTIONS)
        raise ConfigError(f"Fisher: distribution must be 'categorical' or 'normal'; got {distribution!r}. {hint}")
    if num_samples < 0 or (empirical and num_samples):
        raise ConfigError(
            f"Fisher: num_samples must be 0 or more, and 0 where the labels are the batch's; got {num_samples}."
        )
