"""What a run was made with: its method, sizes and data, stored in its first event."""

from __future__ import annotations

from typing import Any

import msgspec

from tightrope.optim import TRAITS, Constant
from tightrope.problems import Problem
from tightrope.store import FORMAT, environment

from .config import RunConfig


def describe(config: RunConfig, problem: Problem) -> dict[str, Any]:
    """Columns of the `start` event."""
    method = config.method
    return {
        "format": FORMAT,
        **environment(),
        "device": str(problem.w.device),
        "seed": config.seed,
        "num_parameters": problem.w.numel(),
        "num_examples": problem.num_examples,
        "method": config.label,
        **({"code": method.code} if method.code else {}),
        "preconditioner": method.formula,
        "threshold": _lasting_threshold(config),
        "data": problem.digest(),
        "traits": _traits(config),
    }


def _lasting_threshold(config: RunConfig) -> float | None:
    """The threshold on lambda_1(P^-1 H) where one and the same holds, without conditions, at every step."""
    if not isinstance(config.schedule, Constant) or config.sam is not None or config.clipping is not None:
        return None
    return config.method.constant_threshold


def _traits(config: RunConfig) -> dict[str, str]:
    is_uphill = config.sam is not None and config.sam.rho > 0
    traits = TRAITS["sam" if is_uphill else str(config.method.__struct_config__.tag)]
    plain: dict[str, str] = msgspec.to_builtins(traits)
    return plain
