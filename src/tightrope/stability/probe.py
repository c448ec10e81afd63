"""Probe: freeze -> operator -> eigensolve -> Measurement, the one instrument of lab and field.

Legend: H = Hessian, D = edge scaling, u = top direction in the scaled coordinates, p = number of parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import (
    EigenResult,
    LossCurvature,
    LossFn,
    Scaled,
    SelfCheck,
    SymmetricOperator,
    autocast_set_aside,
    hessian,
    top_eigenvalues,
)
from tightrope.errors import ShapeError
from tightrope.optim import Frozen, freeze
from tightrope.parameters import weights_at

from .allotment import allotted
from .measurement import Measurement
from .operator import ratio_operator, transformed
from .recurrence import growth_at_ratio
from .verdict import band

REASONS = {
    "converged": "",
    "max_products": "the eigensolve spent its products before the residual was small; raise max_products or rtol.",
    "bound_not_reached": "the audit spent its products before the upper bound was tight; the value has converged.",
    "not_finite": "the loss, gradient or Hessian holds NaN or infinity here.",
}


class Probe:
    """Measures how far an optimizer is from the edge, warm-started from its own last measurement.

    Some measurements are audits: they start cold and go on until the upper bound is within `audit_rtol`, which a
    warm start cannot prove. Those are the first, every `audit_every`-th, and each that would say something else
    than the last audit: its ratio lies in another band (below the edge, at it, above) and more than `audit_rtol` away.

    The first time it tries the products on the model (`curvature.hessian`), and keeps to the route that works.

    Args:
        model: The model whose loss is measured. Left bit for bit as it was.
        loss_fn: (model, batch) -> scalar.
        params: Parameters in the optimizer's order; default what the optimizer holds. Give the model's own when
            the optimizer steps on one flat vector that they are views of.
        k, rtol, max_products, seed: Of the eigensolves, as in `top_eigenvalues`; `max_products` is for each.
        chunk_size: Evaluate this many examples at a time.
        max_bytes: That a measurement may hold at once; None for no limit. Where the graph of the gradient would not
            fit it is rebuilt in pieces for every product, and where the eigensolver's basis would not it is restarted.
        has_sharpness: Measure the raw sharpness as well.
        audit_every: 0 for no audits.
        audit_rtol: Tightness of an audit's probabilistic upper bound.
    Attributes:
        gradient: (p,) of the loss where it was last measured.
        along: x'T(H)x for the direction x asked for in the last measurement; None if none was.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        *,
        params: Sequence[Tensor] | None = None,
        k: int = 1,
        rtol: float = 1e-2,
        max_products: int = 64,
        seed: int = 0,
        chunk_size: int | None = None,
        max_bytes: float | None = None,
        has_sharpness: bool = True,
        audit_every: int = 50,
        audit_rtol: float = 0.05,
    ) -> None:
        self.model, self.loss_fn, self.params = model, loss_fn, params
        self.k, self.rtol, self.max_products, self.seed, self.chunk_size = k, rtol, max_products, seed, chunk_size
        self.max_bytes, self.has_sharpness = max_bytes, has_sharpness
        self.audit_every, self.audit_rtol = audit_every, audit_rtol
        self.num_measurements = 0
        self.gradient: Tensor | None = None
        self.along: float | None = None
        self._columns: int | None = None
        self._check: SelfCheck | None = None
        self._warm_ratio: Tensor | None = None
        self._warm_sharpness: Tensor | None = None
        self._audited_ratio: float | None = None

    def measure(
        self,
        optimizer: torch.optim.Optimizer | Frozen,
        batch: Any,
        *,
        w: Tensor | None = None,
        along: Tensor | None = None,
    ) -> Measurement:
        """Measure the loss on `batch` against the optimizer's frozen method.

        Args:
            optimizer: The optimizer after a step, or what `freeze` made of it.
            batch: What loss_fn takes.
            w: (p,) weights at which to take the Hessian, such as those before the step; default as they are.
            along: (p,) a direction x in weight space whose curvature is taken as well, for one product more.
        Raises:
            ShapeError: the loss is not a scalar or depends on nothing, or parameters do not match.
            ConfigError: max_bytes is too little: for the vectors alone, or for a graph whose batch cannot be cut.
        Cost:
            One recorded gradient and about 5 products warm, 10 to 30 cold; twice that with the raw sharpness. The
            first time two products and five gradients in float64 more, for the check.
        """
        began = time.perf_counter()
        frozen = optimizer if isinstance(optimizer, Frozen) else freeze(optimizer)
        if frozen.status != "linear":
            return Measurement(frozen.status, frozen.reason, threshold=None)
        params = self._matching(frozen)
        graph_bytes = self._allot(params)
        with weights_at(params, w), autocast_set_aside():  # the solver's products too would be rounded by it
            H = hessian(
                self.model,
                self.loss_fn,
                batch,
                params=params,
                chunk_size=self.chunk_size,
                max_bytes=graph_bytes,
                known=self._check,
            )
            self._check, self.gradient = H.check, H.gradient
            is_finite = math.isfinite(H.loss) and bool(H.gradient.isfinite().all())
            self.along = _curvature_along(along, H, frozen) if is_finite and along is not None else None
            measurement = self._measured(frozen, H, began) if is_finite else _not_finite(H, began)
        self.num_measurements += 1
        return measurement

    @property
    def top_direction(self) -> Tensor | None:
        """(p,) unit top eigenvector of the last measurement, in coordinates scaled by D^-1/2; None without one."""
        return None if self._warm_ratio is None else self._warm_ratio[:, 0]

    def forget(self) -> None:
        """Start cold next time, as after the parameters were exchanged or moved."""
        self._warm_ratio = self._warm_sharpness = self._audited_ratio = self.gradient = self.along = None

    def state_dict(self) -> dict[str, Any]:
        """What the next measurement starts from: tensors and numbers, for a checkpoint."""
        return {
            "num_measurements": self.num_measurements,
            "audited_ratio": self._audited_ratio,
            "check": None if self._check is None else asdict(self._check),
            "warm_ratio": self._warm_ratio,
            "warm_sharpness": self._warm_sharpness,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another probe of the same settings stood; its next measurement is bit for bit the other's."""
        self.num_measurements = state["num_measurements"]
        self._audited_ratio = state["audited_ratio"]
        self._check = None if state["check"] is None else SelfCheck(**state["check"])
        self._warm_ratio = state["warm_ratio"]
        self._warm_sharpness = state["warm_sharpness"]

    def _matching(self, frozen: Frozen) -> list[Tensor]:
        params = list(frozen.parameters if self.params is None else self.params)
        num, expected = sum(w.numel() for w in params), sum(w.numel() for w in frozen.parameters)
        if num != expected:
            raise ShapeError(f"Probe: the optimizer must hold the {num} measured parameters; it holds {expected}.")
        return params

    def _allot(self, params: Sequence[Tensor]) -> float | None:
        """Set the room of the eigensolver's basis; returns what is left for the graph."""
        if self.max_bytes is None:
            return None
        p, itemsize = sum(w.numel() for w in params), max(4, params[0].element_size())
        allotment = allotted(self.max_bytes, p, itemsize, self.k)
        self._columns = allotment.columns
        return allotment.graph

    def _measured(self, frozen: Frozen, H: LossCurvature, began: float) -> Measurement:
        scaled = ratio_operator(H, frozen)
        ratio, num_products, is_audit = self._find_ratio(scaled)
        sharpness = self._find_sharpness(H) if self.has_sharpness else None
        value, threshold = float(ratio.values[0]), frozen.shared_threshold
        num_products += sharpness.num_products if sharpness else 0
        semi_gradient_sq, in_top = _split(scaled, H.gradient, ratio)
        scale = math.nan if threshold is None else threshold  # D is 1 / (threshold P)
        return Measurement(
            status=ratio.status,
            reason=REASONS[ratio.status],
            ratio=value,
            ratios=tuple(float(v) for v in ratio.values),
            residual=float(ratio.residuals[0]),
            lower=float(ratio.lower[0]),
            upper=ratio.upper,
            upper_kind=ratio.upper_kind,
            confidence=ratio.confidence,
            condition=frozen.condition,
            threshold=threshold,
            preconditioned_sharpness=None if threshold is None else value * threshold,
            sharpness=float(sharpness.values[0]) if sharpness else float("nan"),
            sharpness_residual=float(sharpness.residuals[0]) if sharpness else float("nan"),
            participation=_participation(ratio),
            semi_gradient_sq=scale * semi_gradient_sq,
            semi_gradient_sq_top=scale * in_top,
            growth=_growth(frozen, value),
            loss=H.loss,
            is_audit=is_audit,
            num_products=num_products,
            route=H.route,
            check="" if H.check is None else H.check.words,
            seconds=time.perf_counter() - began,
        )

    def _find_ratio(self, scaled: Scaled) -> tuple[EigenResult, int, bool]:
        """The ratio, the products it took and whether it was audited."""
        if self._warm_ratio is not None and len(self._warm_ratio) != scaled.size:
            # Parameters were frozen or added since: nothing of the last measurement fits.
            self._warm_ratio = self._warm_sharpness = self._audited_ratio = None
        start, has_audits = self._warm_ratio, self.audit_every > 0
        is_due = has_audits and (start is None or self.num_measurements % self.audit_every == 0)
        result, spent = None, 0
        if start is not None and not is_due:
            result = self._solve(scaled, self.k, start)
            spent = result.num_products
            is_due = has_audits and self._contradicts_audit(float(result.values[0]))
        if result is None or is_due:
            # Where nothing moves (lr = 0) the operator is zero, and no bound is within a share of its eigenvalue.
            is_moving = bool(scaled.half.any())
            result = self._solve(scaled, self.k, None, self.audit_rtol if is_due and is_moving else None)
            spent += result.num_products
            self._audited_ratio = float(result.values[0])
        self._warm_ratio = _carried(result)
        return result, spent, is_due

    def _contradicts_audit(self, ratio: float) -> bool:
        """Whether a ratio says something else than the last audit did, by more than that audit left open."""
        audited = self._audited_ratio
        if audited is None or band(audited) == band(ratio):
            return False
        return abs(ratio - audited) > self.audit_rtol * abs(audited)

    def _find_sharpness(self, H: LossCurvature) -> EigenResult:
        result = self._solve(H, 1, self._warm_sharpness)
        self._warm_sharpness = _carried(result)
        return result

    def _solve(
        self, operator: SymmetricOperator, k: int, start: Tensor | None, bound_rtol: float | None = None
    ) -> EigenResult:
        """Eigenvalues of the operator, with all products counted in those of the Hessian."""
        max_products, columns = max(k, self.max_products // operator.cost), self._columns
        # From cold, and as long as it is not restarted, a basis holds no products: it may have twice the columns.
        is_roomy = columns is None or (start is None and max_products <= 2 * columns) or columns >= operator.size
        result = top_eigenvalues(
            operator,
            k,
            start=None if start is None else start.to(operator.device, operator.dtype),
            rtol=self.rtol,
            max_products=max_products,
            max_basis=None if is_roomy else columns,
            seed=self.seed + self.num_measurements,
            bound_rtol=bound_rtol,
        )
        return replace(result, num_products=operator.cost * result.num_products)


def measure(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Frozen,
    loss_fn: LossFn,
    batch: Any,
    *,
    k: int = 1,
    rtol: float = 1e-2,
    max_products: int = 64,
    seed: int = 0,
) -> Measurement:
    """How far an optimizer is from the edge of stability, at the model's present weights.

    Learning rate and betas are those its groups hold now: measure before `scheduler.step()`.

    Args:
        model: Any module; left bit for bit as it was.
        optimizer: Its optimizer, after at least one step.
        loss_fn: (model, batch) -> scalar.
        batch: The data of the loss; the full batch for the full-batch edge.
        k: How many of the largest eigenvalues to find.
        rtol: Relative residual at which the eigensolve stops.
        max_products: Products at most, for the ratio and for the raw sharpness each.
    Returns:
        Measurement; where no number can be had its status and reason say why.
    Raises:
        ShapeError: the loss is not a scalar or depends on no parameter.
    Cost:
        One recorded gradient and about 40 Hessian-vector products: it is an audit, its upper bound holds with 95 %
        confidence.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), sections 2 and 4.
    """
    probe = Probe(model, loss_fn, k=k, rtol=rtol, max_products=max_products, seed=seed, audit_every=1)
    return probe.measure(optimizer, batch)


def _curvature_along(x: Tensor, H: LossCurvature, frozen: Frozen) -> float:
    x = x.to(H.device, H.dtype)
    return float(x @ (transformed(H, frozen).apply(x) + frozen.shift * x))


def _not_finite(H: LossCurvature, began: float) -> Measurement:
    return Measurement(
        "not_finite", REASONS["not_finite"], loss=H.loss, route=H.route, seconds=time.perf_counter() - began
    )


def _carried(result: EigenResult) -> Tensor | None:
    """Where the next solve starts; in row-major order, as a checkpoint gives it back, so that rounding is the same."""
    return result.warm_start.contiguous() if result.status != "not_finite" else None


def _participation(result: EigenResult) -> float:
    if result.status == "not_finite":
        return float("nan")
    return float(1 / result.vectors[:, 0].double().pow(4).sum())


def _split(scaled: Scaled, g: Tensor, result: EigenResult) -> tuple[float, float]:
    """Squared norm of D^1/2 g, and of its part in the span of the eigenvectors that were found."""
    if result.status == "not_finite":
        return math.nan, math.nan
    g = g.to(scaled.dtype)
    v = (scaled.half.mT @ g if scaled.half.ndim == 2 else scaled.half * g)[:, None]
    return float(scaled.inner(v, v)), float(scaled.inner(result.vectors.to(v), v).square().sum())


def _growth(frozen: Frozen, ratio: float) -> float | None:
    """Growth of the frozen method along the top direction; None where groups follow different methods."""
    methods = {(group.momentum, group.lr, group.weight_decay) for group in frozen.groups}
    if frozen.shared_threshold in (None, float("inf")) or ratio != ratio or len(methods) > 1:
        return None
    group = frozen.groups[0]
    return growth_at_ratio(group.momentum, group.lr, ratio, group.weight_decay)
