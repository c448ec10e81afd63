"""The smallest real demonstration: does each method settle at its own threshold, and do we see it exactly?

A tanh network of 300 parameters on 20 points; at every measured step lambda_1 from the dense 300 x 300 Hessian
stands beside the probe's, on the same trajectory, with the P that the step used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tightrope.curvature import Hessian
from tightrope.optim import RECIPES, freeze
from tightrope.problems import Chebyshev
from tightrope.stability import Probe

NO_CORRECTION = {"eps": 1e-7, "bias_correction": False}


@dataclass(frozen=True)
class Row:
    """One method: its recipe, its steps, the mean ratio expected and how far off it may be."""

    method: str
    options: dict[str, float]
    num_steps: int
    expected: float
    tolerance: float = 0.05

    @property
    def label(self) -> str:
        shown = ("lr", "beta1", "beta2", "weight_decay")
        return " ".join([self.method, *(f"{key}={self.options[key]:g}" for key in shown if key in self.options)])


ROWS = (
    Row("gd", {"lr": 0.2}, 8000, 0.997),
    Row("nesterov", {"lr": 0.06, "beta1": 0.9}, 8000, 0.959),
    Row("heavyball", {"lr": 0.2, "beta1": 0.5}, 8000, 0.998),
    Row("heavyball", {"lr": 0.15, "beta1": 0.9}, 8000, 0.893, tolerance=0.08),
    Row("rmsprop", {"lr": 1e-3, "beta2": 0.99, "eps": 1e-7}, 6000, 1.009),
    Row("rmsprop", {"lr": 1e-3, "beta2": 0.999, "eps": 1e-7}, 6000, 1.003),
    Row("adam", {"lr": 1e-3, **NO_CORRECTION}, 8000, 0.993),
    Row("adam", {"lr": 3e-3, **NO_CORRECTION}, 8000, 0.994),
    Row("adam", {"lr": 1e-2, **NO_CORRECTION}, 8000, 0.990),
    Row("adamw", {"lr": 1e-3, "weight_decay": 0.1, **NO_CORRECTION}, 8000, 0.991),
    Row("amsgrad", {"lr": 1e-3, "eps": 1e-7}, 8000, 0.913),
    Row("nadam", {"lr": 1e-3, "eps": 1e-7}, 8000, 1.009),
    Row("padam", {"lr": 1e-2, "eps": 1e-7}, 8000, 0.969),
    Row("adagrad", {"lr": 0.05, "eps": 1e-7}, 4000, 1.006),
)


@dataclass(frozen=True)
class Settled:
    """Means over the second half of a run.

    Attributes:
        dense, ours: Mean ratio from the dense Hessian and from the probe.
        worst: Largest |ours - dense| in units of the probe's own residual; at most 1 where residuals hold.
        products: Mean products of a measurement that is no audit.
        sharpness: First and last raw sharpness.
    """

    dense: float
    ours: float
    worst: float
    products: float
    sharpness: tuple[float, float]


def settle(row: Row, every: int = 100) -> Settled:
    """Run one method and measure both ways every so many steps."""
    problem = Chebyshev().build(0, torch.float64)
    optimizer = RECIPES[row.method](**row.options).build([problem.w])
    probe = Probe(problem.model, problem.loss_fn, params=problem.parameters, has_sharpness=False)
    seen = []
    for step in range(1, row.num_steps + 1):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        if step % every:
            optimizer.step()
            continue
        w = problem.w.detach().clone()
        H = Hessian(problem.model, problem.loss_fn, problem.batch)
        matrix = H @ torch.eye(H.size, dtype=H.dtype)
        optimizer.step()
        half = freeze(optimizer).half_scaling()
        dense = float(torch.linalg.eigvalsh(half[:, None] * matrix * half)[-1])
        seen.append(
            (step, dense, probe.measure(optimizer, problem.batch, w=w), float(torch.linalg.eigvalsh(matrix)[-1]))
        )
    late = [(dense, ours) for step, dense, ours, _ in seen if step > row.num_steps / 2]
    warm = [ours.num_products for _, ours in late if not ours.is_audit]
    return Settled(
        dense=sum(dense for dense, _ in late) / len(late),
        ours=sum(ours.ratio for _, ours in late) / len(late),
        worst=max(abs(ours.ratio - dense) / ours.residual for dense, ours in late),
        products=sum(warm) / len(warm),
        sharpness=(seen[0][3], seen[-1][3]),
    )


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    heads = f"{'known':>7} {'dense':>7} {'ours':>7} {'|ours-dense|/residual':>22} {'products':>9}  raw sharpness"
    yield (f"{'method':<34} {heads}")
    for row in ROWS:
        got = settle(row)
        first, last = got.sharpness
        is_within = abs(got.ours - got.dense) <= 0.03 and abs(got.dense - row.expected) <= row.tolerance
        is_within = is_within and abs(got.ours - row.expected) <= row.tolerance
        yield (
            f"{row.label:<34} {row.expected:7.3f} {got.dense:7.3f} {got.ours:7.3f} {got.worst:22.3f} "
            f"{got.products:9.1f}  {first:.1f} -> {last:.1f}   {'within' if is_within else 'MISS'}"
        )
