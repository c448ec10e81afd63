"""With what code, and when, a run goes on: versions, threads and the state of the working directory."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import version
from typing import Any


def environment() -> dict[str, Any]:
    """When and with what code a run goes on; columns of `start` and `resumed` events."""
    import torch  # not at the top: listing runs needs none of it

    return {
        "time": time.time(),
        "versions": versions(),
        "num_threads": torch.get_num_threads(),
        "git": git_state(),
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    import torch

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
