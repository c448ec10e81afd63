"""What must hold of an optimizer before its figure means anything: precision, its edge, and taking a run up again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tightrope.errors import TightropeError, UnsupportedOptimizerError
from tightrope.optim import ForeignRecipe, Frozen, freeze, pinned_path
from tightrope.problems import Chebyshev
from tightrope.store import RunRecord
from tightrope.training import MeasureConfig, Progress, RunConfig, resume, run

from .check import Finding, Result
from .short_run import ShortRun, strays, trained

NUM_STEPS = 20
STEPS_TO_FREEZE = 100
"""Steps after which the second moment is pinned: enough for it to have filled up."""
BELOW, BEYOND = 0.99, 1.01
STEPS_TO_STOP, STEPS_TO_RESUME = 17, 40
SMALLER = "Name smaller rates: --lr LOW --lr HIGH."


@dataclass(frozen=True)
class Soundness:
    """What was found of one optimizer.

    Attributes:
        findings: One a question.
        status, reason: Of its frozen method, as `Frozen` has them; "diverged" where the loss grew before there was one.
        threshold: On lambda_1(P^-1 H) at the rate it was asked at; None where there is none, or groups differ.
        lr: That rate.
    """

    findings: tuple[Finding, ...]
    status: str
    reason: str
    threshold: float | None
    lr: float

    @property
    def has_edge(self) -> bool:
        return self.status == "linear"


def examine(method: ForeignRecipe) -> Soundness:
    """Whether an optimizer keeps precision, is unstable where its threshold says, and can be taken up where it stopped.

    Raises:
        ConfigError: it cannot be made, or cannot take a step.
    Cost:
        Some 200 steps on the Chebyshev network, and up to 8,000 of a copy on a quadratic.
    """
    precision = tuple(_precision(method, dtype) for dtype in (torch.float64, torch.float32))
    short = trained(method, STEPS_TO_FREEZE)
    if short.has_diverged:
        why = _growth(short, method.lr)
        return Soundness((*precision, _without_edge(why), _resumption(method)), "diverged", why, None, method.lr)
    frozen = freeze(short.optimizer)
    return Soundness(
        (*precision, *_edge(short, frozen, method.lr), _resumption(method)),
        frozen.status,
        frozen.reason,
        frozen.shared_threshold if frozen.status == "linear" else None,
        method.lr,
    )


def _precision(method: ForeignRecipe, dtype: torch.dtype) -> Finding:
    """Whether every step moves the weights, in their own dtype and with all its digits."""
    short = trained(method, NUM_STEPS, dtype)
    name = str(dtype).removeprefix("torch.")
    lost = strays(short.problem) or _narrow_state(short) or _narrow_step(short)
    grown = _growth(short, method.lr) if short.has_diverged else ""
    if not lost and not grown and short.num_moves < NUM_STEPS:
        lost = "it stood still in the others"
    return Finding(
        f"works in {name}",
        f"{short.num_moves} of {len(short.losses)} steps moved a weight",
        f"{NUM_STEPS}, all in {name}",
        "MISS" if lost else "UNDECIDED" if grown else "PASS",
        lost or grown,
    )


def _growth(short: ShortRun, lr: float) -> str:
    """Why nothing can be said of a short run that diverged."""
    first, last = short.losses[0], short.losses[-1]
    return f"Its loss grew from {first:.3g} to {last:.3g} by step {len(short.losses)} at lr {lr:g}. {SMALLER}"


def _narrow_state(short: ShortRun) -> str:
    """Which state of a parameter's size has fewer digits than the parameter."""
    for w, state in short.optimizer.state.items():
        for name, value in state.items() if isinstance(state, dict) else ():
            is_like = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == w.shape
            if is_like and value.itemsize < w.itemsize:
                return f"its '{name}' is kept in {str(value.dtype).removeprefix('torch.')}"
    return ""


@torch.no_grad()
def _narrow_step(short: ShortRun) -> str:
    """Whether a step from zero weights holds float32 numbers only: in float64, one in 5e8 is such by chance."""
    w = short.problem.w
    if w.dtype != torch.float64:
        return ""
    w.zero_()
    short.optimizer.step()
    moved = w[w != 0]
    is_narrow = len(moved) > 0 and bool((moved == moved.float().double()).all())
    return "a step is rounded to float32" if is_narrow else ""


def _edge(short: ShortRun, frozen: Frozen, lr: float) -> Iterator[Finding]:
    """Whether its own step, with P pinned, is unstable where its frozen method says."""
    if frozen.status != "linear":
        yield _without_edge(frozen.reason)
        return
    threshold = frozen.shared_threshold
    words = "ratio 1, each group at its own threshold" if threshold is None else f"{threshold * lr:.4g} / lr"
    for at, does in ((BELOW, "dies"), (BEYOND, "grows")):
        claim = f"its own step, P pinned after {len(short.losses)} steps, {does} at {at} of its edge"
        band = "to 0.01 of its start" if does == "dies" else "to 1000 times its start"
        try:
            path = pinned_path(short.optimizer, frozen, at)
        except UnsupportedOptimizerError as error:
            yield Finding(claim, "", band, "UNDECIDED", str(error))
            continue
        hits, misses = (path.has_died, path.has_grown) if does == "dies" else (path.has_grown, path.has_died)
        result: Result = "PASS" if hits else "MISS" if misses else "UNDECIDED"
        yield Finding(claim, f"{path.growth:.3g} times after {path.num_steps} steps", band, result, f"edge: {words}")


def _without_edge(why: str) -> Finding:
    return Finding("has a stability threshold", "", "a linear frozen method", "UNDECIDED", why)


def _resumption(method: ForeignRecipe) -> Finding:
    """Whether a run that was stopped and taken up equals one left alone."""
    claim = f"stopped after step {STEPS_TO_STOP} and taken up, it is as if left alone"
    config = RunConfig(
        problem=Chebyshev(),
        method=method,
        num_steps=STEPS_TO_RESUME,
        dtype="float64",
        measure=MeasureConfig(every=10),
        checkpoint_seconds=0.0,  # or it would be taken up from its first checkpoint, at step 0
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            alone = _finished(run(config, out=Path(folder) / "alone"))
            run(config, out=Path(folder) / "stopped", observe=_stop)
            resumed = _finished(resume(Path(folder) / "stopped"))
            difference = _difference(alone, resumed)
    except TightropeError as error:
        return Finding(claim, "", "equal bit for bit", "MISS", str(error))
    num_steps = len(alone.steps["step"])
    if num_steps <= STEPS_TO_STOP:  # neither run was ever stopped
        why = f"It diverged at step {num_steps} at lr {method.lr:g}. {SMALLER}"
        return Finding(claim, "", "equal bit for bit", "UNDECIDED", why)
    number = difference or f"equal over {num_steps} steps"
    why = "what its next step depends on is not all in its state_dict()" if difference else ""
    return Finding(claim, number, "equal bit for bit", "MISS" if difference else "PASS", why)


def _stop(progress: Progress) -> None:
    if progress.step == STEPS_TO_STOP:
        raise KeyboardInterrupt


def _finished(record: RunRecord) -> RunRecord:
    if record.outcome == "interrupted":  # by the person at the terminal
        raise KeyboardInterrupt
    return record


def _difference(alone: RunRecord, resumed: RunRecord) -> str:
    """The first number in which two runs differ, in words."""
    for ours, theirs in ((alone.steps, resumed.steps), (alone.measurements, resumed.measurements)):
        for name in sorted(set(ours) - {"seconds"}):
            a, b = (np.asarray(columns[name]) for columns in (ours, theirs))
            if a.shape != b.shape:
                return f"{len(a)} numbers of {name} against {len(b)}"
            is_other = (a != b) & ~((a != a) & (b != b))
            if is_other.any():
                i = int(is_other.argmax())
                return f"{name} at step {ours['step'][i]:.0f}: {a[i]} against {b[i]}"
    return ""
