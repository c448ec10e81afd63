"""A rehearsal of a foreign optimizer: two steps of it on a copy, so that what cannot be trained is refused at once."""

from __future__ import annotations

import torch
from torch import nn

from tightrope.errors import ConfigError, StoreError
from tightrope.optim import ForeignRecipe
from tightrope.problems import Problem

from .optimizer_state import foreign_state

NUM_STEPS = 2


def rehearse(method: ForeignRecipe, problem: Problem) -> None:
    """Raise unless the optimizer can be made, takes steps in place, and its state can be stored.

    Raises:
        ConfigError: it cannot, and why.
    """
    params = copied(problem)
    optimizer = method.build(params)
    take_steps(optimizer, params, NUM_STEPS, method.label)
    for w, original in zip(params, problem.parameters, strict=True):
        if w.dtype != original.dtype or w.untyped_storage().data_ptr() != params[0].untyped_storage().data_ptr():
            raise ConfigError(
                f"method.path: {method.label} must change its parameters in place, as w.add_(...) does; it put other "
                f"memory, {w.dtype}, into a parameter of {original.dtype}."
            )
    try:
        foreign_state(optimizer)
    except StoreError as error:
        raise ConfigError(str(error).replace("checkpoint", "method.path", 1)) from error


def copied(problem: Problem) -> list[nn.Parameter]:
    """The parameters of a problem over other memory: views of one vector, as they are."""
    sizes = [w.numel() for w in problem.parameters]
    parts = problem.w.detach().clone().split(sizes)
    return [nn.Parameter(part.view_as(w)) for part, w in zip(parts, problem.parameters, strict=True)]


def take_steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], num_steps: int, label: str) -> None:
    """Steps on seeded random gradients; the random state is left as it was.

    Raises:
        ConfigError: a step fails.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        for _ in range(num_steps):
            for w in params:
                w.grad = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.dtype)
            try:
                optimizer.step()
            except Exception as error:
                line = " ".join(str(error).split())
                raise ConfigError(
                    f"method.path: {label} must take a step without arguments; it raised {type(error).__name__}: {line}"
                ) from error
