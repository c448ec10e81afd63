"""Trajectories of the library's own methods on small problems, for figures that need no training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tightrope.optim import FixedDiagonal, GradientMethod
from tightrope.problems import Chebyshev, Problem, Quadratic

Make = Callable[[Iterable[nn.Parameter]], GradientMethod]


def on_parabola(
    make: Make, num_steps: int, *, start: float = 1.0, state: dict[str, float] | None = None
) -> list[float]:
    """Positions 0 to num_steps of a method on x^2 / 2, in float64.

    Args:
        make: The method, over the parameters it is given.
        start: Position 0.
        state: What the method remembers before its first step, such as {"nu": 1.0}; by default nothing.
    """
    path: list[float] = followed(make, num_steps, start=start, state=state)["x"].tolist()
    return path


def followed(
    make: Make,
    num_steps: int,
    *,
    start: float = 1.0,
    state: dict[str, float] | None = None,
    names: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Positions "x" of a method on x^2 / 2, and numbers that it remembers, (num_steps + 1,) each.

    Args:
        make, num_steps, start: As for `on_parabola`.
        state: What the method remembers before its first step.
        names: What to follow of it, such as "nu"; each stands in `state`.
    """
    problem = Quadratic(start=(start,)).build(0, torch.float64)
    optimizer = make([problem.w])
    if state is not None:
        memory = {name: torch.full_like(problem.w, value) for name, value in state.items()}
        optimizer.state[problem.w] = {"step": 0, "preconditioner_step": 0, **memory}
    columns: dict[str, list[float]] = {"x": [start], **{name: [(state or {})[name]] for name in names}}
    for _ in range(num_steps):
        _gradient(problem)
        optimizer.step()
        columns["x"].append(float(problem.w.detach()))
        for name in names:
            columns[name].append(float(optimizer.state[problem.w][name]))
    return {name: np.array(column) for name, column in columns.items()}


def reparameterised(make: Callable[..., GradientMethod], num_steps: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two runs on the Chebyshev network that Proposition 1 says are one, (num_steps + 1, p) each, in float64.

    The first is the method with P, its path x_t multiplied by P^1/2; the second the method without P on
    f(P^-1/2 x), from P^1/2 x_0. P is diagonal and drawn between e^-1 and e, log-uniformly.

    Args:
        make: (params, preconditioner=) -> the method; without a preconditioner for the second run.
        num_steps: At least 1.
        seed: Of the weights and of P.
    """
    problem = Chebyshev().build(seed, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    P = torch.exp(2 * torch.rand(problem.w.numel(), generator=generator, dtype=torch.float64) - 1)
    first = _path(problem, make([problem.w], preconditioner=FixedDiagonal(P)), num_steps)
    stretched = Chebyshev().build(seed, torch.float64)
    x = nn.Parameter(P.sqrt() * stretched.w.detach())
    optimizer = make([x])
    second = [x.detach().clone()]
    for _ in range(num_steps):
        with torch.no_grad():
            stretched.w.copy_(x / P.sqrt())
        x.grad = _gradient(stretched) / P.sqrt()
        optimizer.step()
        second.append(x.detach().clone())
    return torch.stack(first) * P.sqrt(), torch.stack(second)


def _path(problem: Problem, optimizer: GradientMethod, num_steps: int) -> list[Tensor]:
    path = [problem.w.detach().clone()]
    for _ in range(num_steps):
        _gradient(problem)
        optimizer.step()
        path.append(problem.w.detach().clone())
    return path


def _gradient(problem: Problem) -> Tensor:
    problem.gradient.zero_()
    problem.loss_fn(problem.model, problem.batch).backward()
    return problem.gradient
