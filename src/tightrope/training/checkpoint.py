"""A checkpoint: one file that holds a run between two steps, replaced as a whole.

Tensors are stored as safetensors, everything else as JSON in the same file's header; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tightrope.errors import StoreError
from tightrope.store import ARRAYS, CHECKPOINT, CONFIG, replace_file

VERSION = "1"
"""Of what a checkpoint holds; raised whenever an older one can no longer be taken up."""

State = dict[str, Any]
"""Nested dicts with text keys; the leaves are tensors, numbers, text, None, or lists of those without tensors."""


def save(run: Path, state: Mapping[str, Any]) -> None:
    """Replace a run's checkpoint.

    Raises:
        StoreError: it cannot be written; the former one stays.
    Cost:
        One copy of the tensors in memory, and the disk's time to take them.
    """
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_split(state, "", tensors))
    header = {"version": VERSION, "state": rest, "digest": _digest(rest, tensors)}
    content = safetensors.torch.save(tensors, header)
    _write(run, run / CHECKPOINT, content)


def save_arrays(run: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Write `arrays/NAME.safetensors` of a run.

    Raises:
        StoreError: it cannot be written.
    """
    _write(run, run / ARRAYS / f"{name}.safetensors", safetensors.torch.save(tensors))


def load(run: Path) -> State | None:
    """A run's checkpoint, or None where it has none.

    Raises:
        StoreError: it is damaged, or written by a version that this one cannot take up.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # A copy: what the file maps into memory need not be aligned as the tensors of a running process are.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        version, text = header.get("version"), header.get("state", "null")
        rest = json.loads(text)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise StoreError(
            f"checkpoint: {path} must be whole; {error}. Put it back, or run anew: tightrope run {run / CONFIG}"
        ) from error
    if version != VERSION:
        raise StoreError(
            f"checkpoint: {path} must be of version {VERSION}; got {version}. Resume with the tightrope that wrote "
            f"it, or run anew: tightrope run {run / CONFIG}"
        )
    if header.get("digest") != _digest(text, tensors):
        raise StoreError(
            f"checkpoint: {path} must be whole; its digest does not match, so bytes were changed. Put it back, or run "
            f"anew: tightrope run {run / CONFIG}"
        )
    for name, tensor in tensors.items():
        _put(rest, name.split("/"), tensor)
    return dict(rest)


def _write(run: Path, path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise StoreError(
            f"checkpoint: {path} must be writable; {error.strerror or error}. What was there before stays: make room, "
            f"then `tightrope resume {run}`."
        ) from error


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of everything a checkpoint holds: the file format has none of its own, and a flipped bit would go unseen."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _split(state: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> State:
    """The state without its tensors, which go into `tensors` under their path."""
    rest: State = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value.detach().contiguous()
        else:
            rest[name] = _split(value, f"{prefix}{name}/", tensors) if isinstance(value, Mapping) else value
    return rest


def _put(state: State, path: list[str], tensor: Tensor) -> None:
    *folders, name = path
    for folder in folders:
        state = state[folder]
    state[name] = tensor
