"""What a run was made with: versions, machine, sizes and the state of the code, stored in its events."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import version
from typing import Any

import msgspec
import torch

from tightrope.optim import TRAITS, Constant, Momentum
from tightrope.problems import Problem
from tightrope.store import FORMAT

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
        "preconditioner": method.formula,
        "threshold": _lasting_threshold(config),
        "data": problem.digest(),
        "traits": _traits(config),
    }


def _lasting_threshold(config: RunConfig) -> float | None:
    """The threshold on lambda_1(P^-1 H) where one and the same holds, without conditions, at every step."""
    method = config.method
    is_constant = isinstance(config.schedule, Constant) and isinstance(method.momentum_rule, Momentum)
    if not is_constant or config.sam is not None or config.clipping is not None:
        return None
    return method.stability_threshold()


def _traits(config: RunConfig) -> dict[str, str]:
    is_uphill = config.sam is not None and config.sam.rho > 0
    traits = TRAITS["sam" if is_uphill else str(config.method.__struct_config__.tag)]
    plain: dict[str, str] = msgspec.to_builtins(traits)
    return plain


def environment() -> dict[str, Any]:
    """When and with what code a run goes on; columns of `start` and `resumed` events."""
    return {
        "time": time.time(),
        "versions": versions(),
        "num_threads": torch.get_num_threads(),
        "git": git_state(),
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {"tightrope": version("tightrope"), "torch": torch.__version__, "python": platform.python_version()}


def git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether files in it differ from that; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "has_changes": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
