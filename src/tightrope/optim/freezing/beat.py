"""Beat: whether an optimizer's steps follow a rhythm that one frozen step does not show.

Lookahead every k steps, gradients gathered over k of them, a learning rate raised every tenth step: each step may be
linear, and none describes the run. A thin copy is carried on, count by count with its second moment held, and its
method read anew at each. What a method changes with its counts alone is a bias correction or a schedule: that rises
and falls, but not again and again.

A rhythm longer than the walk, and of which no number in the optimizer tells the length, is not seen. The edge of a
run moves by about ln(gain) / period then, where a beat multiplies the fastest mode by gain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError

from .identification import finding, held
from .linear_step import LinearStep, ratio
from .specimen import Path
from .trials import Bench

NUM_STEPS = 128
MAX_PERIOD = 512
MAX_TURNS = 2
RTOL_TURN = 1e-6
BEAT = "its steps follow a rhythm that no single step shows"


def check_beat(optimizer: torch.optim.Optimizer, names: tuple[Path, ...], memory: int | None) -> None:
    """Raise where the method does not go on as it is now for some hundred steps.

    Args:
        optimizer: Left alone.
        names: Its momentum states.
        memory: The one of them its step depends on.
    Raises:
        UnsupportedOptimizerError: a step to come is not linear, or its size or momentum rise and fall repeatedly.
    Cost:
        Some 500 to 4000 steps of a copy that holds at most a few of the smallest parameters.
    """
    bench = Bench(optimizer, names, is_thin=True)
    scale = bench.natural_scale()
    bench.find_clock(scale)
    turns = _Turns()
    try:
        for _ in range(_num_steps(bench)):
            turns.add(_reading(bench, memory, scale))
            if turns.are_many():
                raise UnsupportedOptimizerError("the size of its steps, its momentum or its decay come and go")
            if not bench.tick(scale):
                raise UnsupportedOptimizerError("it makes a new memory")
    except UnsupportedOptimizerError as error:
        raise UnsupportedOptimizerError(f"{BEAT} ({turns.num_steps} steps on: {error})") from error


def _num_steps(bench: Bench) -> int:
    """Twice the longest period that a whole number in the optimizer could be."""
    periods = [
        int(number)
        for path, number in bench.held.items()
        if path[0] in ("group", "own", "class") and number.ndim == 0 and number == number.round()
        if 2 <= number <= MAX_PERIOD and not bench.is_clock(path)
    ]
    return max(NUM_STEPS, 2 * max(periods, default=0) + 2)


def _reading(bench: Bench, memory: int | None, scale: Tensor) -> Tensor:
    """The numbers of the method at this count: momentum and decay of each group, and the size of steps by element."""
    x0, zero = bench.momenta(), bench.zeros()
    sign = torch.ones_like(zero)
    sign[1::2] = -1
    x1, dw = held(bench.trial(x0, zero, scale * sign))
    E, A, B, C = ratio(dw, scale * sign), zero, zero, zero
    if memory is not None:
        B = ratio(x1[memory], scale * sign)
        x = x0.clone()
        x[memory] = torch.where(B * scale != 0, B * scale, scale)
        x1, dw = held(bench.trial(x, zero, zero))
        A, C = ratio(x1[memory], x[memory]), ratio(dw, x[memory])
    w = 0.1 * scale * (2 + sign)
    x1, dw = held(bench.trial(x0, w, zero))
    K = zero if memory is None else ratio(x1[memory], w)
    step = LinearStep(memory, A, B, C, E, ratio(dw, w), K)
    numbers = [torch.log(-E[E != 0])]
    for j, at in bench.parts().items():
        lr = float(bench.specimen.groups[j]["lr"])
        found = finding(step, at, lr)
        numbers.append(zero.new_tensor([found.momentum.beta, found.momentum.discount, lr * found.weight_decay]))
    return torch.cat(numbers)


class _Turns:
    """How often each of some numbers has turned from rising to falling or back."""

    def __init__(self) -> None:
        self.num_steps = -1
        self._last = self._direction = self._count = torch.zeros(0)

    def add(self, numbers: Tensor) -> None:
        self.num_steps += 1
        if self.num_steps == 0:
            self._last, self._direction, self._count = (numbers, *numbers.new_zeros(2, len(numbers)))
            return
        if len(numbers) != len(self._last):
            raise UnsupportedOptimizerError("some of what moved stands still")
        change = numbers - self._last
        direction = torch.where(change.abs() > RTOL_TURN, change.sign(), self._direction)
        self._count = self._count + ((direction * self._direction) < 0)
        self._last, self._direction = numbers, direction

    def are_many(self) -> bool:
        return bool((self._count > MAX_TURNS).any())
