"""The problem of a run as it is trained: built, where it is to lie, and refused where no step could be taken on it."""

from __future__ import annotations

import torch

from tightrope.errors import ConfigError
from tightrope.problems import Problem

from .config import RunConfig

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build_problem(config: RunConfig) -> Problem:
    """Model, data and loss of a run, where they are to lie.

    Raises:
        ConfigError: the device is not here, the problem does not fit in memory, or its examples do not fit the batches.
        DataError: its files are missing or damaged.
    """
    device = _device(config.device)
    try:
        problem = config.problem.build(config.seed, DTYPES[config.dtype]).on(device)
    except (MemoryError, RuntimeError) as error:
        raise ConfigError(f"problem: must fit in memory; got {error or 'too large a one'}. Make it smaller.") from error
    if config.batch_size is not None and config.batch_size > problem.num_examples:
        raise ConfigError(
            f"batch_size: must be at most the {problem.num_examples} examples; got {config.batch_size}. "
            "Leave it out for full batch."
        )
    size = config.batch_size or problem.num_examples
    if config.sam is not None and size % config.sam.micro_batches:
        raise ConfigError(
            f"sam.micro_batches: must divide the {size} examples of a batch, so that their mean is the batch's; got "
            f"{config.sam.micro_batches}. Set batch_size."
        )
    return problem


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)  # whether it is there shows when something is put on it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"device: must be one that torch has here; got '{name}' ({why}). Use cpu.") from error
    return device
