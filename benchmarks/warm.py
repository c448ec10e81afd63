"""Products of a warm measurement of the ratio, every 10 steps on digits, audits counted apart.

The top direction persists between two measurements where the cosine of the two is above 0.9. At the edge of
RMSProp several modes take turns at the top, and a measurement that finds another one costs more.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import torch

from tightrope.optim import RECIPES
from tightrope.problems import Digits
from tightrope.stability import Measurement, Probe

METHODS = {
    "rmsprop": {"lr": 1e-4, "eps": 1e-7},
    "adam": {"lr": 4e-4, "beta2": 0.99, "eps": 1e-7, "bias_correction": False},
}
PERSISTS = 0.9


def measurements(name: str, num_steps: int, every: int) -> Iterator[tuple[Measurement, float]]:
    """Each measurement on the way to the edge, and the cosine of its top direction with the last one's."""
    problem = Digits().build(0, torch.float32)
    optimizer = RECIPES[name](**METHODS[name]).build([problem.w])
    probe = Probe(problem.model, problem.loss_fn, params=problem.parameters, has_sharpness=False)
    last = torch.zeros_like(problem.w)
    for step in range(1, num_steps + 1):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        w = problem.w.detach().clone() if step % every == 0 else None
        optimizer.step()
        if w is not None:
            m = probe.measure(optimizer, problem.batch, w=w)
            top = probe.top_direction
            yield m, float((last @ top).detach().abs())
            last = top


def lines(num_steps: int = 400, every: int = 10) -> Iterator[str]:
    torch.set_num_threads(2)
    heads = ("persisting", "products", "all warm", "products", "audits", "products")
    yield (f"{'method':<10}" + "".join(f"{head:>11}" for head in heads))
    for name in METHODS:
        seen = list(measurements(name, num_steps, every))
        warm = [(m.num_products, cosine) for m, cosine in seen if not m.is_audit]
        audits = [m.num_products for m, _ in seen if m.is_audit]
        steady = [products for products, cosine in warm if cosine > PERSISTS]
        every_one = [products for products, _ in warm]
        verdict = "within" if mean(steady) <= 5 else "MISS"
        cells = (len(steady), mean(steady), len(warm), mean(every_one), len(audits), mean(audits))
        yield (
            f"{name:<10}" + "".join(f"{cell:>11.4g}" for cell in cells) + f"   at most 5 while it persists: {verdict}"
        )
