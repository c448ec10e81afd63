"""One Hessian-vector product in gradients on the same data, beside other libraries, all calls taken in turn.

The floor is what the kept graph must compute: flops of the product over those of the gradient, in plain torch.
Times are medians of process time with one thread and of wall time with two, for there process time counts both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from tightrope.curvature import Hessian

from .contenders import PACKAGES, Task, is_installed, plain_attention, product, rival, tasks

OVER_FLOOR = {"MLP": 1.1, "CNN": 1.15, "transformer": 1.3}
FASTER = 1.6
ROUNDS = 11


def interleaved_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float], is_warm: bool = False
) -> dict[str, float]:
    """Median seconds of each call, taken in turn (A B C A B C ...) so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in () if is_warm else calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            times[name].append(clock() - began)
    return {name: median(each) for name, each in times.items()}


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


def ratios(task: Task, num_threads: int, rounds: int = ROUNDS) -> dict[str, float]:
    """A product in gradients, of each contender that is installed."""
    torch.set_num_threads(num_threads)
    with plain_attention():
        calls = {name: product(name, task) for name in PACKAGES if is_installed(name)}
        calls["gradient"] = task.gradient
        seconds = interleaved_seconds(calls, rounds, time.process_time if num_threads == 1 else time.perf_counter)
    unit = seconds.pop("gradient")
    return {name: each / unit for name, each in seconds.items()}


def verdict(name: str, measured: dict[str, float], least: float) -> str:
    """Which of the three aims are missed."""
    ours = measured["tightrope"]
    slower = [rival for rival in measured if rival not in ("tightrope", "PyHessian data=")]
    misses = [f"over {OVER_FLOOR[name]} floors"] if ours > OVER_FLOOR[name] * least else []
    misses += [f"slower than {each}" for each in ("PyHessian data=",) if ours > measured.get(each, ours)]
    misses += [f"not {FASTER}x {each}" for each in slower if measured[each] < FASTER * ours]
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
            measured = ratios(task, num_threads)
            cells = [f"{measured[name]:.2f}" if name in measured else "not installed" for name in names]
            words = verdict(model, measured, least)
            yield f"| {model} | {num_threads} | {least:.2f} | " + " | ".join(cells) + f" | {words}"
    yield ""
    yield "On default attention:"
    yield from attention_lines()
