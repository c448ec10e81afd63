"""What an optimizer remembers, as plain values and tensors that a checkpoint holds without pickle.

Our own methods keep tensors and numbers by name, and their groups are in the configuration. A foreign one may keep
numbers in its groups and containers in its state, so all of it is stored, with the kind of each container.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import StoreError
from tightrope.optim import SAM, Recollection

from .checkpoint import State

KINDS: dict[str, type] = {"dict": dict, "list": list, "tuple": tuple}
PLAIN = (bool, int, float, str, type(None))


def plain_state(optimizer: torch.optim.Optimizer) -> State:
    """The state of a method of our own, with text for keys."""
    whole = {name: part for name, part in optimizer.state_dict().items() if name != "param_groups"}
    return {**whole, "state": {str(number): state for number, state in whole["state"].items()}}


def load_plain_state(optimizer: torch.optim.Optimizer, plain: Mapping[str, Any]) -> None:
    """Put back what `plain_state` gave."""
    state = {int(number): part for number, part in plain["state"].items()}
    optimizer.load_state_dict({**optimizer.state_dict(), **plain, "state": state})


def foreign_state(optimizer: torch.optim.Optimizer) -> State:
    """The state and groups of any optimizer, and what probing has found of it.

    Raises:
        StoreError: it holds something that cannot be stored without pickle, or tensors that share memory.
    """
    whole = optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name != "params"} for group in whole["param_groups"]]
    encoded = _encoded({**whole, "param_groups": groups}, type(_base(optimizer)).__name__)
    _check_memory(optimizer, encoded)
    return {"whole": encoded, "recollection": Recollection.of(_base(optimizer)).to_dict()}


def load_foreign_state(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> None:
    """Put back what `foreign_state` gave, bit for bit."""
    whole = _decoded(stored["whole"])
    state = whole["state"]
    numbers = optimizer.state_dict()["param_groups"]
    groups = zip(whole["param_groups"], numbers, strict=True)
    optimizer.load_state_dict({**whole, "param_groups": [{**was, "params": now["params"]} for was, now in groups]})
    base = _base(optimizer)
    for number, w in enumerate(w for group in base.param_groups for w in group["params"]):
        if number in state:
            # torch casts what is loaded to the dtype of the parameter, counts included.
            base.state[w].update(_decoded(stored["whole"])["state"][number])
    Recollection(**stored["recollection"]).give(base)


def _base(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    base: torch.optim.Optimizer = optimizer.base if isinstance(optimizer, SAM) else optimizer
    return base


def _encoded(value: Any, where: str) -> Any:
    """Containers as dicts with text keys that say their kind; the leaves as they are."""
    if isinstance(value, PLAIN) or (isinstance(value, Tensor) and value.layout == torch.strided):
        return value
    kind = next((name for name, kind in KINDS.items() if type(value) is kind), None)
    keys = list(value) if kind == "dict" else []
    if kind is None or any(not isinstance(key, int | str) for key in keys):
        what = type(value).__name__ if kind is None else "dict with keys that are neither numbers nor text"
        raise StoreError(
            f"checkpoint: the state of an optimizer must be tensors, numbers, text, lists, tuples and dicts; {where} "
            f"holds a {what}, which cannot be stored without pickle. Keep it in one of those."
        )
    parts = value.values() if kind == "dict" else value
    names = keys or range(len(value))
    each = {
        str(i): _encoded(part, f"{where}[{name!r}]") for i, (name, part) in enumerate(zip(names, parts, strict=True))
    }
    return {"kind": kind, "keys": keys, **each}


def _decoded(stored: Any) -> Any:
    if isinstance(stored, Tensor):
        return stored.clone()
    if not isinstance(stored, Mapping):
        return stored
    parts = [_decoded(stored[str(i)]) for i in range(len(stored) - 2)]
    return dict(zip(stored["keys"], parts, strict=True)) if stored["kind"] == "dict" else KINDS[stored["kind"]](parts)


def _check_memory(optimizer: torch.optim.Optimizer, encoded: Any) -> None:
    """Raise where two tensors are one in memory: taken up they would be two."""
    seen = {w.untyped_storage().data_ptr() for group in optimizer.param_groups for w in group["params"]}
    for name, tensor in _tensors(encoded, ""):
        place = tensor.untyped_storage().data_ptr()
        if place in seen and tensor.numel():
            raise StoreError(
                f"checkpoint: the tensors in an optimizer's state must have memory of their own; {name} of "
                f"{type(_base(optimizer)).__name__} shares it with a parameter or another one. Store a clone()."
            )
        seen.add(place)


def _tensors(encoded: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(encoded, Tensor):
        yield name, encoded
    elif isinstance(encoded, Mapping):
        for i in range(len(encoded) - 2):
            key = encoded["keys"][i] if encoded["keys"] else i
            yield from _tensors(encoded[str(i)], f"{name}[{key!r}]")
