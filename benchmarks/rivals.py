"""One Hessian-vector product in gradients on the same data, beside other libraries, all calls taken in turn.

The floor is what the kept graph must compute: flops of the product over those of the gradient, in plain torch.
Times are medians of process time with one thread and of wall time with two, for there process time counts both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median, stdev

import torch
from torch.utils.flop_counter import FlopCounterMode

from tightrope.curvature import Hessian

from .contenders import PACKAGES, Task, is_installed, plain_attention, product, rival, tasks

OVER_FLOOR = {"MLP": 1.1, "CNN": 1.15, "transformer": 1.3}
FASTER = 1.6
SLOWER = ("PyHessian dataloader=", "curvlinops", "hessian-eigenthings")
ROUNDS = 11


def interleaved_times(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float], is_warm: bool = False
) -> dict[str, list[float]]:
    """Seconds of each call in each round, taken in turn (A B C A B C ...) so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in () if is_warm else calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            times[name].append(clock() - began)
    return times


def interleaved_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float], is_warm: bool = False
) -> dict[str, float]:
    """Medians of `interleaved_times`."""
    return {name: median(each) for name, each in interleaved_times(calls, rounds, clock, is_warm).items()}


def paired(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Median over rounds of ours over theirs, and its standard error (1.25 that of a mean)."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return median(ratios), 1.25 * stdev(ratios) / math.sqrt(len(ratios))


def flops(call: Callable[[], object]) -> int:
    """Of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def floor(task: Task) -> float:
    """Flops of one backward pass through a kept gradient over those of the gradient, in plain torch."""
    task = task.copied()
    parameters = list(task.model.parameters())
    with plain_attention():
        g = torch.autograd.grad(task.loss_fn(task.model, task.batch), parameters, create_graph=True)
        v = [torch.ones_like(w) for w in parameters]
        return flops(lambda: torch.autograd.grad(g, parameters, v, retain_graph=True)) / flops(task.gradient)


def products(task: Task, num_threads: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of a product in each round, of each contender that is installed, and of a gradient."""
    torch.set_num_threads(num_threads)
    with plain_attention():
        calls = {name: product(name, task) for name in PACKAGES if is_installed(name)}
        calls["gradient"] = task.gradient
        return interleaved_times(calls, rounds, time.process_time if num_threads == 1 else time.perf_counter)


def verdict(model: str, times: dict[str, list[float]], least: float) -> str:
    """Which of the three aims are missed. Slower than PyHessian, which does the same arithmetic, is by two errors."""
    ours = median(times["tightrope"]) / median(times["gradient"])
    misses = [f"over {OVER_FLOOR[model]} floors"] if ours > OVER_FLOOR[model] * least else []
    for name in times:
        ratio, error = paired(times["tightrope"], times[name])
        if name == "PyHessian data=" and ratio - 2 * error > 1:
            misses.append(f"{ratio:.3f} +- {error:.3f} of {name}")
        if name in SLOWER and ratio > 1 / FASTER:
            misses.append(f"only {1 / ratio:.2f}x faster than {name}")
    return f"{'; '.join(misses)} MISS" if misses else "within"


def attention_lines() -> Iterator[str]:
    """Who works on attention as torch runs it by default."""
    task = tasks()["transformer"]
    v = torch.randn(sum(w.numel() for w in task.model.parameters()))
    H = Hessian(task.model, task.loss_fn, task.batch)
    yield f"| tightrope | {'works' if bool((H @ v).isfinite().all()) else 'MISS'} |"
    for name in PACKAGES:
        if name != "tightrope":
            yield f"| {name} | {_outcome(name, task, v) if is_installed(name) else 'not installed'} |"


def _outcome(name: str, task: Task, v: torch.Tensor) -> str:
    try:
        rival(name, task.copied())(v)
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    return "works"


def lines() -> Iterator[str]:
    names = list(PACKAGES)
    yield "| model | threads | floor | " + " | ".join(names) + " | |"
    yield "|---" * (len(names) + 4) + "|"
    for model, task in tasks().items():
        least = floor(task)
        for num_threads in (1, 2):
            times = products(task, num_threads)
            unit = median(times["gradient"])
            cells = [f"{median(times[name]) / unit:.2f}" if name in times else "not installed" for name in names]
            words = verdict(model, times, least)
            yield f"| {model} | {num_threads} | {least:.2f} | " + " | ".join(cells) + f" | {words}"
    yield ""
    yield "On default attention:"
    yield from attention_lines()
