"""A trained model at one moment: its measurement, the layers that hold the top direction, its whole spectrum.

Legend: u = top direction, D = edge scaling.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import (
    LayerShare,
    LossCurvature,
    LossFn,
    SpectralDensity,
    SymmetricOperator,
    hessian,
    layer_shares,
    participation,
    spectral_density,
    top_eigenvalues,
)
from tightrope.optim import Frozen, freeze
from tightrope.stability import REASONS, Measurement, Probe, ratio_operator


@dataclass(frozen=True)
class Snapshot:
    """What was found of a model as it stands.

    Attributes:
        measurement: With a sharpness alone, and a reason, where the optimizer has no ratio.
        has_ratio: Whether layers and spectrum are of the operator whose edge is 1, and not of the raw Hessian.
        layers: By their share of the top direction, the largest first; in the ratio's operator, in weights scaled
            by D^-1/2, in which the optimizer moves alike.
        density: The whole spectrum of that operator, where it was asked for.
    """

    measurement: Measurement
    has_ratio: bool
    layers: tuple[LayerShare, ...]
    density: SpectralDensity | None = None


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn,
    batch: Any,
    *,
    k: int = 1,
    rtol: float = 1e-2,
    num_spectrum_vectors: int = 0,
    seed: int = 0,
) -> Snapshot:
    """Measure a model as it stands, with what its top direction and its whole spectrum say.

    Where the optimizer has no ratio (no state, or no linear method), the raw sharpness is measured alone.

    Args:
        model, optimizer, loss_fn, batch, k, rtol, seed: As for `measure`.
        num_spectrum_vectors: Random directions for the spectrum; 0 for none.
    Raises:
        ShapeError: as for `measure`; k is more than there are parameters.
    Cost:
        As `measure`; the spectrum up to 64 products a direction more.
    """
    frozen = freeze(optimizer)
    probe = Probe(model, loss_fn, k=k, rtol=rtol, seed=seed, audit_every=1)
    measurement, u = probe.measure(frozen, batch), probe.top_direction
    params: Sequence[Tensor] = frozen.parameters
    has_ratio = frozen.status == "linear"
    if not has_ratio:
        params = params or [w for w in model.parameters() if w.requires_grad]
        measurement, u = _sharpness_alone(measurement, hessian(model, loss_fn, batch, params=params), k, rtol, seed)
    density = None
    if num_spectrum_vectors and (measurement.has_ratio or not has_ratio):
        operator = _operator(hessian(model, loss_fn, batch, params=params), frozen if has_ratio else None)
        density = spectral_density(operator, num_vectors=num_spectrum_vectors, seed=seed)
    shares = [] if u is None else layer_shares(u, _named(model, params))
    return Snapshot(measurement, has_ratio, tuple(sorted(shares, key=lambda layer: -layer.share)), density)


def _sharpness_alone(
    without: Measurement, H: LossCurvature, k: int, rtol: float, seed: int
) -> tuple[Measurement, Tensor | None]:
    """A measurement without ratio, with the sharpness of the raw Hessian put in."""
    began = time.perf_counter()
    if not bool(H.gradient.isfinite().all()):
        return replace(without, status="not_finite", reason=REASONS["not_finite"], loss=H.loss, route=H.route), None
    result = top_eigenvalues(H, k, rtol=rtol, seed=seed, bound_rtol=0.05)
    measured = replace(
        without,
        sharpness=float(result.values[0]),
        sharpness_residual=float(result.residuals[0]),
        participation=participation(result.vectors[:, 0]),
        loss=H.loss,
        is_audit=True,
        num_products=result.num_products,
        route=H.route,
        seconds=time.perf_counter() - began,
    )
    return measured, result.vectors[:, 0]


def _operator(H: LossCurvature, frozen: Frozen | None) -> SymmetricOperator:
    """The operator whose top eigenvalue is the ratio; the Hessian itself without a method."""
    return H if frozen is None else ratio_operator(H, frozen)


def _named(model: nn.Module, params: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Parameters by the model's names, where it has one."""
    names = {id(w): name for name, w in model.named_parameters()}
    return [(names.get(id(w), f"parameter {i}"), w) for i, w in enumerate(params)]
