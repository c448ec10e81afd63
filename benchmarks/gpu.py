"""The same tables on a GPU: a transformer of 34 million bfloat16 weights; a product, a cold measurement, the memory.

Ours computes curvature in float32 from weights in half precision; the others compute in the weights' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from tightrope.curvature import hessian, top_eigenvalues
from tightrope.stability import Probe

from .cold import plain, preconditioned, rows, trained
from .contenders import PACKAGES, Criterion, Task, is_installed, plain_attention, product
from .products import Transformer
from .rivals import interleaved_seconds

BUDGETS = (2.0, 1.0, 0.5)
ROUNDS = 7


def transformer_task(device: str, width: int = 512, num_blocks: int = 8, vocabulary: int = 8192, n: int = 8) -> Task:
    """Next-token prediction on random tokens, sequence 256."""
    torch.manual_seed(0)
    model = Transformer(width, num_blocks, width // 64, vocabulary, 256).to(device, torch.bfloat16)
    tokens = torch.randint(vocabulary, (n, 257), device=device)
    return Task(model, Criterion(False), tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def now() -> float:
    """Wall-clock seconds, all work on the device done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def product_rows(task: Task) -> Iterator[str]:
    """A product in gradients; what a library says where it cannot."""
    yield "| by | a product, gradients |"
    yield "|---|---|"
    calls: dict[str, Callable[[], object]] = {"gradient": task.gradient}
    failures = {}
    with plain_attention():
        for name in filter(is_installed, PACKAGES):
            try:
                calls[name] = product(name, task)
                calls[name]()
            except (RuntimeError, NotImplementedError) as error:
                calls.pop(name, None)
                failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        seconds = interleaved_seconds(calls, ROUNDS, now)
    for name in PACKAGES:
        measured = f"{seconds[name] / seconds['gradient']:.2f}" if name in seconds else None
        yield f"| {name} | {measured or failures.get(name, 'not installed')} |"


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that was allocated on the GPU at any moment of a call, what lived before included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def memory_rows(task: Task) -> Iterator[str]:
    """Of a step, of measurements, and of a cold solve within a budget beyond what lives anyway."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        task.loss_fn(task.model, task.batch).backward()
        optimizer.step()

    step()
    whole, probe = peak_bytes(step), Probe(task.model, task.loss_fn)
    yield "| what | MB | of a step | |"
    yield "|---|---|---|---|"
    yield f"| a training step | {whole / 1e6:.0f} | 1 | |"
    for label in ("first measurement, an audit", "warm measurement"):
        peak = peak_bytes(lambda: probe.measure(optimizer, task.batch))
        words = "within" if peak <= 2.5 * whole else "MISS"
        yield f"| {label} | {peak / 1e6:.0f} | {peak / whole:.2f} | {words}"
    for share in BUDGETS:
        budget, before = share * whole, torch.cuda.memory_allocated()
        peak = peak_bytes(
            lambda budget=budget: top_eigenvalues(hessian(task.model, task.loss_fn, task.batch, max_bytes=budget))
        )
        words = "within" if peak - before <= budget else "MISS"
        yield f"| cold solve, max_bytes of {share:g} steps | {(peak - before) / 1e6:.0f} beyond | | {words}"


def tables(task: Task) -> Iterator[str]:
    """Products, then cold measurements, of one task wherever it lives."""
    yield from product_rows(task)
    yield ""
    yield "| model | operator | by | seconds | of ours | error | |"
    yield "|---|---|---|---|---|---|---|"
    task, P = trained(task, len(task.inputs))
    yield from rows("transformer", "P^-1 H", task, P.rsqrt(), preconditioned(), now)
    yield from rows("transformer", "H", task, torch.ones_like(P), plain(), now)


def lines() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield "There is no GPU here."
        return
    task = transformer_task("cuda")
    size = sum(w.numel() for w in task.model.parameters())
    yield f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {size:,} parameters"
    yield from tables(task)
    yield ""
    yield from memory_rows(transformer_task("cuda"))
