"""Products of a warm measurement every 10 steps for 300 steps of Adam, from below 0.7 to the edge and along it.

Every crossing of 1 is in the window, with what its audit costs; the cold start lies before it. Each ratio is held
against scipy's eigsh on plain double backward in float64 at the same weights and the same P: `worst` is the largest
difference in units of the residual reported with it, and at most 1 where every residual held.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from statistics import mean

import torch

from tightrope.optim import RECIPES, freeze
from tightrope.parameters import trainable, write
from tightrope.problems import Digits
from tightrope.stability import Measurement, Probe

from .cold import truth
from .warm import METHODS

FIRST, EVERY, NUM = 80, 10, 30
ALLOWED = 6


def measurements() -> Iterator[tuple[Measurement, float]]:
    """Each measurement of the window and the true ratio there."""
    problem = Digits().build(0, torch.float32)
    optimizer = RECIPES["adam"](**METHODS["adam"]).build([problem.w])
    probe = Probe(problem.model, problem.loss_fn, params=problem.parameters, has_sharpness=False)
    exact = copy.deepcopy(problem.model)
    for step in range(1, FIRST + EVERY * (NUM - 1) + 1):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        is_due = step % EVERY == 0 and step >= FIRST - EVERY
        w = problem.w.detach().clone() if is_due else None
        optimizer.step()
        if w is not None:
            m = probe.measure(optimizer, problem.batch, w=w)
            if step >= FIRST:
                write(list(trainable(exact).values()), w)
                yield m, truth(exact, problem.loss_fn, problem.batch, freeze(optimizer).half_scaling(), tol=1e-6)


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    seen = list(measurements())
    ratios, warm = [m.ratio for m, _ in seen], [m.num_products for m, _ in seen if not m.is_audit]
    audits = [m.num_products for m, _ in seen if m.is_audit]
    crossings = sum((a < 1) != (b < 1) for a, b in pairwise(ratios))
    worst = max(abs(m.ratio - true) / m.residual for m, true in seen)
    error = max(abs(m.ratio - true) / true for m, true in seen)
    average = mean(m.num_products for m, _ in seen)
    yield "| ratio, first -> last | crossings | warm | products | audits | products | all together | worst | error | |"
    yield "|---" * 10 + "|"
    yield (
        f"| {ratios[0]:.2f} -> {ratios[-1]:.2f} | {crossings} | {len(warm)} | {mean(warm):.1f} | {len(audits)} | "
        f"{mean(audits) if audits else 0:.1f} | {average:.1f} | {worst:.2f} | {100 * error:.2g} % | "
        f"{'within' if average <= ALLOWED and worst <= 1 else 'MISS'}"
    )
