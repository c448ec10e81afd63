"""What the figures train: the smallest network with an edge, digits, and the paper's own on CIFAR-10."""

from __future__ import annotations

from typing import Any

from tightrope.training import RunConfig, from_mapping

PAPERS_ADAM: dict[str, Any] = {"eps": 1e-7, "bias_correction": False}

Table = dict[str, Any]


def chebyshev_run(method: Table, num_steps: int = 8000, **settings: Any) -> RunConfig:
    """20 points, 300 parameters, full batch, float64; every 100th step measured, the raw sharpness only if asked for.

    Args:
        method: The `[method]` table.
        num_steps: Of the run.
        settings: Other tables of the configuration, such as `freeze`; `measure` and `problem` are put over what is
            said here.
    """
    return run_on({"name": "chebyshev"}, method, num_steps, 100, **{"dtype": "float64", **settings})


def digits_run(method: Table, num_steps: int, every: int = 50, num_examples: int = 300, **settings: Any) -> RunConfig:
    """Five layers of 200 tanh units on the first of scikit-learn's digits, in mean squared error.

    Of few examples the loss can still be driven down after the network has come to its edge, and steps are cheap.
    """
    problem = {"name": "digits", "num_examples": num_examples}
    return run_on(problem, method, num_steps, every, **settings)


def cifar_run(method: Table, num_steps: int, num_examples: int | None, every: int = 50, **settings: Any) -> RunConfig:
    """The paper's fully-connected network on the first images of CIFAR-10, in mean squared error.

    Cross-entropy, which the paper may have used, is driven to zero before the edge on a few thousand images.
    """
    images = {} if num_examples is None else {"num_examples": num_examples}
    return run_on({"name": "cifar10", **images}, method, num_steps, every, **settings)


def adam(lr: float, beta1: float = 0.9, beta2: float = 0.999) -> Table:
    """The paper's Adam: eps 1e-7, no bias correction."""
    return {"name": "adam", "lr": lr, "beta1": beta1, "beta2": beta2, **PAPERS_ADAM}


def logspace(low: float, high: float, num: int) -> tuple[float, ...]:
    """Numbers evenly spaced on a logarithmic axis, both ends included, to four digits."""
    ratio = (high / low) ** (1 / (num - 1))
    return tuple(float(f"{low * ratio**place:.4g}") for place in range(num))


def run_on(problem: Table, method: Table, num_steps: int, every: int, /, **settings: Any) -> RunConfig:
    """A run on a problem, measured every so many steps without the raw sharpness unless `measure` says otherwise."""
    measure = {"every": every, "sharpness": False, **settings.pop("measure", {})}
    problem = {**problem, **settings.pop("problem", {})}
    return from_mapping({"problem": problem, "method": method, "num_steps": num_steps, "measure": measure, **settings})
