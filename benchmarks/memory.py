"""Peak memory of a measurement over that of a training step (forward, backward, Adam), all tensors counted.

Counted are the allocations of torch's CPU allocator as its profiler sees them, on top of what lives before and after:
weights, data, Adam's state and, at a measurement, the gradients and what the probe starts from. The high-water mark
of a child process is printed beside them; it also sees the buffers of libraries. A budget, `max_bytes`, is for what a
measurement holds beside what was there before.

Legend: p = number of parameters.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tightrope.curvature import Hessian
from tightrope.errors import ConfigError
from tightrope.stability import Probe

from .contenders import Task, tasks

ALLOWED = 2.5
EXAMPLES = {"MLP": 2000, "CNN": 250, "transformer": 16}
BUDGETS = (4.0, 2.5, 1.0)
MB = 1e6


def extra_bytes(call: Callable[[], object]) -> tuple[float, float]:
    """The most that is allocated during a call, and what is left of it at its end while its result lives."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    events = recorded.profiler.kineto_results.events()
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most, now


def nbytes(tensors: Sequence[object]) -> int:
    return sum(x.nbytes for x in tensors if isinstance(x, Tensor))


def scenes() -> dict[str, Task]:
    """The three models, the CNN on fewer images than elsewhere: time, not memory, is short."""
    found = {}
    for model, task in tasks().items():
        n = EXAMPLES[model]
        found[model] = Task(task.model, task.criterion, task.inputs[:n].clone(), task.targets[:n].clone())
    return found


class Scene:
    """A task in training with Adam, one step done."""

    def __init__(self, task: Task) -> None:
        self.task, self.parameters = task, list(task.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3)
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.task.loss_fn(self.task.model, self.task.batch).backward()
        self.optimizer.step()

    @property
    def resident(self) -> int:
        """Bytes that live before a step; gradients come with it."""
        state = [x for each in self.optimizer.state.values() for x in each.values()]
        return nbytes([*self.parameters, *self.task.batch, *state])

    def step_bytes(self) -> float:
        self.optimizer.zero_grad()
        return self.resident + extra_bytes(self.step)[0]

    def probe(self, **settings: object) -> Probe:
        return Probe(self.task.model, self.task.loss_fn, **settings)

    def measurement_bytes(self, probe: Probe) -> float:
        before = self.resident + nbytes([w.grad for w in self.parameters]) + nbytes(list(probe.state_dict().values()))
        return before + extra_bytes(lambda: probe.measure(self.optimizer, self.task.batch))[0]


def shares(scene: Scene) -> tuple[float, float, float, float, float]:
    """Bytes of a step, of the kept graph, and of a measurement: audited, warm, and warm without the raw sharpness."""
    step = scene.step_bytes()
    graph = extra_bytes(lambda: Hessian(scene.task.model, scene.task.loss_fn, scene.task.batch))[1]
    probe, lean = scene.probe(), scene.probe(has_sharpness=False)
    audit, _ = scene.measurement_bytes(probe), lean.measure(scene.optimizer, scene.task.batch)
    return step, graph, audit, scene.measurement_bytes(probe), scene.measurement_bytes(lean)


def within_budget(scene: Scene, budget: float) -> tuple[str, float, float]:
    """The route that a budget leads to, and the bytes of a first measurement, with its check, and of a warm one."""
    probe, seen = scene.probe(max_bytes=budget), []
    try:
        first = extra_bytes(lambda: seen.append(probe.measure(scene.optimizer, scene.task.batch)))[0]
        warm = extra_bytes(lambda: seen.append(probe.measure(scene.optimizer, scene.task.batch)))[0]
        return f"{seen[-1].route}; {seen[0].status.replace('_', ' ')}", first, warm
    except ConfigError:
        return "refused: its vectors, or its smallest graph, take more", 0.0, 0.0


def high_water(model: str, what: str) -> float | None:
    """Bytes by which a child process grew at its highest; None where the system does not say."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.memory", model, what]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return None if output.strip() == "None" else float(output)


def grown(call: Callable[[], object]) -> float | None:
    """Of this process in a call, after one to fill the caches of libraries."""
    call()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(key)).split()[1])


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    yield "| model | step, MB | graph | audit | warm | ratio only | audit / step | warm / step | child: step, warm | |"
    yield "|---" * 10 + "|"
    steps = {}
    for model, task in scenes().items():
        step, graph, audit, warm, lean = shares(Scene(task.copied()))
        steps[model] = step
        cells = " | ".join(f"{each / MB:.0f}" for each in (step, graph, audit, warm, lean))
        children = ", ".join("?" if x is None else f"+{x / MB:.0f}" for x in map(high_water, [model] * 2, CHILDREN))
        words = "within" if max(audit, warm) <= ALLOWED * step else "MISS"
        yield f"| {model} | {cells} | {audit / step:.2f} | {warm / step:.2f} | {children} | {words}"
    yield ""
    yield "| model | budget, MB | route and status of the first | first | warm | |"
    yield "|---" * 6 + "|"
    for model, task in scenes().items():
        for share in BUDGETS:
            budget = share * steps[model]
            route, first, warm = within_budget(Scene(task.copied()), budget)
            words = "" if not warm else "within" if max(first, warm) <= budget else "MISS"
            sizes = f"{first / MB:.0f} | {warm / MB:.0f}"
            yield f"| {model} | {budget / MB:.0f} ({share:g} steps) | {route} | {sizes} | {words}"


CHILDREN = ("step", "warm")


def main() -> None:
    model, what = sys.argv[1:]
    torch.set_num_threads(1)
    scene = Scene(scenes()[model])
    probe = scene.probe()
    if what == "warm":
        probe.measure(scene.optimizer, scene.task.batch)
    calls = {"step": scene.step, "warm": lambda: probe.measure(scene.optimizer, scene.task.batch)}
    print(grown(calls[what]))


if __name__ == "__main__":
    main()
