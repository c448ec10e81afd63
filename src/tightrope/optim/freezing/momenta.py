"""Momenta: which states of an unknown optimizer are momentum and which are second moment or count.

What flips when every gradient flips is momentum; what does not is second moment, or a count; what does neither makes
an optimizer unreadable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from .specimen import Numbers, Path, Specimen

NUM_FRESH_STEPS = 12
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
    logged = {path for path in numbers if path[0] in ("own", "class") and path not in start}
    numbers, flipped = ({path: n for path, n in each.items() if path not in logged} for each in (numbers, flipped))
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
