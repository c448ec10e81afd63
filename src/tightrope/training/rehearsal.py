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
    params = _copied(problem)
    places = [w.data_ptr() for w in params]
    optimizer = method.build(params)
    _take_steps(method, optimizer, params)
    for w, place in zip(params, places, strict=True):
        if w.dtype != problem.w.dtype or w.data_ptr() != place:
            raise ConfigError(
                f"method.path: {method.label} must change its parameters in place, as w.add_(...) does; it put other "
                f"memory, {w.dtype}, into a parameter of {problem.w.dtype}."
            )
    try:
        foreign_state(optimizer)
    except StoreError as error:
        raise ConfigError(str(error).replace("checkpoint", "method.path", 1)) from error


def _copied(problem: Problem) -> list[nn.Parameter]:
    """The parameters of a problem over other memory: views of one vector, as they are."""
    sizes = [w.numel() for w in problem.parameters]
    parts = problem.w.detach().clone().split(sizes)
    return [nn.Parameter(part.view_as(w)) for part, w in zip(parts, problem.parameters, strict=True)]


def _take_steps(method: ForeignRecipe, optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> None:
    """Steps on seeded random gradients; the random state is left as it was.

    Raises:
        ConfigError: a step fails.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        for _ in range(NUM_STEPS):
            for w in params:
                w.grad = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.dtype)
            method.step(optimizer)
