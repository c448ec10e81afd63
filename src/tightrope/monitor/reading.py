"""One reading of a watched run: the ratio, what it is made of, and what stands beside it.

Legend: g = gradient of the step, w = weights before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tightrope.curvature import LossFn, gradient_norm, layer_shares
from tightrope.optim import Clipped, Frozen
from tightrope.parameters import Layout
from tightrope.stability import (
    EDGE_BAND,
    NUM_EARLY_STEPS,
    Attribution,
    BatchLook,
    BatchMargin,
    Landmark,
    Measurement,
    Persistence,
    Probe,
    StepCurvature,
    Verdict,
    attribution,
    batch_look,
    batch_margin,
    floored,
    landmark,
    shared_transfer,
    step_curvature,
    verdict,
)

from .hooks import Captured

NUM_LAYERS = 5
"""Layers named at most, those with the largest shares."""
NUM_LOOKS = 8
"""Batches a minibatch margin rests on."""
AT_THE_LIMIT = 1e-3
"""How close the norm of a gradient is to `clip_norm` if it was clipped to it."""


@dataclass(frozen=True)
class Reading:
    """What was read at one step.

    Attributes:
        step: Of the optimizer.
        measurement: The headline; in minibatch training with dormant coordinates held at a floor.
        verdict: What it supports, with the readings before it: `unstable` is growth that persists.
        plain_ratio: Without the floor; the headline's where nothing is dormant, NaN where it was not taken.
        num_dormant: Coordinates held at the floor.
        lr: Learning rate that made the step.
        next_lr: That the optimizer holds now.
        next_ratio: The ratio with that.
        layers: (name, share) of the top direction, the largest first.
        groups: Share of each parameter group.
        is_minibatch: The gradient of the step is not that of the data measured.
        cause: Of an approach to the edge that this reading completes, or None.
        margin: The minibatch margin over the last batches looked at, or None.
        num_draws: Of random numbers, over which the loss measured is the mean.
        loss_spread: Of the loss from one draw to another, relative; 0 for a loss that draws none.
    """

    step: int
    measurement: Measurement
    verdict: Verdict
    plain_ratio: float
    num_dormant: int
    lr: float
    next_lr: float
    next_ratio: float
    layers: tuple[tuple[str, float], ...]
    groups: tuple[float, ...]
    is_minibatch: bool
    cause: Attribution | None
    margin: BatchMargin | None
    num_draws: int = 1
    loss_spread: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Columns of a `measurement` event."""
        margin = self.margin
        return {
            **self.measurement.to_dict(),
            "verdict": self.verdict.name,
            "words": self.verdict.words,
            "plain_ratio": self.plain_ratio,
            "num_dormant": self.num_dormant,
            "lr": self.lr,
            "next_lr": self.next_lr,
            "next_ratio": self.next_ratio,
            "layers": [{"name": name, "share": share} for name, share in self.layers],
            "groups": list(self.groups),
            "is_minibatch": self.is_minibatch,
            "num_draws": self.num_draws,
            "loss_spread": self.loss_spread,
            "cause": self.cause.to_dict() if self.cause else None,
            **(_margin_columns(margin) if margin else {}),
        }

    def numbers(self) -> dict[str, float]:
        """What a tracker is told."""
        m = self.measurement
        told = {
            "ratio": m.ratio,
            "residual": m.residual,
            **({"sharpness": m.sharpness} if math.isfinite(m.sharpness) else {}),
            "participation": m.participation,
            "lr": self.lr,
            "next_ratio": self.next_ratio,
        }
        if self.margin is not None:
            told["minibatch_margin"] = self.margin.margin
        return told


class Reader:
    """Reads a captured step; warm from one reading to the next.

    Args:
        model, loss_fn: The loss.
        clip_norm: The global norm the loop clips gradients to, or None.
        names: Of each parameter, by its id.
        rtol, seed: Of the eigensolves.
    Attributes:
        max_products: How many products a solve may spend.
        has_sharpness, has_plain: Whether to take the raw sharpness, and the ratio without the floor, as well.
        num_draws, loss_spread: As in `Reading`, which they are written to.
        is_adaptive: Whether the method last read has a P that fills up.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        *,
        clip_norm: float | None,
        names: dict[int, str],
        rtol: float,
        seed: int = 0,
    ) -> None:
        self.model, self.loss_fn, self.clip_norm, self.names = model, loss_fn, clip_norm, names
        self.max_products = 64
        self.has_sharpness, self.has_plain = True, True
        self.num_draws, self.loss_spread = 1, 0.0
        self.is_adaptive = True
        self.probe = Probe(model, loss_fn, rtol=rtol, seed=seed, audit_every=0)
        self._plain = Probe(model, loss_fn, rtol=rtol, seed=seed, audit_every=0, has_sharpness=False)
        self._landmark: Landmark | None = None
        self._persistence = Persistence()
        self._looks: deque[BatchLook] = deque(maxlen=NUM_LOOKS)

    def read(
        self,
        captured: Captured,
        batch: Any,
        step_batch: Any,
        lr_now: Sequence[float],
        *,
        is_minibatch: bool,
        is_same_data: bool,
    ) -> Reading:
        """The reading of one step, which was taken on `step_batch`, if that is known, on the data of `batch`.

        `is_same_data`: as that of the readings before.
        """
        frozen = captured.frozen
        held, num_dormant = floored(frozen) if is_minibatch else (frozen, 0)
        clipped = self._clipping(captured, batch if step_batch is None else step_batch)
        if clipped is not None:
            held, frozen = held.clipped(clipped), frozen.clipped(clipped)
        former = self._landmark
        along = former.x if former is not None and len(former.x) == len(captured.w) else None
        self.probe.max_products = self._plain.max_products = self.max_products
        self.probe.has_sharpness = self.has_sharpness
        m = self.probe.measure(held, batch, w=captured.w, along=along)
        plain_ratio = float("nan") if num_dormant else m.ratio
        if num_dormant and m.has_ratio and self.has_plain:
            plain_ratio = self._plain.measure(frozen, batch, w=captured.w).ratio
        self.is_adaptive = _is_adaptive(frozen)
        said = verdict(m, captured.step, is_adaptive=self.is_adaptive)
        said = self._persistence.judged(said, m, captured.step, is_same_data=is_same_data)
        return Reading(
            step=captured.step,
            measurement=m,
            verdict=_minibatch_words(said) if is_minibatch and m.has_ratio else said,
            plain_ratio=plain_ratio,
            num_dormant=num_dormant,
            lr=captured.frozen.groups[0].lr if captured.frozen.groups else float("nan"),
            next_lr=lr_now[0],
            next_ratio=_at_rates(m.ratio, frozen, lr_now),
            layers=self._layers(captured),
            groups=self._groups(captured),
            is_minibatch=is_minibatch,
            cause=self._cause(captured, held, m),
            margin=self._margin(frozen),
            num_draws=self.num_draws,
            loss_spread=self.loss_spread,
        )

    def forget(self) -> None:
        """Parameters were exchanged or moved: nothing that was found before fits."""
        self._landmark = None
        self._persistence.forget()
        self._looks.clear()
        self.probe.forget()
        self._plain.forget()

    def glance(self, captured: Captured, batch: Any) -> StepCurvature:
        """The curvature the step met, without a product."""
        return step_curvature(self.model, self.loss_fn, batch, captured.params, captured.w, captured.frozen)

    def look(self, captured: Captured, batch: Any, probe: Any) -> None:
        """Take one batch into the minibatch margin."""
        held, _ = floored(captured.frozen)
        look = batch_look(self.model, self.loss_fn, batch, probe, held, params=captured.params, w=captured.w)
        if look is not None:
            self._looks.append(look)

    def is_of(self, captured: Captured) -> bool:
        """Whether the step's gradient is that of the data last measured, up to rounding and clipping."""
        g, probe = captured.g, self.probe.gradient
        if probe is None or probe.shape != g.shape:
            return False
        lengths = float(g.norm()) * float(probe.norm())
        return lengths > 0 and float(g.to(probe) @ probe) > 0.999 * lengths

    def _clipping(self, captured: Captured, batch: Any) -> Clipped | None:
        """How clipping to `clip_norm` acted, if the step's gradient has that very norm."""
        limit = self.clip_norm
        if limit is None or abs(captured.norm - limit) > AT_THE_LIMIT * limit:
            return None
        whole = gradient_norm(self.model, self.loss_fn, batch, captured.params, captured.w)
        return Clipped(1, 1, whole, limit / whole, captured.params) if whole > limit else None

    def _layers(self, captured: Captured) -> tuple[tuple[str, float], ...]:
        top = self.probe.top_direction
        if top is None:
            return ()
        names = [self.names.get(id(w), f"parameter {i}") for i, w in enumerate(captured.params)]
        shares = layer_shares(top, Layout(tuple(names), tuple(w.shape for w in captured.params)))
        largest = sorted(shares, key=lambda each: -each.share)[:NUM_LAYERS]
        return tuple((each.name, each.share) for each in largest)

    def _groups(self, captured: Captured) -> tuple[float, ...]:
        top = self.probe.top_direction
        if top is None or captured.frozen.status != "linear":
            return ()
        parts = top.double().split([group.size for group in captured.frozen.groups])
        return tuple(float(part.square().sum()) for part in parts)

    def _cause(self, captured: Captured, frozen: Frozen, m: Measurement) -> Attribution | None:
        """Why the run came to its edge, if it did just now; and what the next approach will be compared with."""
        former, low = self._landmark, EDGE_BAND[0]
        found = None
        top = self.probe.top_direction
        if captured.step <= NUM_EARLY_STEPS or not m.has_ratio or top is None:
            return None
        if former is not None and former.ratio < low <= m.ratio and self.probe.along is not None:
            found = attribution(former, m.ratio, self.probe.along, frozen)
        is_lowest = former is None or m.ratio < former.ratio or former.ratio < low <= m.ratio
        if is_lowest:
            self._landmark = landmark(captured.step, m.ratio, top, frozen)
        return found

    def _margin(self, frozen: Frozen) -> BatchMargin | None:
        transfer = shared_transfer(frozen)
        if len(self._looks) < NUM_LOOKS or transfer is None:
            return None
        return batch_margin(list(self._looks), transfer)


def _is_adaptive(frozen: Frozen) -> bool:
    return frozen.P is not None and bool((frozen.P != 1).any())


def _minibatch_words(said: Verdict) -> Verdict:
    return replace(said, words=f"{said.words} Full-batch margin; it understates the danger at small batch.")


def _at_rates(ratio: float, frozen: Frozen, lrs: Sequence[float]) -> float:
    """The ratio with the learning rates held now, if all groups' went by one factor; NaN otherwise."""
    if len(lrs) != len(frozen.groups) or not all(group.lr > 0 for group in frozen.groups):
        return float("nan")
    scales = {
        round(_strength(lr, group.weight_decay) / _strength(group.lr, group.weight_decay), 9)
        for lr, group in zip(lrs, frozen.groups, strict=True)
    }
    return ratio * scales.pop() if len(scales) == 1 else float("nan")


def _strength(lr: float, weight_decay: float) -> float:
    return lr / (2 - lr * weight_decay)


def _margin_columns(margin: BatchMargin) -> dict[str, Any]:
    return {
        "batch_sharpness": margin.batch_sharpness,
        "gradient_sharpness": margin.gradient_sharpness,
        "minibatch_margin": margin.margin,
        "batch_sharpness_interval": margin.batch_sharpness_interval,
        "gradient_sharpness_interval": margin.gradient_sharpness_interval,
        "minibatch_margin_interval": margin.margin_interval,
        "num_batches": margin.num_batches,
    }
