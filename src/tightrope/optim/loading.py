"""Loading a state_dict: into a GradientMethod, into SAM and into its base, what fits them or nothing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from tightrope.errors import ConfigError, TightropeError

from .momentum import MomentumRule
from .preconditioner import PreconditionerRule, State

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


def check_loadable(groups: list[dict[str, Any]], state_dict: dict[str, Any]) -> None:
    """Raise where a state_dict, which brings its rules along, is none of a GradientMethod over these groups.

    Raises:
        ConfigError: it is not.
    """
    all_loaded = state_dict.get("param_groups", [])
    sizes, loaded_sizes = ([len(group["params"]) for group in each] for each in (groups, all_loaded))
    if sizes != loaded_sizes:
        raise ConfigError(
            f"GradientMethod: load_state_dict needs groups of {sizes} parameters; got {loaded_sizes}. {_LOADABLE}"
        )
    for number, (group, loaded) in enumerate(zip(groups, all_loaded, strict=True)):
        kinds = {"momentum": MomentumRule, "preconditioner": PreconditionerRule}
        for name, kind in kinds.items():
            if not isinstance(loaded.get(name), kind):
                raise ConfigError(
                    f"GradientMethod: load_state_dict needs a {kind.__name__} as {name} of group {number}; got "
                    f"{loaded.get(name)!r}. {_LOADABLE}"
                )
        for w, key in zip(group["params"], loaded["params"], strict=True):
            _check_loadable_state(loaded, w, state_dict["state"].get(key, {}))


def _check_loadable_state(group: dict[str, Any], w: Tensor, state: dict[str, Any]) -> None:
    fresh: State = group["preconditioner"].init(w, 0)
    names = {"step", "preconditioner_step", *fresh, *(["m"] if group["momentum"].needs_state else [])}
    if state and set(state) != names:
        raise ConfigError(
            f"GradientMethod: load_state_dict needs {', '.join(sorted(names))} of a parameter; got "
            f"{', '.join(sorted(map(str, state)))}. {_LOADABLE}"
        )
    expected = {"step": 0, "preconditioner_step": 0, "m": w, **fresh}
    for name, part in state.items():
        if _form(part) != _form(expected[name]):
            raise ConfigError(
                f"GradientMethod: load_state_dict needs {name} {_form(expected[name])}; got one {_form(part)}. "
                f"{_LOADABLE}"
            )


def _form(part: Any) -> str:
    """Of what kind a part of the state is, in words."""
    return f"of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"of type {type(part).__name__}"


_LOADABLE = "Load what such a method saved over the same parameters."
