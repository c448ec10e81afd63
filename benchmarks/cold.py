"""From nothing to the largest eigenvalue within 1 %, by each library's own stopping rule, after 50 steps of Adam.

First of P^-1 H, for whom it can be asked: tightrope, curvlinops through scipy, hessian-eigenthings through its
LambdaOperator. Then of H, which is all that PyHessian takes. The truth is scipy's eigsh on plain double backward in
float64. A row that is off by more than 1 % says so, whatever its stopping rule said; how fast it was does not count.

Legend: H = Hessian, P = preconditioner, half = P^-1/2.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from scipy.sparse import diags_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh, lobpcg
from torch import Tensor, nn

from tightrope.curvature import Hessian, LossFn, Scaled, top_eigenvalues
from tightrope.optim import freeze

from .contenders import Task, curvlinops, eigenthings, is_installed, plain_attention, pyhessian, tasks
from .rivals import interleaved_seconds

EXAMPLES = {"MLP": 500, "CNN": 200, "transformer": 8}
FASTER, ALLOWED_ERROR = 3.0, 0.01
ROUNDS = 3
MOST_RESTARTS = 5
"""Of eigsh, each of about 20 products: as many as PyHessian allows itself. Its own default is ten times p."""

Solve = Callable[[Task, Tensor], float]


def trained(task: Task, num_examples: int) -> tuple[Task, Tensor]:
    """The task on its first examples after 50 full-batch steps of Adam, and (p,) the P that Adam has then."""
    task = Task(
        copy.deepcopy(task.model), task.criterion, task.inputs[:num_examples], task.targets[:num_examples].contiguous()
    )
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        task.loss_fn(task.model, task.batch).backward()
        optimizer.step()
    optimizer.zero_grad()
    P = freeze(optimizer).P
    assert P is not None
    return task, P


def truth(model: nn.Module, loss_fn: LossFn, batch: tuple[Tensor, ...], half: Tensor, tol: float = 1e-4) -> float:
    """Of half H half in float64, by a solver and products that are not ours."""
    model, half = copy.deepcopy(model).double(), half.double()
    batch = tuple(x.double() if x.is_floating_point() else x for x in batch)
    parameters = list(model.parameters())
    with plain_attention():
        g = torch.autograd.grad(loss_fn(model, batch), parameters, create_graph=True)
        flat = torch.cat([part.reshape(-1) for part in g])

        def matvec(v: Any) -> Any:
            x = half * torch.from_numpy(v.reshape(-1)).to(half.device)
            Hx = torch.autograd.grad(flat, parameters, x, retain_graph=True)
            return (half * torch.cat([part.reshape(-1) for part in Hx])).cpu().numpy()

        operator = LinearOperator((len(half), len(half)), matvec=matvec, dtype=float)
        return float(eigsh(operator, k=1, which="LA", tol=tol, return_eigenvectors=False)[0])


def ours(rtol: float = 1e-2, bound_rtol: float | None = None) -> Solve:
    def solve(task: Task, half: Tensor) -> float:
        H = Hessian(task.model, task.loss_fn, task.batch)
        return float(top_eigenvalues(Scaled(H, half), rtol=rtol, bound_rtol=bound_rtol).values[0])

    return solve


def by_eigsh(tol: float) -> Solve:
    def solve(task: Task, half: Tensor) -> float:
        S = aslinearoperator(diags_array(half.double().cpu().numpy()))
        return float(eigsh(S @ curvlinops(task).to_scipy() @ S, k=1, which="LA", tol=tol, maxiter=MOST_RESTARTS)[0][0])

    return solve


def by_lobpcg(task: Task, half: Tensor) -> float:
    S = aslinearoperator(diags_array(half.double().cpu().numpy()))
    start = torch.randn(len(half), 1, dtype=torch.float64).numpy()
    return float(lobpcg(S @ curvlinops(task).to_scipy() @ S, start, largest=True)[0][0])


def by_eigenthings(algorithm: str, **settings: Any) -> Solve:
    import hessian_eigenthings

    def solve(task: Task, half: Tensor) -> float:
        H = eigenthings(task)
        half = half.to(H.dtype)
        operator = hessian_eigenthings.LambdaOperator(
            lambda v: half * H.matvec(half * v), size=H.size, device=H.device, dtype=H.dtype
        )
        found = getattr(hessian_eigenthings, algorithm)(operator, **settings)
        return found[0] if isinstance(found, tuple) else float(found.eigenvalues[0])

    return solve


def by_pyhessian(has_loader: bool) -> Solve:
    def solve(task: Task, half: Tensor) -> float:
        found = float(pyhessian(task, has_loader).eigenvalues()[0][0])
        task.model.zero_grad()  # it leaves a graph in the gradients
        return found

    return solve


def preconditioned() -> dict[str, Solve]:
    """Who can be asked for P^-1 H."""
    found = {
        "tightrope": ours(),
        "tightrope, rtol=0.1": ours(0.1),
        "tightrope, upper bound within 5 % too": ours(bound_rtol=0.05),
    }
    if is_installed("curvlinops"):
        found |= {
            "curvlinops, scipy eigsh": by_eigsh(0),
            "curvlinops, scipy eigsh, tol=1e-2": by_eigsh(1e-2),
            "curvlinops, scipy lobpcg": by_lobpcg,
        }
    if is_installed("hessian-eigenthings"):
        found |= {
            "hessian-eigenthings, lanczos": by_eigenthings("lanczos", seed=0),
            "hessian-eigenthings, lanczos, k=1": by_eigenthings("lanczos", k=1, seed=0),
            "hessian-eigenthings, power iteration": by_eigenthings("power_iteration_one", seed=0),
        }
    return found


def plain() -> dict[str, Solve]:
    """Who can be asked for H."""
    found = {"tightrope": ours(), "tightrope, rtol=0.1": ours(0.1)}
    if is_installed("PyHessian data="):
        found |= {"PyHessian data=": by_pyhessian(False), "PyHessian dataloader=": by_pyhessian(True)}
    return found


def rows(
    model: str,
    name: str,
    task: Task,
    half: Tensor,
    solves: dict[str, Solve],
    clock: Callable[[], float] = time.process_time,
    rounds: int = ROUNDS,
) -> Iterator[str]:
    """One for each way to find one eigenvalue of one model."""
    expected = truth(task.model, task.loss_fn, task.batch, half)
    values: dict[str, float] = {}
    with plain_attention():
        for label, solve in solves.items():
            try:
                values[label] = solve(task, half)
            except (RuntimeError, NotImplementedError) as failure:
                yield f"| {model} | {name} | {label} | | | | {type(failure).__name__}: {str(failure)[:60]}"
        calls = {label: lambda solve=solves[label]: solve(task, half) for label in values}
        seconds = interleaved_seconds(calls, rounds, clock, is_warm=True)
    for label, value in values.items():
        error, times = abs(value - expected) / expected, seconds[label] / seconds["tightrope"]
        words = "" if error <= ALLOWED_ERROR else "wrong"
        if label == "tightrope":
            words = words and f"{words} MISS"
        elif not words and not label.startswith("tightrope") and times < FASTER:
            words = f"ours is not {FASTER:g}x faster MISS"
        yield f"| {model} | {name} | {label} | {seconds[label]:.2f} | {times:.1f} | {100 * error:.2g} % | {words}"


def lines() -> Iterator[str]:
    for num_threads, rounds, clock in ((1, ROUNDS, time.process_time), (2, 1, time.perf_counter)):
        torch.set_num_threads(num_threads)
        yield f"{num_threads} thread{'s, wall time' if num_threads > 1 else ''}:"
        yield "| model | operator | by | seconds | of ours | error | |"
        yield "|---|---|---|---|---|---|---|"
        for model, task in tasks().items():
            torch.manual_seed(0)
            task, P = trained(task, EXAMPLES[model])
            yield from rows(model, "P^-1 H", task, P.rsqrt(), preconditioned(), clock=clock, rounds=rounds)
            yield from rows(model, "H", task, torch.ones_like(P), plain(), clock=clock, rounds=rounds)
    for contender in ("PyHessian data=", "curvlinops", "hessian-eigenthings"):
        if not is_installed(contender):
            yield f"{contender.removesuffix(' data=')}: not installed"
