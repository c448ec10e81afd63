"""Trials of an unknown optimizer: steps from any momentum, weights and gradient, with its second moment held still.

What flips when every gradient flips is momentum; what does not is second moment, or a count; what does neither makes
an optimizer unreadable. Held means: before a trial the second moment is set so that AFTER the trial step it is what
the user's optimizer holds now, and counts are what they were in its last step.

Legend: x = momenta (k, p), w = weights (p,), g = gradient (p,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from .specimen import Numbers, Path, Specimen

NOT_HELD = "its second moment cannot be held still by choosing what it was before a step"
NUM_FRESH_STEPS = 12  # more than the periods at which methods look ahead
NUM_TRIES = 8
RTOL_HELD = 1e-9
TINY = 1e-30


def momentum_names(optimizer: torch.optim.Optimizer) -> tuple[tuple[Path, ...], set[Path]]:
    """Names of the states that flip with the gradient, and paths of what a fresh copy keeps besides.

    Raises:
        UnsupportedOptimizerError: some state or the step itself neither flips nor stays.
    Cost:
        A copy and 25 steps of it.
    """
    specimen = Specimen(optimizer)
    start = _without_counts(specimen)
    w, numbers = _fresh_run(specimen, start, 1.0)
    w_flipped, flipped = _fresh_run(specimen, start, -1.0)
    if not (_are_equal(w, -w_flipped) and numbers.keys() == flipped.keys()):
        raise UnsupportedOptimizerError("its step does not flip when every gradient flips: it is no linear method")
    odd, even = set(), set()
    for path, number in numbers.items():
        if _are_equal(number, flipped[path]):
            even.add(path)
        elif _are_equal(number, -flipped[path]) and _is_elementwise(specimen, path, number):
            odd.add(path[2:])
        else:
            raise UnsupportedOptimizerError(f"its '{path[-1]}' neither flips with the gradient nor stays as it is")
    return tuple(sorted(odd, key=str)), {path for path in even if path[2:] not in odd}


def _without_counts(specimen: Specimen) -> Numbers:
    """The numbers outside the state, those that count steps set back to zero."""
    before = {path: number for path, number in specimen.numbers().items() if path[0] != "state"}
    zero = torch.zeros_like(specimen.weights())
    specimen.step(zero, torch.ones_like(zero))
    after = specimen.numbers()
    return {
        path: torch.zeros_like(number) if number.ndim == 0 and after[path] == number + 1 else number
        for path, number in before.items()
    }


def _fresh_run(specimen: Specimen, start: Numbers, sign: float) -> tuple[Tensor, Numbers]:
    """Weights and numbers after steps from scratch on seeded gradients times a sign."""
    specimen.forget()
    specimen.load(start)
    torch.manual_seed(0)
    w = torch.zeros_like(specimen.weights())
    generator = torch.Generator().manual_seed(1)
    for _ in range(NUM_FRESH_STEPS):
        g = torch.randn(len(w), generator=generator, dtype=torch.float64).to(w.device)
        w = w + specimen.step(w, sign * g)
    return w, specimen.numbers()


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().le(1e-9 * a.abs().amax() + TINY).all()) if a.numel() else True


def _is_elementwise(specimen: Specimen, path: Path, number: Tensor) -> bool:
    return path[0] == "state" and number.numel() == specimen.params[int(str(path[1]))].numel()


class Bench:
    """Trials of one optimizer, its second moment held at what it is now.

    Args:
        optimizer: Left alone.
        names: Its momentum states.

    Attributes:
        held: What is held, by path.
        size: Number of elements it moves.
        w: (p,) the weights as they are.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: tuple[Path, ...]) -> None:
        self.specimen, self.names = Specimen(optimizer), names
        self.size, self.w = self.specimen.size, self.specimen.weights()
        odd = {("state", i, *name) for i in self.specimen.active for name in names}
        self.held = {path: number for path, number in self.specimen.numbers().items() if path not in odd}
        if not any(path[0] == "state" for path in self.held):
            self.specimen.step(self.zeros(), self.zeros())  # it makes its momenta in its first step
        self._odd = odd & self.specimen.numbers().keys()
        self._before = dict(self.held)
        self._slopes: Numbers = {}

    def zeros(self) -> Tensor:
        """(p,)"""
        return torch.zeros(self.size, dtype=torch.float64, device=self.specimen.device)

    def momenta(self) -> Tensor:
        """(k, p) zeros."""
        return self.zeros().expand(len(self.names), -1).clone()

    def tangent(self, vector: Tensor, w: Tensor) -> Tensor:
        """(p,) a vector with a ten thousandth of its share along w, in every row of every parameter."""
        parts = []
        for i, part in self.specimen.slices.items():
            rows = self.specimen.params[i].shape[0] if self.specimen.params[i].ndim > 1 else 1
            v, along = vector[part].view(rows, -1), w[part].view(rows, -1)
            share = (v * along).sum(1) / along.square().sum(1).clamp(min=TINY)
            parts.append((v - (1 - 1e-4) * along * share[:, None]).reshape(-1))
        return torch.cat(parts)

    def trial(self, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """Momenta after one held step, and the change of the weights; None where holding is not possible."""
        before, last = self._before, None
        for _ in range(NUM_TRIES):
            after, dw = self._step(before, x, w, g)
            if not (self.held.keys() <= after.keys() and bool(dw.isfinite().all())):
                return None
            off = self._off(after)
            if not off:
                self._before = before
                return self._read(after), dw
            self._learn_slopes(before, after, last)
            last = before, after
            before = self._closer(before, after, off)
        return None

    def natural_scale(self) -> Tensor:
        """(p,) size of the gradients that keep the second moment where it is, 1 where nothing depends on it.

        A second moment that never fades has none: there it is what moves it by a thousandth.
        """
        x, zero = self.momenta(), self.zeros()
        still, _ = self._step(self.held, x, zero, zero)
        low, high = zero - 15, zero + 15
        for _ in range(9):
            middle = (low + high) / 2
            moved = self._moved(still, self._step(self.held, x, zero, 10**middle)[0])
            low, high = torch.where(moved, low, middle), torch.where(moved, middle, high)
        return torch.where(high == 15, torch.ones_like(low), 10**low)

    def _step(self, before: Numbers, x: Tensor, w: Tensor, g: Tensor) -> tuple[Numbers, Tensor]:
        self.specimen.load(before)
        for name, row in zip(self.names, x, strict=True):
            parts = self.specimen.unflat(row, name)
            self.specimen.load({path: part for path, part in parts.items() if path in self._odd})
        dw = self.specimen.step(w, g)
        return self.specimen.numbers(), dw

    def _read(self, after: Numbers) -> Tensor:
        rows = [self.specimen.flat(after, name) for name in self.names]
        return torch.stack(rows) if rows else self.momenta()

    def _off(self, after: Numbers) -> list[Path]:
        """What is not held; counts alone while any of them is off, since all else may depend on them."""
        off = [
            path
            for path, target in self.held.items()
            if not bool((after[path] - target).abs().le(RTOL_HELD * target.abs() + TINY).all())
        ]
        return [path for path in off if self.held[path].ndim == 0] or off

    def _learn_slopes(self, before: Numbers, after: Numbers, last: tuple[Numbers, Numbers] | None) -> None:
        """How a number after a step follows the number before it, from two steps."""
        for path in self.held if last else ():
            run = before[path] - last[0][path]  # type: ignore[index]
            rise = after[path] - last[1][path]  # type: ignore[index]
            slope = torch.where(run != 0, rise / run, self._slopes.get(path, torch.ones_like(run)))
            self._slopes[path] = slope.clamp(0.01, 10)

    def _closer(self, before: Numbers, after: Numbers, off: list[Path]) -> Numbers:
        closer = dict(before)
        for path in off:
            target = self.held[path]
            moved = before[path] + (target - after[path]) / self._slopes.get(path, torch.ones_like(target))
            closer[path] = torch.where(target >= 0, moved.clamp(min=0), moved)
        return closer

    def _moved(self, still: Numbers, after: Numbers) -> Tensor:
        """(p,) whether a gradient moved the second moment by more than it fades in a step, or by a thousandth."""
        moved = self.zeros().bool()
        for i, part in self.specimen.slices.items():
            for path, target in self.held.items():
                if path[:2] != ("state", i):
                    continue
                change = (after[path] - still[path]).abs()
                has_moved = ~(change <= torch.maximum(1e-3 * target.abs(), (target - still[path]).clamp(min=0)))
                is_elementwise = target.numel() == self.specimen.params[i].numel()
                moved[part] |= has_moved.reshape(-1) if is_elementwise else has_moved.any()
        return moved
