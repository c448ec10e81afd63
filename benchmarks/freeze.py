"""What freeze costs on 10M parameters, as a ratio to one step of torch's AdamW beside it, one thread, one process."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tightrope.optim import freeze

from .calibration import median_seconds

LAYOUTS = {"1 x 10,000,000": (1, 10_000_000), "200 x 50,000": (200, 50_000), "2,000 x 5,000": (2_000, 5_000)}
ALLOWED = 5.0


def costs(num_tensors: int, size: int) -> tuple[float, float]:
    """Seconds of a foreach step of AdamW, and of freezing it."""
    params = [torch.nn.Parameter(torch.randn(size)) for _ in range(num_tensors)]
    optimizer = torch.optim.AdamW(params, foreach=True)
    for w in params:
        w.grad = torch.randn(size)
    before = median_seconds(optimizer.step, repeats=7)
    frozen = median_seconds(lambda: freeze(optimizer), repeats=7)
    return (before + median_seconds(optimizer.step, repeats=7)) / 2, frozen


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield f"{'tensors':<16} {'step':>9} {'freeze':>9} {'ratio':>7}"
    for name, (num_tensors, size) in LAYOUTS.items():
        step, frozen = costs(num_tensors, size)
        verdict = "within" if frozen <= ALLOWED * step else "MISS"
        yield f"{name:<16} {step:8.4f}s {frozen:8.4f}s {frozen / step:7.2f}  at most {ALLOWED:g}: {verdict}"
