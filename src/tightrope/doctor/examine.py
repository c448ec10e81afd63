"""Can this model be measured: by which route, in how much memory and time, and how often for a budget? It is tried."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import LossCurvature, LossFn, hessian
from tightrope.errors import ConfigError, TightropeError, check_number
from tightrope.optim import Frozen, freeze
from tightrope.stability import NUM_OTHERS, Allotment, Measurement, Probe, allotted, size_words

from .blame import blame
from .examination import RARE, Examination, cadence, counted, finding
from .footprint import free_bytes, saved_bytes
from .last_layer import last_layer
from .manner import manner
from .rehearsal import Rehearsal, now, timed

NUM_STEPS = 5
"""Real steps before the first measurement, and before each of the warm ones."""
NUM_WARM = 2
USUAL_PRODUCTS = 50
"""From cold, ratio and sharpness together."""
SHARE_OF_FREE_MEMORY = 0.8


class _RefusalError(Exception):
    """Why the examination ends here."""


def examine(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn,
    batch: Any,
    *,
    max_bytes: float | None = None,
    budget: float = 0.03,
    observe: Callable[[str], None] = lambda stage: None,
) -> Examination:
    """Whether a model can be measured, and what that costs here: it is tried.

    It takes real training steps on the batch, since most optimizers have no preconditioner before their first: give
    a model and optimizer made for this, for their weights and state move.

    Args:
        model, optimizer, loss_fn, batch: As for `measure`.
        max_bytes: That a measurement may hold at once; default most of what is free.
        budget: Share of the whole time that measuring may take, above 0 and at most 1.
        observe: Is told what comes next, in a few words.
    Returns:
        Examination; where the model cannot be measured, its words say why. No error of the model's own is raised.
    Raises:
        ConfigError: the budget or max_bytes is out of its range.
    Cost:
        15 training steps, the check of a first use, one measurement from cold and two warm ones.
    """
    check_number("examine: budget", budget, lambda b: 0 < b <= 1, "be above 0 and at most 1 (100 %)")
    if max_bytes is not None:
        check_number("examine: max_bytes", max_bytes, lambda m: m > 0, "be above 0")
    facts: dict[str, Any] = {}
    try:
        words = _Examiner(model, optimizer, loss_fn, batch, observe, facts).examine(max_bytes, budget)
    except _RefusalError as refusal:
        return Examination(False, str(refusal), **facts)
    except TightropeError as error:
        return Examination(False, f"No: {error}", **facts)
    except Exception as error:
        return Examination(False, f"No: {blame(error)}", **facts)
    return Examination(True, words, **facts)


class _Examiner:
    """Carries an examination out; what it finds goes into `facts`, by the names of `Examination`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: LossFn,
        batch: Any,
        observe: Callable[[str], None],
        facts: dict[str, Any],
    ) -> None:
        self.model, self.optimizer, self.loss_fn, self.batch = model, optimizer, loss_fn, batch
        self.observe, self.facts = observe, facts
        self.product_seconds = 0.0
        self.rehearsal = Rehearsal(model, optimizer, loss_fn, batch)

    def examine(self, max_bytes: float | None, budget: float) -> str:
        """What was found, in words."""
        self._look()
        frozen = freeze(self.optimizer)
        self._note(frozen)
        allowed = SHARE_OF_FREE_MEMORY * free_bytes(self.device) if max_bytes is None else float(max_bytes)
        self.facts["max_bytes"] = allowed
        params = list(frozen.parameters) or list(self.model.parameters())
        p, itemsize = sum(w.numel() for w in params), max(4, params[0].element_size())
        try:
            allotment = self._allotted(allowed, p, itemsize)
            H = self._try_route(params, allotment.graph)
        except (_TooLargeError, MemoryError, torch.OutOfMemoryError) as error:
            self._steps()
            raise _RefusalError(self._too_large(str(error))) from error
        if frozen.status == "no_threshold":
            raise _RefusalError(f"No: {frozen.reason} The raw sharpness alone can be measured: tr.curvature.hessian.")
        self.facts["max_basis"] = allotment.columns
        del H
        self._measure(allowed, p * itemsize)
        self.facts["cadence"] = cadence(self.facts, budget)
        words = finding(self.facts, budget)
        return words if dict(self.facts["cadence"])[budget] <= RARE else f"{words} {self._last_layer()}"

    def _allotted(self, max_bytes: float, p: int, itemsize: int) -> Allotment:
        try:
            return allotted(max_bytes, p, itemsize)
        except ConfigError as error:
            raise _TooLargeError("the vectors of an eigensolve alone take more") from error

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _look(self) -> None:
        params = list(self.model.parameters())
        if not params:
            raise _RefusalError("No: the model must have parameters; it has none.")
        if any(w.is_meta for w in params):
            raise _RefusalError(
                "No: the model's parameters must have values; they are on the meta device, where there are none. "
                "Build it on the device it is trained on."
            )
        if any(nn.parameter.is_lazy(w) for w in params):
            raise _RefusalError("No: the model's parameters have no shape yet. Run the lazy model once on a batch.")
        self.facts |= {
            "device": str(self.device),
            "dtypes": tuple(sorted({str(w.dtype).removeprefix("torch.") for w in params})),
            "num_parameters": sum(w.numel() for w in params),
            "num_frozen": sum(w.numel() for w in params if not w.requires_grad),
        }

    def _note(self, frozen: Frozen) -> None:
        self.facts |= {
            "optimizer": type(self.optimizer).__name__,
            "optimizer_status": frozen.status,
            "num_measured": sum(w.numel() for w in frozen.parameters),
            "threshold": frozen.shared_threshold,
            "groups": tuple((group.lr, group.threshold, group.size) for group in frozen.groups),
        }

    def _try_route(self, params: Sequence[Tensor], max_bytes: float) -> LossCurvature:
        """The Hessian by the route that works, tried twice: the first use is checked, the second one is usual."""
        self.observe("trying the routes")
        with saved_bytes(self._tensors()) as checked:
            H = self._hessian(params, max_bytes)
        self.facts |= {"loss": H.loss, "route": H.route, "check": H.check.words if H.check else ""}
        if not (math.isfinite(H.loss) and bool(H.gradient.isfinite().all())):
            what = f"the loss is {H.loss:g}" if not math.isfinite(H.loss) else "the gradient is not finite"
            raise _RefusalError(
                f"No: {what} on this batch before any step. Is the batch empty, or of values out of range?"
            )
        del H
        self.facts["manner"] = manner(self.model, self.loss_fn, self.batch)
        with saved_bytes(self._tensors()) as usual:
            H = self._hessian(params, max_bytes)
            began = now(self.device)
            H @ H.gradient
            self.product_seconds = now(self.device) - began
        self.facts |= {"check_bytes": float(checked.peak), "graph_bytes": float(usual.peak)}
        return H

    def _hessian(self, params: Sequence[Tensor], max_bytes: float) -> LossCurvature:
        try:
            return hessian(self.model, self.loss_fn, self.batch, params=params, max_bytes=_limit(max_bytes))
        except TightropeError as error:
            if "must fit into memory" in str(error):
                raise _TooLargeError(str(error).split("; ")[-1].split(". Give")[0]) from error
            raise

    def _measure(self, max_bytes: float, column: int) -> None:
        """A first measurement and warm ones, with real steps before each."""
        probe = Probe(self.model, self.loss_fn, max_bytes=_limit(max_bytes))
        cold, cold_seconds = self._timed(
            probe, f"measuring from cold, about {USUAL_PRODUCTS * self.product_seconds:.2g} s"
        )
        self.facts |= {"cold_seconds": cold_seconds, "cold_products": cold.num_products}
        probe.audit_every = 0  # a crossing of 1 would make a warm measurement an audit
        warm = [self._timed(probe, "measuring warm") for _ in range(NUM_WARM)]
        self.facts["warm_seconds"] = statistics.fmean(seconds for _, seconds in warm)
        self.facts["warm_products"] = statistics.fmean(m.num_products for m, _ in warm)
        # From cold a basis holds no products. Those of ratio and sharpness are counted, the larger of which is held.
        num = max(cold.num_products, *(2 * m.num_products for m, _ in warm))
        self.facts["vector_bytes"] = float(column * (NUM_OTHERS + min(num, 2 * self.facts["max_basis"])))

    def _timed(self, probe: Probe, stage: str) -> tuple[Measurement, float]:
        """Real steps, then a measurement and the seconds it took; refused where the steps have left all numbers."""
        self._steps()
        frozen = freeze(self.optimizer)
        self._note(frozen)
        self.observe(stage)
        measurement, seconds = timed(probe, self.optimizer, self.batch, self.device)
        self.facts |= {"measurement": self.facts.get("measurement", measurement), "last_loss": measurement.loss}
        after = counted(self.facts["num_steps"], "step")
        if not all(bool(w.isfinite().all()) for w in frozen.parameters):
            raise _RefusalError(
                f"No: training diverges: after {after} the weights are not finite. Lower the learning rate."
            )
        if not measurement.has_ratio:
            raise _RefusalError(f"No: after {after} there is no ratio: {measurement.reason}")
        return measurement, seconds

    def _steps(self) -> None:
        self.observe("training steps")
        self.rehearsal.take(NUM_STEPS)
        for name in ("num_steps", "step_seconds", "step_bytes"):
            self.facts[name] = getattr(self.rehearsal, name)

    def _tensors(self) -> list[Tensor]:
        """What is there anyway, and no graph's."""
        return [*self.model.parameters(), *self.model.buffers()]

    def _too_large(self, why: str) -> str:
        allowed = size_words(self.facts["max_bytes"])
        return f"Not as a whole: it does not fit into the {allowed} it may take ({why}). {self._last_layer()}"

    def _last_layer(self) -> str:
        """Measure the last layer and say what it is worth; or say why not."""
        self.observe("measuring the last layer")
        part, words = last_layer(self.model, self.optimizer, self.loss_fn, self.batch, self.facts["max_bytes"])
        if part is not None:
            self.facts["part"] = part
        return words


class _TooLargeError(Exception):
    """What a measurement holds exceeds what it may."""


def _limit(max_bytes: float) -> float | None:
    return max_bytes if math.isfinite(max_bytes) else None
