"""What a step of SAM costs in plain steps: forward, backward and optimizer, side by side in one process, one thread.

The model is a tanh network of 777,410 parameters on squared error with AdamW. A period of every=5 is five steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn

from tightrope.optim import SAM
from tightrope.problems import fully_connected, half_squared_error

ALLOWED = {1: 2.05, 5: 1.25}
"""Plain steps that a step may cost on the average, by how often it ascends."""


def work(model: nn.Module, batch: tuple[Tensor, Tensor], every: int | None) -> Callable[[], None]:
    """Five training steps: plain ones, or of SAM that ascends every so many."""
    base = torch.optim.AdamW(model.parameters(), lr=1e-4)
    optimizer = base if every is None else SAM(base, every=every)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = half_squared_error(model(batch[0]), batch[1])
        loss.backward()
        return loss

    def five_steps() -> None:
        for _ in range(5):
            optimizer.step(closure)

    return five_steps


def costs(num_examples: int, rounds: int) -> dict[int, float]:
    """Median over rounds of the ratio to plain steps taken just before and just after, by how often SAM ascends."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(num_examples, 3072, generator=generator), torch.randn(num_examples, 10, generator=generator)
    works = {
        every: work(fully_connected(3072, (200,) * 5, 10, "tanh", generator), (x, y), every) for every in (None, 1, 5)
    }
    ratios: dict[int, list[float]] = {1: [], 5: []}
    for run in works.values():
        run()
    for _ in range(rounds):
        for every, found in ratios.items():
            before, taken, after = (seconds(works[key]) for key in (None, every, None))
            found.append(2 * taken / (before + after))
    return {every: median(found) for every, found in ratios.items()}


def seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def lines(rounds: int = 15) -> Iterator[str]:
    torch.set_num_threads(1)
    yield f"{'examples a step':<16} {'ascends':>14} {'plain steps':>12} {'allowed':>8}"
    for num_examples in (128, 1000):
        for every, cost in costs(num_examples, rounds).items():
            name = "every step" if every == 1 else f"every {every}th"
            verdict = "within" if cost <= ALLOWED[every] else "MISS"
            yield f"{num_examples:<16} {name:>14} {cost:12.3f} {ALLOWED[every]:8.2f}  {verdict}"
