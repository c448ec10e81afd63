"""Checkpoints of other people's loops: read without ever unpickling code, and put into a model and optimizer."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tightrope.doctor import blame
from tightrope.errors import StoreError

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
WEIGHT_KEYS = ("model", "model_state_dict", "state_dict")
OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states")
PREFIXES = ("module.", "model.", "_orig_mod.")
"""Of data parallel wrappers, of Lightning, and of torch.compile."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: Of the file.
        weights: By name.
        optimizer: State of the optimizer, as `load_state_dict` takes it; None where the file has none.
    """

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Any] | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file, or one of torch's with nothing in it but tensors and plain containers.

    Raises:
        StoreError: there is none, it is damaged, of another kind, holds more than that, or no weights.
    """
    if path.is_dir():
        raise StoreError(f"checkpoint: {path} must be a file; it is a directory. Name a file in it.")
    if not path.is_file():
        raise StoreError(f"checkpoint: {path} must be a file; there is none.")
    if path.suffix == ".safetensors":
        return Checkpoint(path, _safetensors(path), None)
    if path.suffix not in TORCH_SUFFIXES:
        raise StoreError(
            f"checkpoint: {path} must end in .safetensors, {', '.join(TORCH_SUFFIXES)}; got '{path.suffix}'."
        )
    content = _torch(path)
    weights = next((content[key] for key in WEIGHT_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {name: x for name, x in weights.items() if isinstance(x, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise StoreError(
            f"checkpoint: {path} must hold weights, as a state dict or under {', '.join(WEIGHT_KEYS)}; it holds {keys}."
        )
    return Checkpoint(path, tensors, _optimizer_state(content))


def put_into(checkpoint: Checkpoint, model: nn.Module, optimizer: Any) -> list[str]:
    """Load the weights, and the optimizer's state where there is one.

    Returns:
        Sentences on what is not as a reader would expect.
    Raises:
        StoreError: names or shapes do not match.
    """
    state = model.state_dict()
    weights = {
        mine: checkpoint.weights[theirs] for mine, theirs in _matched(state, checkpoint.weights).items() if theirs
    }
    _check(checkpoint, state, weights)
    model.load_state_dict(weights, strict=False)
    if checkpoint.optimizer is None:
        return ["The file holds no optimizer state: the optimizer is as it was built."]
    try:
        optimizer.load_state_dict(checkpoint.optimizer)
    except Exception as error:
        raise StoreError(
            f"checkpoint: the optimizer's state in {checkpoint.path} must be that of the optimizer built; "
            f"{blame(error)}. Build the same optimizer over the same parameters."
        ) from error
    return []


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"checkpoint: {path} must be a whole safetensors file; {error}.") from error


def _torch(path: Path) -> dict[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"checkpoint: {path} must hold tensors and plain containers only, for code is never unpickled; it holds "
            "something else, or is damaged. Save model.state_dict() and optimizer.state_dict() with torch.save."
        ) from error
    except Exception as error:
        raise StoreError(f"checkpoint: {path} must be a whole file of torch.save; {blame(error)}.") from error
    if not isinstance(content, Mapping):
        raise StoreError(f"checkpoint: {path} must hold a dict; it holds {type(content).__name__}.")
    return dict(content)


def _optimizer_state(content: Mapping[Any, Any]) -> dict[str, Any] | None:
    state = next((content[key] for key in OPTIMIZER_KEYS if content.get(key)), None)
    if isinstance(state, list):
        state = state[0]  # Lightning's: one for each optimizer
    return state if isinstance(state, dict) and "param_groups" in state else None


def _matched(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, str | None]:
    """For each name of the model the file's name of the same tensor, once wrappers' prefixes are off both."""
    bare = {_bare(name): name for name in weights}
    candidates = (
        {name: name if name in weights else None for name in state},
        {name: bare.get(_bare(name)) for name in state},
    )
    return max(candidates, key=lambda found: sum(theirs is not None for theirs in found.values()))


def _bare(name: str) -> str:
    """A name without the prefixes that wrappers put before it."""
    name = name.replace("_orig_mod.", "")
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _check(checkpoint: Checkpoint, state: Mapping[str, Tensor], weights: dict[str, Tensor]) -> None:
    """One line that names the first mismatch and counts them."""
    held = {state[name].data_ptr() for name in weights}
    # A tied weight is stored under one of its names.
    wrong = [f"lacks '{name}'" for name in state if name not in weights and state[name].data_ptr() not in held]
    wrong += [
        f"has '{name}' as {tuple(x.shape)} where the model has {tuple(state[name].shape)}"
        for name, x in weights.items()
        if x.shape != state[name].shape
    ]
    num_more = len(checkpoint.weights) - len(weights)
    if num_more:
        known = {_bare(name) for name in state}
        more = [name for name in checkpoint.weights if _bare(name) not in known]
        wrong += [f"has '{name}', which the model has not" for name in more]
    if wrong:
        raise StoreError(
            f"checkpoint: {checkpoint.path} must hold the weights of the model built; it {wrong[0]}"
            + (f" ({len(wrong)} such differences)." if len(wrong) > 1 else ".")
        )
