"""What a state_dict holds of SAM itself, and loading the rest into the base optimizer: all of it or nothing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import torch

from tightrope.errors import ConfigError, TightropeError

MAX_SEED = 2**62
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=MAX_SEED)]


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the steps so far have left.

    Attributes:
        num_steps, num_ascents: How many there were.
        last_ascent: What num_steps was at the last ascent; None before any.
        seed: Of the masks.
        grad_norm: Norm that the last ascent was divided by; None before any.
    """

    num_steps: Natural
    num_ascents: Natural
    last_ascent: Natural | None
    seed: Seed
    grad_norm: float | None


def memory_of(state_dict: dict[str, Any]) -> Memory:
    """SAM's own part of its state_dict.

    Raises:
        ConfigError: there is none, or it is not what SAM writes.
    """
    try:
        return msgspec.convert(state_dict.get("sam"), Memory)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"SAM: load_state_dict needs the state of SAM; got one with {sorted(map(str, state_dict))} ({error}). "
            "Load the state of a plain optimizer into sam.base."
        ) from error


def load_base(base: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Load into the base the state of an optimizer with the same hyperparameters; else leave it as it was.

    torch itself loads any groups of the right lengths, and the next step then misses what they do not hold.

    Raises:
        ConfigError: the state is of another optimizer or of other parameters.
    """
    state, groups = base.state, base.param_groups
    try:
        base.load_state_dict(state_dict)
        pairs = zip(groups, base.param_groups, strict=True)
        missing = {name for group, new in pairs for name in group.keys() & base.defaults.keys() - new.keys()}
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except TightropeError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        # torch puts new objects in the place of the old ones, which are as they were.
        base.__setstate__({"state": state, "param_groups": groups})
        raise ConfigError(
            f"SAM: load_state_dict needs the state of SAM over {type(base).__name__} and the same parameters; got one "
            f"that does not fit ({error}). Build SAM over the base whose state it is."
        ) from error
