"""Reading: what one parameter group says of its frozen linear method, and how a state is read safely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError

from ..momentum import Momentum

NOT_STEPPED = "the optimizer has no preconditioner before its first step; call optimizer.step() once, then measure."


@dataclass(frozen=True)
class Reading:
    """What one parameter group says of itself.

    Attributes:
        momentum: Its linear momentum rule.
        is_decoupled: Whether decay acts on the weights directly instead of being added to the gradient.
        diagonal: A parameter -> its P in the parameter's shape, positive; None for the identity. A new tensor.
        is_ready: Whether a parameter has what P is read from; None where P is known from the start.
        weight_decay: Decay per unit of lr; None for the group's own `weight_decay`.
        unready: What to do where no parameter is ready.
        condition: What else is held fixed as it was at the last step, in words.
    """

    momentum: Momentum
    is_decoupled: bool = False
    diagonal: Callable[[Tensor], Tensor | None] = lambda w: None
    is_ready: Callable[[Tensor], bool] | None = None
    weight_decay: float | None = None
    unready: str = NOT_STEPPED
    condition: str = ""

    def has_state(self, w: Tensor) -> bool:
        """Whether P is known for a parameter."""
        return self.is_ready is None or self.is_ready(w)


Reader = Callable[[Any, dict[str, Any]], Reading]


def holds(optimizer: torch.optim.Optimizer, *names: str, is_shaped: bool = True) -> Callable[[Tensor], bool]:
    """Whether a parameter has been moved; refuses a state that is half there or another optimizer's.

    Args:
        names: What its state holds then.
        is_shaped: Whether the last of it has the shape of the parameter.
    """

    def is_ready(w: Tensor) -> bool:
        state = optimizer.state.get(w)
        if not state:
            return False
        kind, missing = type(optimizer).__name__, [name for name in names if name not in state]
        if missing:
            raise ConfigError(
                f"the state of {kind} must hold {', '.join(missing)}; it holds {', '.join(map(str, state))}. Load the "
                f"state of the same {kind}, or clear optimizer.state and take a step."
            )
        if "step" in names and int(state["step"]) == 0:
            return False  # every step so far was skipped, as GradScaler does
        shape = state[names[-1]].shape
        if is_shaped and shape != w.shape:
            raise ConfigError(
                f"the state of {kind} must have the parameter's shape {tuple(w.shape)}; got {tuple(shape)}. Load the "
                "state of the same model."
            )
        return True

    return is_ready


def wide(value: Tensor) -> Tensor:
    """A state in float32 at least: what is computed from half precision is not rounded to it."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def eps_of(group: dict[str, Any], w: Tensor) -> float:
    """What a step adds to the denominator: torch adds it in the parameter's dtype, unless it is fused."""
    eps = float(group["eps"])
    is_half = w.dtype in (torch.float16, torch.bfloat16) and not group.get("fused")
    return float(torch.tensor(eps, dtype=w.dtype)) if is_half else eps
