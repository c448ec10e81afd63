"""What a model's modules hold as plain Python attributes, a counter or a list of outputs, put back after a look.

An evaluation sees the attributes themselves and not copies, so that what modules share stays shared and a loss is what
it is; only afterwards each stands as it stood, what it holds included.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (int, float, complex, bool, str, bytes, type(None))
CONTAINERS = (list, tuple, dict, set, deque, OrderedDict, defaultdict)
TORCH_OWN = frozenset(vars(nn.Module()))
"""Attributes that torch keeps for itself in every module; buffers are among them, and kept elsewhere."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards, plain attributes of a model and its parts are as they were, and new ones are gone.

    Plain are numbers, strings, None, tensors, and lists, tuples, dicts, sets and deques; of these, and of tensors that
    require no gradient and are no views, the content is put back too. Other objects are left alone, and what they hold.

    Cost:
        A copy of the tensors that are neither parameters nor buffers and require no gradient.
    """
    held = [(vars(part), _own(vars(part))) for part in model.modules()]
    contents: dict[int, tuple[Any, Any]] = {}
    for _, attributes in held:
        for value in attributes.values():
            _note(value, contents)
    try:
        yield
    finally:
        for now, attributes in held:
            _put_back(now, attributes)
        for value, content in contents.values():
            _refill(value, content)


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in TORCH_OWN}


def _note(value: Any, contents: dict[int, tuple[Any, Any]]) -> None:
    """What a container or tensor holds, and what the containers in it hold; each once."""
    if id(value) in contents:
        return
    if type(value) is Tensor:
        if not (value.requires_grad or value.is_inference() or value._is_view()):  # a view may be one of weights
            contents[id(value)] = value, (value._version, value.clone())
    elif type(value) in CONTAINERS:
        contents[id(value)] = value, value if isinstance(value, tuple) else value.copy()
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, (Tensor, *CONTAINERS)):
                _note(each, contents)


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    for name in _own(now).keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if _is_plain(value) and now.get(name, now) is not value:
            now[name] = value


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*PLAIN, Tensor)) or type(value) in CONTAINERS


def _refill(value: Any, content: Any) -> None:
    if isinstance(value, Tensor):
        version, kept = content
        if value._version != version:
            with torch.no_grad():
                value.copy_(kept)
    elif isinstance(value, tuple) or _is_same(value, content):
        return
    elif isinstance(value, list):
        value[:] = content
    else:
        value.clear()
        (value.extend if isinstance(value, deque) else value.update)(content)


def _is_same(now: Any, before: Any) -> bool:
    """Whether two containers hold the same objects, in the same order."""
    if len(now) != len(before):
        return False
    same = all(a is b for a, b in zip(now, before, strict=True))
    return same and (not isinstance(now, dict) or all(now[key] is before[key] for key in before))
