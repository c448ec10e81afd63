"""Probing: the frozen linear method of an optimizer nobody has described, found by asking a copy for steps.

With the second moment held (see `trials`), one step must be linear in momentum, weights and gradient, element by
element (`identification`), now and for the steps to come (`beat`); then the copy is walked beyond its edge: started in
the mode that flips, it must grow by the predicted factor.

Legend: A ... K as in `linear_step`, b, c = beta and discount of `Momentum`, h = curvature (p,), mu = growth per step.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError, one_line

from .beat import check_beat
from .identification import GroupFinding, finding, identified
from .linear_step import LinearStep, follows, ratio
from .momenta import momentum_names
from .specimen import Path
from .surroundings import surroundings_kept
from .trials import Bench


@dataclass(frozen=True)
class Findings:
    """What of a probed optimizer stays when its second moment moves on."""

    names: tuple[Path, ...]
    memory: int | None
    scale: Tensor
    groups: tuple[GroupFinding, ...]


@dataclass(frozen=True)
class Probed:
    """A probed optimizer: the finding of each group and P of each parameter that moves, both by index."""

    groups: dict[int, GroupFinding]
    P: dict[int, Tensor]


@dataclass
class Refusal:
    """Why an optimizer was refused, and how often it may be asked for before it is tried again."""

    hyperparameters: str
    reason: str
    wait: int
    left: int


FOUND: weakref.WeakKeyDictionary[torch.optim.Optimizer, Findings] = weakref.WeakKeyDictionary()
REFUSED: weakref.WeakKeyDictionary[torch.optim.Optimizer, Refusal] = weakref.WeakKeyDictionary()


def probe(optimizer: torch.optim.Optimizer) -> Probed | None:
    """The frozen linear method of an optimizer, from steps of a copy; the optimizer itself is left alone.

    Returns:
        Momentum and decay by group and P by parameter, normalised as averaged momentum is: gradients that stay the
        same pass with gain 1, and P carries every constant factor. P is infinite where nothing moves. None before the
        optimizer's first step.
    Raises:
        UnsupportedOptimizerError: it is not linear in the gradient with its second moment held, or that cannot be
            held, or its steps follow a rhythm; the message says which.
    Cost:
        Two copies in float64 and some 90 steps of them, and `check_beat` on a few small parameters. What was found is
        kept as long as one walk along the edge proves that it holds: later calls cost a copy and 6 to 9 steps, each
        with some twenty passes over float64 copies beside it. A refusal is kept for 1, 2, 4, ... calls, or until
        hyperparameters change: in the first steps of a run many a method is not yet what it becomes.
    """
    hyperparameters = repr(
        [[group.get(k) for k in optimizer.defaults if k != "lr"] for group in optimizer.param_groups]
    )
    refusal = REFUSED.get(optimizer)
    is_same = refusal is not None and refusal.hyperparameters == hyperparameters
    if refusal is not None and is_same and refusal.left > 0:
        refusal.left -= 1
        raise UnsupportedOptimizerError(refusal.reason)
    if all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups):
        raise UnsupportedOptimizerError("its learning rate is 0, so its steps say nothing: measure once it is above 0")
    try:
        with surroundings_kept(type(optimizer)):
            return _probe(optimizer)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UnsupportedOptimizerError):
            wait = 2 * refusal.wait if refusal is not None and is_same else 1
            REFUSED[optimizer] = Refusal(hyperparameters, str(error), wait, wait)
            raise
        # Its copy is steered in ways its author did not think of; the user's loop must not pay for that.
        line = one_line(str(error))
        raise UnsupportedOptimizerError(f"probing it failed with {type(error).__name__}: {line}") from error


def _probe(optimizer: torch.optim.Optimizer) -> Probed | None:
    findings = FOUND.get(optimizer)
    if findings is not None:
        bench = Bench(optimizer, findings.names)
        step = _from_findings(bench, findings)
        if step is not None and _walks_the_edge(bench, step, findings.scale):
            return _answer(bench, findings.groups, step)
    names, fresh = momentum_names(optimizer)
    bench = Bench(optimizer, names)
    if any(path not in bench.held for path in fresh if path[0] == "state"):
        return None
    scale = bench.natural_scale()
    step = identified(bench, scale)
    groups = tuple(finding(step, at, _lr(bench, j)) for j, at in bench.parts().items())
    if not _walks_the_edge(bench, step, scale):
        raise UnsupportedOptimizerError("beyond its edge it did not flip and grow as predicted")
    check_beat(optimizer, names, step.memory)
    FOUND[optimizer] = Findings(names, step.memory, scale, groups)
    return _answer(bench, groups, step)


def _lr(bench: Bench, j: int) -> float:
    return float(bench.specimen.groups[j]["lr"])


def _from_findings(bench: Bench, findings: Findings) -> LinearStep | None:
    """The step as it was found, with what depends on the second moment read off one new trial."""
    if bench.size != len(findings.scale):
        return None
    g = findings.scale
    outcome = bench.trial(bench.momenta(), bench.zeros(), g, is_rounded=True)
    if outcome is None:
        return None
    zero, E = bench.zeros(), ratio(outcome[1], g)
    A, B, C, G, K = (zero.clone() for _ in range(5))
    if findings.memory is not None:
        B = ratio(outcome[0][findings.memory], g)
    for (j, at), group in zip(bench.parts().items(), findings.groups, strict=True):
        b, c = group.momentum.beta, group.momentum.discount
        A[at] = b
        C[at] = c * b * (1 - b) / (1 - c * b) * ratio(E[at], B[at])
        wd = group.weight_decay
        G[at] = -_lr(bench, j) * wd if group.is_decoupled else wd * E[at]
        K[at] = zero[at] if group.is_decoupled else wd * B[at]
    return LinearStep(findings.memory, A, B, C, E, G, K)


def _walks_the_edge(bench: Bench, step: LinearStep, scale: Tensor) -> bool:
    """Whether the copy flips exactly on its edge and grows as predicted beyond, and nothing grows below."""
    edge = step.edge()
    moves = (step.E != 0) & (edge > 0)  # elsewhere decay that is part of the gradient is beyond the edge by itself
    if not bool(moves.any()):
        raise UnsupportedOptimizerError("lr * weight_decay must be below 2: the decay alone diverges")
    for above in (1.0, 1.01):
        h = torch.where(moves, above * edge, torch.zeros_like(edge))
        mu, momentum = step.flipping_mode(h)
        # What decay adds to the gradient is part of what the second moment must hold.
        w = torch.where(moves, 0.5 * scale / (h + ratio(step.G, step.E).abs()), torch.zeros_like(h))
        x = bench.momenta()
        if step.memory is not None:
            x[step.memory] = torch.where(moves, momentum * w, x[step.memory])
        outcome = bench.trial(x, w, h * w)
        if outcome is None or not follows(w + outcome[1], mu * w, 0.0):
            return False
        if step.memory is not None and not follows(outcome[0][step.memory], mu * x[step.memory], 0.0):
            return False
    return bool((mu[moves] < -1).all() and (step.radius(0.99 * edge)[moves] < 1).all())


def _answer(bench: Bench, groups: tuple[GroupFinding, ...], step: LinearStep) -> Probed:
    parts = bench.parts()
    P = bench.zeros()
    for (j, at), group in zip(parts.items(), groups, strict=True):
        fresh = 1 - group.momentum.discount * group.momentum.beta
        P[at] = -_lr(bench, j) * fresh / step.E[at]
    # A step of exactly 0 is that of an infinite P, whatever the sign of the zero.
    P = torch.where(step.E == 0, torch.full_like(P, math.inf), P)
    return Probed(dict(zip(parts, groups, strict=True)), {i: P[part] for i, part in bench.specimen.slices.items()})
