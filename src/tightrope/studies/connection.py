"""Joining a Ray cluster, or saying in one line and a few seconds that none answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tightrope.errors import ConfigError

from .cluster import Cluster, last_line

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 2.0, 7.0
"""Within these a node must take a connection, and then answer as Ray does."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Ray sends nothing anywhere, and says nothing that is not asked."""
JOINED = "joined"
JOIN = f"""
import sys, warnings
warnings.simplefilter("ignore")
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    print(*str(error).split())
else:
    print("{JOINED}")
"""
"""Tried in a process of its own first: where no Ray is, Ray tries for minutes and then ends its process."""


@contextmanager
def connected(address: str, num_workers: int | None = None) -> Iterator[Cluster]:
    """A Ray cluster for the time of the block.

    Args:
        address: HOST:PORT of the head node, from a machine of the cluster; "auto" for the one this machine belongs to;
            "local" for one of this machine alone that ends with the block.
        num_workers: Runs at a time; None for one a core.
    Raises:
        ConfigError: Ray is not installed, or nothing answers there.
    """
    os.environ.update(QUIET)
    ray = _imported()
    if address != "local":
        _check_answers(address)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "CRITICAL"}
    if address == "local":
        options |= {"num_cpus": num_workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**options)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--ray: {address} must be a cluster that can be joined; {last_line(error)}.") from error
    try:
        yield Cluster(ray, num_workers)
    finally:
        ray.shutdown()


def _imported() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError("--ray: needs Ray; it is not installed. Install tightrope[ray].") from error
    return ray


def _check_answers(address: str) -> None:
    """Raise unless Ray answers there, soon."""
    hint = "Name the head node as HOST:PORT, 6379 as a rule; auto, or local for this machine alone."
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ConfigError(f"--ray: must be HOST:PORT, auto or local; got '{address}'. {hint}")
        try:
            socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--ray: nothing answers at {address} ({error}). {hint}") from error
    command = [sys.executable, "-c", JOIN, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER)
        answer = tried.stdout.strip()
    except subprocess.TimeoutExpired:
        answer = f"nothing like Ray said a word in {SECONDS_TO_ANSWER:g} s"
    if answer != JOINED:
        raise ConfigError(f"--ray: no Ray cluster can be joined at {address} ({answer or 'it broke off'}). {hint}")
