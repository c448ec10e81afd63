"""The smallest real demonstration: does each method settle at its own threshold, and do we see it exactly?

A tanh network of 300 parameters on 20 points; at every measured step lambda_1 from the dense 300 x 300 Hessian
stands beside the probe's, on the same trajectory, with the P that the step used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from tightrope.curvature import Hessian
from tightrope.optim import RECIPES, SAM, Frozen, SharpnessAware, freeze, sam_threshold
from tightrope.problems import Chebyshev, Problem
from tightrope.stability import Measurement, Probe

NO_CORRECTION = {"eps": 1e-7, "bias_correction": False}


@dataclass(frozen=True)
class Row:
    """One method: its recipe, its steps, the mean ratio expected and how far off it may be.

    With `sam` the ratio is lambda_1(H) over SAM's edge at the gradient norm of the same step, and `plain` is where
    lambda_1(H) is expected against the threshold of the method beneath.
    """

    method: str
    options: dict[str, float]
    num_steps: int
    expected: float
    tolerance: float = 0.05
    sam: SharpnessAware | None = None
    plain: float | None = None

    @property
    def label(self) -> str:
        shown = ("lr", "beta1", "beta2", "weight_decay")
        words = [self.method, *(f"{key}={self.options[key]:g}" for key in shown if key in self.options)]
        return " ".join([*words, *([self.sam.label] if self.sam else [])])


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
    Row("gd", {"lr": 0.1}, 8000, 1.003, sam=SharpnessAware(rho=0.02), plain=0.306),
    Row("gd", {"lr": 0.1}, 8000, 1.008, sam=SharpnessAware(rho=0.05), plain=0.173),
)


@dataclass(frozen=True)
class Look:
    """One measured step: the probe's measurement, and from the dense Hessian the ratio and lambda_1.

    `factor` is c of SAM's ascent, None without SAM.
    """

    step: int
    dense: float
    sharpness: float
    ours: Measurement
    factor: float | None

    @property
    def shares(self) -> tuple[float, float]:
        """The ratio from the dense Hessian and from the probe; for SAM, lambda_1(H) over its edge from each."""
        if self.factor is None:
            return self.dense, self.ours.ratio
        K = self.ours.threshold
        edge = sam_threshold(K, self.factor)
        # With P = I the probe's ratio is (lambda + c lambda^2) / K; the threshold of that is lambda again.
        return self.sharpness / edge, sam_threshold(self.ours.ratio * K, self.factor) / edge


@dataclass(frozen=True)
class Settled:
    """Means over the second half of a run.

    Attributes:
        dense, ours: Mean ratio from the dense Hessian and from the probe; for SAM, of lambda_1(H) over its edge.
        worst: Largest |ours - dense| in units of the probe's own residual; at most 1 where residuals hold.
        products: Mean products of a measurement that is no audit.
        sharpness: First and last raw sharpness.
        plain: Mean of lambda_1(H) over the threshold of the method without SAM or preconditioner.
    """

    dense: float
    ours: float
    worst: float
    products: float
    sharpness: tuple[float, float]
    plain: float


def settle(row: Row, every: int = 100) -> Settled:
    """Run one method and measure both ways every so many steps."""
    problem = Chebyshev().build(0, torch.float64)
    optimizer = RECIPES[row.method](**row.options).build([problem.w])
    optimizer = row.sam.wrap(optimizer) if row.sam else optimizer
    probe = Probe(problem.model, problem.loss_fn, params=problem.parameters, has_sharpness=False)
    looks = []
    for step in range(1, row.num_steps + 1):
        differentiate(problem, optimizer)
        if step % every:
            optimizer.step()
            continue
        w = problem.w.detach().clone()
        H = Hessian(problem.model, problem.loss_fn, problem.batch)
        matrix = H @ torch.eye(H.size, dtype=H.dtype)
        optimizer.step()
        frozen = freeze(optimizer)
        dense, sharpness = dense_ratio(frozen, matrix), float(torch.linalg.eigvalsh(matrix)[-1])
        factor = frozen.ascent.factor if frozen.ascent else None
        looks.append(Look(step, dense, sharpness, probe.measure(frozen, problem.batch, w=w), factor))
    late = [look for look in looks if look.step > row.num_steps / 2]
    return Settled(
        dense=mean(look.shares[0] for look in late),
        ours=mean(look.shares[1] for look in late),
        worst=max(abs(look.ours.ratio - look.dense) / look.ours.residual for look in late),
        products=mean(look.ours.num_products for look in late if not look.ours.is_audit),
        sharpness=(looks[0].sharpness, looks[-1].sharpness),
        plain=mean(look.sharpness / look.ours.threshold for look in late),
    )


def differentiate(problem: Problem, optimizer: torch.optim.Optimizer) -> None:
    """Leave the gradient that the optimizer steps with in the flat gradient."""
    problem.gradient.zero_()
    problem.loss_fn(problem.model, problem.batch).backward()
    if isinstance(optimizer, SAM):
        with optimizer.ascent():
            problem.loss_fn(problem.model, problem.batch).backward()


def dense_ratio(frozen: Frozen, matrix: Tensor) -> float:
    """lambda_1(D^1/2 T(H) D^1/2) from H itself."""
    half = frozen.half_scaling()
    T = matrix if frozen.ascent is None else matrix + frozen.ascent.factor * matrix @ matrix
    return float(torch.linalg.eigvalsh(half[:, None] * T * half)[-1])


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    heads = f"{'known':>7} {'dense':>7} {'ours':>7} {'|ours-dense|/residual':>22} {'products':>9}  raw sharpness"
    yield (f"{'method':<34} {heads}")
    for row in ROWS:
        got = settle(row)
        first, last = got.sharpness
        is_within = abs(got.ours - got.dense) <= 0.03 and abs(got.dense - row.expected) <= row.tolerance
        is_within = is_within and abs(got.ours - row.expected) <= row.tolerance
        is_within = is_within and (row.plain is None or abs(got.plain - row.plain) <= row.tolerance)
        yield (
            f"{row.label:<34} {row.expected:7.3f} {got.dense:7.3f} {got.ours:7.3f} {got.worst:22.3f} "
            f"{got.products:9.1f}  {first:.1f} -> {last:.1f}"
            f"{'' if row.plain is None else f' (lambda_1 lr / 2 = {got.plain:.3f}, known {row.plain})'}   "
            f"{'within' if is_within else 'MISS'}"
        )
