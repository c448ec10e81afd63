"""Probing: the frozen linear method of an optimizer nobody has described, found by asking a copy for steps.

With the second moment held (see `trials`), one step is a map of momentum x, weights w and gradient g. It must be

    x' = A x + B g + K w        w' = w + C x + E g + G w

element by element. It is read off unit trials and put to the proof on random ones, small and large; then the copy
is walked beyond its edge: started in the mode that flips, it must grow by the predicted factor.

Legend: A ... K (p,) as above, b, c = beta and discount of `Momentum`, h = curvature (p,), mu = growth per step.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from ..momentum import Momentum
from .specimen import Path, generators_kept
from .trials import NOT_HELD, Bench, momentum_names

RTOL = 1e-6  # a real step agrees with the linear one to this share of their terms
SMALL = 1e-6
LOUD = 3.0  # times the natural size of gradients: where clipping by size would show
NOT_LINEAR = "with its second moment held, its step is not linear in the gradient, element by element"


@dataclass(frozen=True)
class GroupFinding:
    """The momentum rule of one group and its decay, in the units a group keeps them in."""

    momentum: Momentum
    weight_decay: float
    is_decoupled: bool


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


@dataclass(frozen=True)
class LinearStep:
    """One held step, element by element; `memory` is the row of x it depends on."""

    memory: int | None
    A: Tensor
    B: Tensor
    C: Tensor
    E: Tensor
    G: Tensor
    K: Tensor

    def apply(self, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The momentum after the step and the change of the weights."""
        return self.A * x + self.B * g + self.K * w, self.C * x + self.E * g + self.G * w

    def edge(self) -> Tensor:
        """(p,) the curvature h at which the closed loop g = h w has the mode that flips and neither grows nor fades."""
        R = -1 / (1 + self.A)
        return (2 + self.G + self.C * R * self.K) / -(self.C * R * self.B + self.E)

    def flipping_mode(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(p,) growth mu of the mode that flips at g = h w, from its edge on, and its momentum for a weight of 1."""
        half, det = self._characteristic(h)
        mu = half - (half.square() - det).clamp(min=0).sqrt()
        return mu, (self.B * h + self.K) / (mu - self.A)

    def radius(self, h: Tensor) -> Tensor:
        """(p,) growth of the fastest mode at g = h w, flipping or not."""
        half, det = self._characteristic(h)
        spread = half.square() - det
        return torch.where(spread < 0, det.abs().sqrt(), half.abs() + spread.clamp(min=0).sqrt())

    def _characteristic(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Half the trace, and the determinant, of one closed-loop step of (x, w)."""
        kept = 1 + self.G + self.E * h
        return (self.A + kept) / 2, self.A * kept - self.C * (self.B * h + self.K)


@dataclass
class _Refusal:
    """Why an optimizer was refused, and how often it may be asked for before it is tried again."""

    hyperparameters: str
    reason: str
    wait: float
    left: float


_findings: weakref.WeakKeyDictionary[torch.optim.Optimizer, Findings] = weakref.WeakKeyDictionary()
_refusals: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Refusal] = weakref.WeakKeyDictionary()


def probe(optimizer: torch.optim.Optimizer) -> Probed | None:
    """The frozen linear method of an optimizer, from steps of a copy; the optimizer itself is left alone.

    Returns:
        Momentum and decay by group and P by parameter, normalised as averaged momentum is: gradients that stay the
        same pass with gain 1, and P carries every constant factor. None before the optimizer's first step.
    Raises:
        UnsupportedOptimizerError: it is not linear in the gradient with its second moment held, or that cannot be
            held; the message says which.
    Cost:
        Two copies in float64 and some 90 steps of them. What was found is kept as long as one walk along the edge
        proves that it holds: later calls cost a copy and 6 to 9 steps, each with some twenty passes over float64
        copies beside it. A refusal is kept until hyperparameters change.
    """
    hyperparameters = repr(
        [[group.get(k) for k in optimizer.defaults if k != "lr"] for group in optimizer.param_groups]
    )
    refusal = _refusals.get(optimizer)
    is_same = refusal is not None and refusal.hyperparameters == hyperparameters
    if refusal is not None and is_same and refusal.left > 0:
        refusal.left -= 1
        raise UnsupportedOptimizerError(refusal.reason)
    if any(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups):
        raise UnsupportedOptimizerError("its learning rate is 0, so its steps say nothing: measure once it is above 0")
    try:
        with generators_kept():
            return _probe(optimizer)
    except (AttributeError, LookupError, RuntimeError, ValueError) as error:
        # Its copy is steered in ways its author did not think of; the user's loop must not pay for that.
        raise UnsupportedOptimizerError(f"probing it failed with {type(error).__name__}: {error}") from error
    except UnsupportedOptimizerError as error:
        # What cannot be held in the first steps may be later; the rest stays as it is.
        again = 2 * refusal.wait if refusal is not None and is_same else 1.0
        wait = again if str(error) == NOT_HELD else math.inf
        _refusals[optimizer] = _Refusal(hyperparameters, str(error), wait, wait)
        raise


def _probe(optimizer: torch.optim.Optimizer) -> Probed | None:
    findings = _findings.get(optimizer)
    if findings is not None:
        bench = Bench(optimizer, findings.names)
        step = _from_findings(bench, findings)
        if step is not None and _walks_the_edge(bench, step, findings.scale):
            return _answer(bench, findings.groups, step)
    names, fresh = momentum_names(optimizer)
    bench = Bench(optimizer, names)
    if any(path not in bench.held for path in fresh if path[0] == "state"):
        return None
    scale = 0.9 * bench.natural_scale()
    step = _identified(bench, scale)
    groups = tuple(_finding(bench, step, j, part) for j, part in _parts(bench).items())
    if not _walks_the_edge(bench, step, scale):
        raise UnsupportedOptimizerError("beyond its edge it did not flip and grow as predicted")
    _findings[optimizer] = Findings(names, step.memory, scale, groups)
    return _answer(bench, groups, step)


def _parts(bench: Bench) -> dict[int, Tensor]:
    """Indices of the elements of each group that has any."""
    parts: dict[int, list[Tensor]] = {}
    owner = {id(w): j for j, group in enumerate(bench.specimen.groups) for w in group["params"]}
    for i, part in bench.specimen.slices.items():
        at = torch.arange(part.start, part.stop, device=bench.specimen.device)
        parts.setdefault(owner[id(bench.specimen.params[i])], []).append(at)
    return {j: torch.cat(each) for j, each in sorted(parts.items())}


def _held(outcome: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    if outcome is None:
        raise UnsupportedOptimizerError(NOT_HELD)
    return outcome


def _identified(bench: Bench, scale: Tensor) -> LinearStep:
    """The step as a linear map, read off unit trials and proved on random ones.

    Raises:
        UnsupportedOptimizerError: it is not linear, remembers in more ways than one, or never forgets.
    """
    generator = torch.Generator().manual_seed(2)

    def noise() -> Tensor:
        return (2 * torch.rand(bench.size, generator=generator, dtype=torch.float64) - 1).to(scale.device)

    zero, x0 = bench.zeros(), bench.momenta()
    g = scale * noise().sign()
    x1, dw = _held(bench.trial(x0, zero, g))
    E, B_all = dw / g, x1 / g
    reach, x = x1.abs(), x1
    for sign in (1, -1, 1):
        x, _ = _held(bench.trial(x, zero, sign * g))
        reach = torch.maximum(reach, x.abs())
    reach = torch.where(reach > 0, reach, scale)
    A_all, C_all, feeds = [], [], []
    for j, row in enumerate(reach):
        unit = torch.zeros_like(x0)
        unit[j] = row * noise().sign()
        x1, dw = _held(bench.trial(unit, zero, zero))
        A_all.append(x1[j] / unit[j])
        C_all.append(dw / unit[j])
        feeds.append([bool((x1[i].abs() > 1e-9 * reach[i]).any()) for i in range(len(x0))])
    if any(bool((A.abs() > 1 - 1e-9).any()) for A in A_all):
        raise UnsupportedOptimizerError("it keeps a memory that never fades, such as a second copy of the weights")
    seen = {j for j, C in enumerate(C_all) if bool((C.abs() * reach[j] > 1e-9 * E.abs() * scale).any())}
    for _ in reach:
        seen |= {j for j in range(len(reach)) if any(feeds[j][i] for i in seen)}
    if len(seen) > 1:
        names = " and ".join(str(bench.names[j][-1]) for j in sorted(seen))
        raise UnsupportedOptimizerError(f"its step depends on several memories of past gradients ({names})")
    memory = seen.pop() if seen else None
    w = bench.w
    unit_w = (noise() + 2) * (w.square().mean().sqrt() if bool(w.any()) else 1)
    # Decay that is part of the gradient may be more than the second moment can hold still: then ask at smaller weights.
    outcome, coupling = bench.trial(x0, unit_w, zero), zero
    if outcome is None:
        unit_w = unit_w * SMALL
        outcome = bench.trial(x0, unit_w, zero)
        coupling = torch.where(E != 0, _held(outcome)[1] / unit_w / E, zero)
    x1, dw = _held(outcome)
    G = dw / unit_w
    if memory is None:
        step = LinearStep(None, zero, zero, zero, E, G, zero)
    else:
        step = LinearStep(memory, A_all[memory], B_all[memory], C_all[memory], E, G, x1[memory] / unit_w)
    some_w = bench.w.abs() * noise() + (unit_w * noise() if not coupling.any() else zero)
    for size, at, is_tangent in ((0.3, w, False), (1.0, some_w, False), (0.5, some_w, True)):
        x = size * reach * torch.stack([noise() for _ in reach]) if len(reach) else x0
        g = size * scale * noise()
        if is_tangent:  # only there do methods for scale-invariant weights project
            x, g = torch.stack([bench.tangent(row, at) for row in x]) if len(x) else x, bench.tangent(g, at)
        g = g - coupling * at
        if not _agrees(step, x, at, g, _held(bench.trial(x, at, g))):
            raise UnsupportedOptimizerError(NOT_LINEAR)
    x, g = LOUD * reach, LOUD * scale
    loud = bench.trial(x, zero, g)  # where the second moment would have to be negative before, nothing can be asked
    if loud is not None and not _agrees(step, x, zero, g, loud):
        raise UnsupportedOptimizerError(f"{NOT_LINEAR}: large gradients are cut")
    return step


def _agrees(step: LinearStep, x: Tensor, w: Tensor, g: Tensor, outcome: tuple[Tensor, Tensor]) -> bool:
    row = torch.zeros_like(w) if step.memory is None else x[step.memory]
    got = (torch.zeros_like(w) if step.memory is None else outcome[0][step.memory]), outcome[1]
    terms = step.A.abs() * row.abs() + (step.B * g).abs() + (step.K * w).abs()
    terms_w = (step.C * row).abs() + (step.E * g).abs() + (step.G * w).abs()
    expected = step.apply(row, w, g)
    bounds = RTOL * terms, RTOL * terms_w + 1e-14 * w.abs()
    return all(bool(((a - b).abs() <= bound).all()) for a, b, bound in zip(got, expected, bounds, strict=True))


def _finding(bench: Bench, step: LinearStep, j: int, at: Tensor) -> GroupFinding:
    """The momentum rule and decay of one group whose elements are `at`."""
    A, B, C, E, G, K = (part[at] for part in (step.A, step.B, step.C, step.E, step.G, step.K))
    moves = E != 0
    if bool((E > 0).any()) or not bool(moves.any()):
        raise UnsupportedOptimizerError("its step does not go down the gradient")
    b = _shared(A[moves], "forgets")
    share = _shared((C * B / E)[moves], "weighs past gradients")
    c = share / (b * (1 - b + share)) if b > 0 else 1.0
    if not (0 <= b < 1 and -RTOL <= c <= 1 + RTOL):
        raise UnsupportedOptimizerError("it weighs past gradients as no average of them does")
    lr = float(bench.specimen.groups[j]["lr"])
    decay, is_decoupled = _decay(B, E, G, K, moves, lr)
    return GroupFinding(Momentum(beta=b, discount=min(max(c, 0.0), 1.0)), decay, is_decoupled)


def _shared(values: Tensor, does: str) -> float:
    value = float(values.median())
    if bool(((values - value).abs() > RTOL).any()):
        raise UnsupportedOptimizerError(f"it {does} differently from element to element")
    return value


def _decay(B: Tensor, E: Tensor, G: Tensor, K: Tensor, moves: Tensor, lr: float) -> tuple[float, bool]:
    """Weight decay and whether it acts on the weights directly rather than through the gradient."""
    rounding = 1e-14
    if bool((G.abs() <= rounding).all()) and not bool(K.any()):
        return 0.0, True
    wd = float((G / E)[moves].median())
    if _follow(G, wd * E, rounding) and _follow(K, wd * B, rounding):
        return wd, False
    kept = float(G.median())
    if _follow(G, torch.full_like(G, kept), rounding) and not bool(K.any()) and kept < 0:
        return -kept / lr, True
    raise UnsupportedOptimizerError("its decay is neither part of the gradient nor one share of all weights")


def _follow(a: Tensor, b: Tensor, rounding: float) -> bool:
    return bool(((a - b).abs() <= RTOL * b.abs() + rounding).all())


def _from_findings(bench: Bench, findings: Findings) -> LinearStep | None:
    """The step as it was found, with what depends on the second moment read off one new trial."""
    if bench.size != len(findings.scale):
        return None
    g = findings.scale
    outcome = bench.trial(bench.momenta(), bench.zeros(), g)
    if outcome is None:
        return None
    zero, E = bench.zeros(), outcome[1] / g
    A, B, C, G, K = (zero.clone() for _ in range(5))
    if findings.memory is not None:
        B = outcome[0][findings.memory] / g
    for (j, at), group in zip(_parts(bench).items(), findings.groups, strict=True):
        b, c = group.momentum.beta, group.momentum.discount
        A[at] = b
        C[at] = torch.where(B[at] != 0, c * b * (1 - b) / (1 - c * b) * E[at] / B[at], zero[at])
        wd = group.weight_decay
        G[at] = -float(bench.specimen.groups[j]["lr"]) * wd if group.is_decoupled else wd * E[at]
        K[at] = zero[at] if group.is_decoupled else wd * B[at]
    return LinearStep(findings.memory, A, B, C, E, G, K)


def _walks_the_edge(bench: Bench, step: LinearStep, scale: Tensor) -> bool:
    """Whether the copy flips exactly on its edge and grows as predicted beyond, and nothing grows below."""
    edge, moves = step.edge(), step.E != 0
    if not bool((edge[moves] > 0).all()):
        raise UnsupportedOptimizerError("lr * weight_decay must be below 2: the decay alone diverges")
    for ratio in (1.0, 1.01):
        h = torch.where(moves, ratio * edge, torch.zeros_like(edge))
        mu, momentum = step.flipping_mode(h)
        w = torch.where(moves, 0.5 * scale / h, torch.zeros_like(h))
        x = bench.momenta()
        if step.memory is not None:
            x[step.memory] = momentum * w
        outcome = bench.trial(x, w, h * w)
        if outcome is None or not _follow(w + outcome[1], mu * w, 0.0):
            return False
        if step.memory is not None and not _follow(outcome[0][step.memory], mu * x[step.memory], 0.0):
            return False
    return bool((mu[moves] < -1).all() and (step.radius(0.99 * edge)[moves] < 1).all())


def _answer(bench: Bench, groups: tuple[GroupFinding, ...], step: LinearStep) -> Probed:
    parts = _parts(bench)
    P = bench.zeros()
    for (j, at), group in zip(parts.items(), groups, strict=True):
        fresh = 1 - group.momentum.discount * group.momentum.beta
        P[at] = -float(bench.specimen.groups[j]["lr"]) * fresh / step.E[at]
    return Probed(dict(zip(parts, groups, strict=True)), {i: P[part] for i, part in bench.specimen.slices.items()})
