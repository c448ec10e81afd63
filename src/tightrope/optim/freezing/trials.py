"""Trials of an unknown optimizer: steps from any momentum, weights and gradient, with its second moment held still.

Held means: before a trial the second moment is set so that AFTER the trial step it is what the user's optimizer holds
now, and counts are what they were in its last step.

Legend: x = momenta (k, p), w = weights (p,), g = gradient (p,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_step import ratio
from .specimen import Numbers, Path, Specimen

NOT_HELD = "its second moment cannot be held still by choosing what it was before a step"
NUM_TRIES = 30
NUM_FITS = 4
RTOL_HELD = 1e-9
TINY = 1e-30
LOW, HIGH = -140, 15  # powers of ten between which gradients are looked for
NOTHING = 1e-60  # what may be left where a second moment is 0: far below any eps squared
ROUNDING = 1e-6  # what the user's float32 may have rounded a second moment by


class Bench:
    """Trials of one optimizer, its second moment held at what it is now.

    Args:
        optimizer: Left alone.
        names: Its momentum states.
        is_thin: As for `Specimen`.

    Attributes:
        held: What is held, by path.
        size: Number of elements it moves.
        w: (p,) the weights as they are.
        x: (k, p) the momenta as they are.
        stuck: (p,) where the last trial that failed could not hold the second moment, or left a weight not finite.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: tuple[Path, ...], *, is_thin: bool = False) -> None:
        self.specimen, self.names = Specimen(optimizer, is_thin=is_thin), names
        self.size, self.w = self.specimen.size, self.specimen.weights()
        odd = {("state", i, *name) for i in self.specimen.active for name in names}
        numbers = self.specimen.numbers()
        self.held = {path: number for path, number in numbers.items() if path not in odd}
        self.x, self.stuck = self._read(numbers), self.zeros().bool()
        if not any(path[0] == "state" for path in self.held):
            self.specimen.step(self.zeros(), self.zeros())  # it makes its momenta in its first step
        self._odd = odd & self.specimen.numbers().keys()
        self._before = dict(self.held)
        self._slopes: Numbers = {}
        self._clock: list[Path] = []

    def zeros(self) -> Tensor:
        """(p,)"""
        return torch.zeros(self.size, dtype=torch.float64, device=self.specimen.device)

    def momenta(self) -> Tensor:
        """(k, p) zeros."""
        return self.zeros().expand(len(self.names), -1).clone()

    def tangent(self, vector: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        """(p,) a vector with next to no share along w in every row of every parameter, at most `scale` everywhere.

        What is taken off is spread by scale squared: an element without gradients gets none from its row.
        """
        parts = []
        for i, part in self.specimen.slices.items():
            rows = self.specimen.params[i].shape[0] if self.specimen.params[i].ndim > 1 else 1
            size = scale[part].view(rows, -1)
            v, along = ratio(vector[part].view(rows, -1), size), w[part].view(rows, -1) * size
            along = along / along.abs().amax(1, keepdim=True).clamp(min=1e-300)
            share = (v * along).sum(1) / along.square().sum(1).clamp(min=TINY)
            v = v - (1 - 1e-4) * along * share[:, None]
            parts.append((size * v / v.abs().amax(1, keepdim=True).clamp(min=1)).reshape(-1))
        return torch.cat(parts)

    def trial(self, x: Tensor, w: Tensor, g: Tensor, *, is_rounded: bool = False) -> tuple[Tensor, Tensor] | None:
        """Momenta after one held step, and the change of the weights; None where holding is not possible.

        Args:
            is_rounded: Where the least that any step leaves is above what is held by a rounding, hold that instead.
        """
        before, last = self._before, None
        for _ in range(NUM_TRIES):
            after, dw = self._step(before, x, w, g)
            if not (self.held.keys() <= after.keys() and bool(dw.isfinite().all())):
                self.stuck = ~dw.isfinite()
                return None
            off = self._off(after)
            if not off:
                self._before = before
                return self._read(after), dw
            self._learn_slopes(before, after, last)
            last = before, after
            before = self._closer(before, after, off)
        self.stuck = self._elements({path: self._distance(after, path) > 0 for path in off})
        is_near = all(self.held[path].ndim and not (self._distance(after, path, ROUNDING) > 0).any() for path in off)
        if not (is_rounded and is_near):
            return None
        self.held |= {path: after[path] for path in off}
        self._before, self._slopes = self._before | {path: after[path] for path in off}, {}
        return self._read(after), dw

    def fitted(
        self, x: Tensor, w: Tensor, g: Tensor, *, is_rounded: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Momenta and gradient, smaller where they would not be held, and what a trial of them gives."""
        outcome = self.trial(x, w, g, is_rounded=is_rounded)
        for _ in range(NUM_FITS):
            if outcome is not None or not bool(self.stuck.any()):
                break
            x, g = torch.where(self.stuck, 1e-3 * x, x), torch.where(self.stuck, 1e-3 * g, g)
            outcome = self.trial(x, w, g, is_rounded=is_rounded)
        return x, g, outcome

    def natural_scale(self) -> Tensor:
        """(p,) size of the gradients that keep the second moment where it is, 1 where nothing depends on it.

        A second moment that never fades has none: there it is what moves it by a thousandth. Where a step from
        nothing leaves as much already, it is what can be held; 0 where P is infinite, so that nothing moves.
        """
        x, zero = self.momenta(), self.zeros()
        still, _ = self._step(self.held, x, zero, zero)
        least = self._moved(still, self._step(self.held, x, zero, zero + 10.0**LOW)[0])
        # What moves with the direction of a gradient, whatever its size, says nothing about sizes.
        paths = [path for path in least if self._is_elementwise(path) or not bool(least[path].any())]
        low, high = zero + LOW, zero + HIGH
        for _ in range(11):
            middle = (low + high) / 2
            all_moved = self._moved(still, self._step(self.held, x, zero, 10**middle)[0])
            moved = self._elements({path: all_moved[path] for path in paths})
            low, high = torch.where(moved, low, middle), torch.where(moved, middle, high)
        scale = 0.9 * torch.where(high == HIGH, torch.ones_like(low), 10**low)
        _, scale, outcome = self.fitted(x, zero, scale, is_rounded=True)
        smaller = None if outcome is None else self.trial(x, zero, scale / 2)
        if outcome is None or smaller is None:
            return scale
        vanishes = (smaller[1] / scale * 2).abs() < 0.9 * (outcome[1] / scale).abs()
        is_blank = self._elements({path: held == 0 for path, held in self.held.items() if self._is_elementwise(path)})
        return torch.where(vanishes & is_blank, zero, scale)

    def parts(self) -> dict[int, Tensor]:
        """Indices of the elements of each group that has any."""
        parts: dict[int, list[Tensor]] = {}
        owner = {id(w): j for j, group in enumerate(self.specimen.groups) for w in group["params"]}
        for i, part in self.specimen.slices.items():
            at = torch.arange(part.start, part.stop, device=self.specimen.device)
            parts.setdefault(owner[id(self.specimen.params[i])], []).append(at)
        return {j: torch.cat(each) for j, each in sorted(parts.items())}

    def is_clock(self, path: Path) -> bool:
        """Whether a number moves on by itself."""
        return path in self._clock

    def find_clock(self, scale: Tensor) -> None:
        """Learn which of the held numbers move on by themselves, whatever the gradient."""
        x, zero = self.momenta(), self.zeros()
        (first, _), (second, _) = (self._step(self.held, x, zero, g) for g in (scale, zero))
        self._clock = [
            path
            for path, held in self.held.items()
            if held.ndim == 0 and first[path] == second[path] and first[path] != held
        ]

    def tick(self, scale: Tensor) -> bool:
        """Hold the clock where the next step leaves it, the second moment where it was; False if a state appears."""
        after, _ = self._step(self.held, self.momenta(), self.zeros(), scale)
        self._before |= {path: self.held[path] for path in self._clock}
        self.held |= {path: after[path] for path in self._clock}
        return all(path in self.held or path in self._odd for path in after if path[0] == "state")

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
        off = [path for path in self.held if bool((self._distance(after, path) > 0).any())]
        return [path for path in off if self.held[path].ndim == 0] or off

    def _distance(self, after: Numbers, path: Path, rtol: float = RTOL_HELD) -> Tensor:
        """By how much more than rounding a number differs from what is held; infinity where it is none."""
        target = self.held[path]
        allowed = torch.where(target == 0, NOTHING, rtol * target.abs())
        return ((after[path] - target).abs() - allowed).nan_to_num(nan=float("inf"))

    def _learn_slopes(self, before: Numbers, after: Numbers, last: tuple[Numbers, Numbers] | None) -> None:
        """How a number after a step follows the number before it, from two steps."""
        for path in self.held if last else ():
            run = before[path] - last[0][path]  # type: ignore[index]
            rise = after[path] - last[1][path]  # type: ignore[index]
            known = self._slopes.get(path, torch.ones_like(run))
            # Below a floor nothing follows: then go on in longer steps until something does, and back from there.
            slope = torch.where(run == 0, known, torch.where(rise == 0, known / 4, rise / run))
            has_crossed = (after[path] > self.held[path]) != (last[1][path] > self.held[path])  # type: ignore[index]
            slope = torch.where(has_crossed & (slope < 0.5), torch.ones_like(slope), slope)
            self._slopes[path] = slope.nan_to_num(nan=1.0).clamp(1e-4, 10)

    def _closer(self, before: Numbers, after: Numbers, off: list[Path]) -> Numbers:
        closer = dict(before)
        for path in off:
            target = self.held[path]
            moved = before[path] + (target - after[path]) / self._slopes.get(path, torch.ones_like(target))
            is_square = (target >= 0) & self._is_elementwise(path)
            closer[path] = torch.where(is_square, moved.clamp(min=0), moved)
        return closer

    def _is_elementwise(self, path: Path) -> bool:
        return path[0] == "state" and self.held[path].numel() == self.specimen.params[int(str(path[1]))].numel()

    def _moved(self, still: Numbers, after: Numbers) -> dict[Path, Tensor]:
        """Whether a gradient moved a second moment by more than it fades in a step, or by a thousandth."""
        moved = {}
        for path, target in self.held.items():
            if path[0] == "state":
                allowed = torch.maximum(1e-3 * target.abs(), (target - still[path]).clamp(min=0)).clamp(min=NOTHING)
                moved[path] = ~((after[path] - still[path]).abs() <= allowed)
        return moved

    def _elements(self, flags: dict[Path, Tensor]) -> Tensor:
        """(p,) the elements that flags of some states concern."""
        marked = self.zeros().bool()
        for path, flag in flags.items():
            if path[0] == "state":
                part = self.specimen.slices[int(str(path[1]))]
                marked[part] |= flag.reshape(-1) if self._is_elementwise(path) else flag.any()
        return marked
