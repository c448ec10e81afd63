"""Identification: the linear step of an optimizer, read off unit trials on a bench and put to the proof.

Legend: A ... K as in `linear_step`, x = momenta (k, p), b, c = beta and discount of `Momentum`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from ..momentum import Momentum
from .linear_step import RTOL, LinearStep, follows, ratio
from .trials import NOT_HELD, Bench

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
class _Memories:
    """What the momenta do, one row for each: how far they reach, A and C, and the row a step depends on."""

    reach: Tensor
    A: Tensor
    C: Tensor
    memory: int | None


def identified(bench: Bench, scale: Tensor) -> LinearStep:
    """The step as a linear map, read off unit trials and proved on random ones.

    Args:
        scale: (p,) size of the gradients to ask with; 0 where nothing moves.
    Raises:
        UnsupportedOptimizerError: it is not linear, remembers in more ways than one, or never forgets.
    """
    noise = _noise(bench)
    x0, zero = bench.momenta(), bench.zeros()
    g = scale * noise().sign()
    x1, dw = held(bench.trial(x0, zero, g))
    E, B = ratio(dw, g), torch.stack([ratio(row, g) for row in x1]) if len(x1) else x1
    found = _memories(bench, noise, scale, g, x1, E)
    unit_w, coupling, outcome = _unit_weights(bench, noise, scale, E)
    G = outcome[1] / unit_w
    j = found.memory
    if j is None:
        step = LinearStep(None, zero, zero, zero, E, G, zero)
    else:
        step = LinearStep(j, found.A[j], B[j], found.C[j], E, G, outcome[0][j] / unit_w)
    _prove(bench, step, noise, scale, found.reach, unit_w, coupling)
    return step


def held(outcome: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The outcome of a trial, or the refusal where there is none."""
    if outcome is None:
        raise UnsupportedOptimizerError(NOT_HELD)
    return outcome


def _noise(bench: Bench) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(2)
    device = bench.w.device
    return lambda: (2 * torch.rand(bench.size, generator=generator, dtype=torch.float64) - 1).to(device)


def _memories(bench: Bench, noise: Callable[[], Tensor], scale: Tensor, g: Tensor, x1: Tensor, E: Tensor) -> _Memories:
    """What is remembered from step to step, and which of it the weights see."""
    x0, zero = bench.momenta(), bench.zeros()
    reach, x = x1.abs(), x1
    for sign in (1, -1, 1):
        x, _ = held(bench.trial(x, zero, sign * g))
        reach = torch.maximum(reach, x.abs())
    reach = torch.where(reach > 0, reach, scale)
    A, C, feeds = torch.zeros_like(x0), torch.zeros_like(x0), []
    for j in range(len(x0)):
        unit = torch.zeros_like(x0)
        unit[j] = reach[j] * noise().sign()
        after, dw = held(bench.trial(unit, zero, zero))
        A[j], C[j] = ratio(after[j], unit[j]), ratio(dw, unit[j])
        feeds.append([bool((after[i].abs() > 1e-9 * reach[i]).any()) for i in range(len(x0))])
    if bool((A.abs() > 1 - 1e-9).any()):
        raise UnsupportedOptimizerError("it keeps a memory that never fades, such as a second copy of the weights")
    seen = {j for j in range(len(x0)) if bool((C[j].abs() * reach[j] > 1e-9 * E.abs() * scale).any())}
    for _ in range(len(x0)):
        seen |= {j for j in range(len(x0)) if any(feeds[j][i] for i in seen)}
    if len(seen) > 1:
        names = " and ".join(str(bench.names[j][-1]) for j in sorted(seen))
        raise UnsupportedOptimizerError(f"its step depends on several memories of past gradients ({names})")
    return _Memories(reach, A, C, seen.pop() if seen else None)


def _unit_weights(
    bench: Bench, noise: Callable[[], Tensor], scale: Tensor, E: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Weights for a trial of decay, what of them enters the gradient if that had to be asked for, and the trial.

    Decay that is part of the gradient may be more than the second moment can hold still: then smaller weights are
    asked, at last such as gradients are.
    """
    x0, zero = bench.momenta(), bench.zeros()
    unit = noise() + 2
    size = bench.w.square().mean().sqrt() if bool(bench.w.any()) else torch.ones_like(E[:1])
    outcome = bench.trial(x0, unit * size, zero)
    if outcome is not None:
        return unit * size, zero, outcome
    least = 0.1 * torch.where(scale > 0, scale, scale.max() * SMALL)
    for unit_w in (unit * size * SMALL, unit * torch.minimum(least, SMALL * size)):
        outcome = bench.trial(x0, unit_w, zero)
        if outcome is not None:
            break
    return unit_w, ratio(held(outcome)[1] / unit_w, E), held(outcome)


def _prove(
    bench: Bench,
    step: LinearStep,
    noise: Callable[[], Tensor],
    scale: Tensor,
    reach: Tensor,
    unit_w: Tensor,
    coupling: Tensor,
) -> None:
    """Raise unless random trials come out as the step says: small, large, along the sphere and where momenta are."""
    some_w = bench.w.abs() * noise() + (bench.zeros() if coupling.any() else unit_w * noise())
    for size, at, is_tangent in ((0.3, bench.w, False), (1.0, some_w, False), (0.5, some_w, True)):
        x, g = size * reach * _rows(noise, reach), size * scale * noise()
        if is_tangent:  # only there do methods for scale-invariant weights project
            x = (
                bench.momenta()
                + torch.stack([g, *(bench.tangent(a, at, b) for a, b in zip(x, reach, strict=True))])[1:]
            )
            g = bench.tangent(g, at, scale)
        g = g - coupling * at
        if not step.agrees(x, at, g, held(bench.trial(x, at, g))):
            raise UnsupportedOptimizerError(NOT_LINEAR)
    zero = bench.zeros()
    loud = LOUD * reach, zero, LOUD * scale
    here = bench.x * (1 - 0.5 * _rows(noise, reach).abs()) * (scale > 0), zero, scale * noise()
    for (x, w, g), reason in ((loud, f"{NOT_LINEAR}: large gradients are cut"), (here, NOT_LINEAR)):
        x, g, outcome = bench.fitted(x, w, g)  # where the second moment would have to be negative, nothing is asked
        if outcome is not None and not step.agrees(x, w, g, outcome):
            raise UnsupportedOptimizerError(reason)


def _rows(noise: Callable[[], Tensor], like: Tensor) -> Tensor:
    """(k, p) noise."""
    return torch.stack([noise() for _ in like]) if len(like) else like


def finding(step: LinearStep, at: Tensor, lr: float) -> GroupFinding:
    """The momentum rule and decay of one group whose elements are `at`.

    Raises:
        UnsupportedOptimizerError: they are no such rule, or not the same for all elements.
    """
    at = at[step.E[at] != 0]
    A, B, C, E, G, K = (part[at] for part in (step.A, step.B, step.C, step.E, step.G, step.K))
    if not len(E) or bool((E > 0).any()):
        raise UnsupportedOptimizerError("its step does not go down the gradient")
    b = _shared(A, "forgets")
    share = _shared(C * B / E, "weighs past gradients")
    c = share / (b * (1 - b + share)) if b > 0 else 1.0
    if not (0 <= b < 1 and -RTOL <= c <= 1 + RTOL):
        raise UnsupportedOptimizerError("it weighs past gradients as no average of them does")
    decay, is_decoupled = _decay(B, E, G, K, lr)
    return GroupFinding(Momentum(beta=b, discount=min(max(c, 0.0), 1.0)), decay, is_decoupled)


def _shared(values: Tensor, does: str) -> float:
    value = float(values.median())
    if bool(((values - value).abs() > RTOL).any()):
        raise UnsupportedOptimizerError(f"it {does} differently from element to element")
    return value


def _decay(B: Tensor, E: Tensor, G: Tensor, K: Tensor, lr: float) -> tuple[float, bool]:
    """Weight decay and whether it acts on the weights directly rather than through the gradient."""
    rounding = 1e-14
    if bool((G.abs() <= rounding).all()) and not bool(K.any()):
        return 0.0, True
    wd = float((G / E).median())
    if follows(G, wd * E, rounding) and follows(K, wd * B, rounding):
        return wd, False
    kept = float(G.median())
    if follows(G, torch.full_like(G, kept), rounding) and not bool(K.any()) and kept < 0:
        return -kept / lr, True
    raise UnsupportedOptimizerError("its decay is neither part of the gradient nor one share of all weights")
