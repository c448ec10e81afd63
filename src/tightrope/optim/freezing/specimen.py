"""A specimen: the copy of an optimizer, in float64, that can be put into any state and asked for one step.

What a step may change is a number in the optimizer's state, in its groups, in its own attributes or in those of its
classes. A number is known by its path, such as ("state", 0, "exp_avg"); integers, floats and flags are handled as
tensors without dimensions. What a step appends to a list is taken off again: it logs, or its effect is seen.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tightrope.errors import UnsupportedOptimizerError, one_line

from .surroundings import class_attributes, own_classes

Path = tuple[Hashable, ...]
Numbers = dict[Path, Tensor]
# Of an optimizer's attributes: what is copied apart, and what would call the user's code or keep a scheduler's count.
APART = {"state", "param_groups", "step", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"}


class Specimen:
    """A double precision copy of an optimizer that only its owner steps.

    Args:
        optimizer: Never touched; the copy shares no tensor, hook or generator with it. What its classes keep is
            shared: see `surroundings_kept`.
        is_thin: Of each group only the smallest parameter of each number of dimensions.
    Raises:
        UnsupportedOptimizerError: it cannot be copied.
    Cost:
        Two to four times the memory of the optimizer's state in float32.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, is_thin: bool = False) -> None:
        _check_state(optimizer)
        self.optimizer = _copied(optimizer)
        self.groups = self.optimizer.param_groups
        if is_thin:
            _thin(self.optimizer)
        _let_move(self.groups)
        self.params: list[Tensor] = [w for group in self.groups for w in group["params"]]
        self.active = _active(self.optimizer, self.params)
        self._lengths = dict(_list_lengths({"own": self._own(), "class": class_attributes(type(self.optimizer))}, ()))
        sizes = [self.params[i].numel() for i in self.active]
        ends = np.cumsum(sizes).tolist()
        self.slices = {i: slice(end - size, end) for i, size, end in zip(self.active, sizes, ends, strict=True)}
        self.size = sum(sizes)
        self.device = self.params[self.active[0]].device

    def forget(self) -> None:
        """Back to before the first step; the numbers of the groups stay."""
        self.optimizer.state.clear()

    def numbers(self) -> Numbers:
        """Every number a step could change, copied."""
        roots = {**self._roots(), "own": self._own(), "class": class_attributes(type(self.optimizer))}
        known = {id(w) for w in self.params}
        return {path: _as_tensor(value) for path, value in _numbers(roots, (), known)}

    def load(self, numbers: Numbers) -> None:
        """Put numbers where they belong; the rest stays, without what was appended to lists."""
        roots = {**self._roots(), "class": class_attributes(type(self.optimizer))}
        for path, length in self._lengths.items():
            del _at(roots, path)[length:]
        for path, number in numbers.items():
            holder = _at(roots, path[:-1])
            holder[path[-1]] = _like(holder[path[-1]], number)
            if path[0] == "class" and len(path) == 3:
                setattr(own_classes(type(self.optimizer))[int(str(path[1]))], str(path[2]), holder[path[-1]])

    def flat(self, numbers: Numbers, name: Path) -> Tensor:
        """(p,) one state of every parameter, in order; zero where a parameter lacks it."""
        parts = [numbers.get(("state", i, *name)) for i in self.active]
        sizes = [self.params[i].numel() for i in self.active]
        return torch.cat(
            [
                torch.zeros(n, dtype=torch.float64, device=self.device) if part is None else part.reshape(-1)
                for part, n in zip(parts, sizes, strict=True)
            ]
        )

    def unflat(self, vector: Tensor, name: Path) -> Numbers:
        """The inverse of `flat`."""
        return {("state", i, *name): vector[part].view_as(self.params[i]) for i, part in self.slices.items()}

    def weights(self) -> Tensor:
        """(p,) the weights, copied."""
        return torch.cat([self.params[i].detach().reshape(-1) for i in self.active])

    def step(self, w: Tensor, g: Tensor) -> Tensor:
        """The change of the weights in one step from w with the gradient g, both (p,)."""
        for i, part in self.slices.items():
            self.params[i].detach().copy_(w[part].view_as(self.params[i]))
            self.params[i].grad = g[part].clone().view_as(self.params[i])
        step = inspect.unwrap(type(self.optimizer).step)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                step(self.optimizer)
            except (Exception, SystemExit) as error:
                kind = type(error).__name__
                line = one_line(str(error))
                raise UnsupportedOptimizerError(f"a step of its copy failed with {kind}: {line}") from error
        return self.weights() - w

    def _own(self) -> dict[Hashable, Any]:
        return {key: value for key, value in vars(self.optimizer).items() if key not in APART | {"defaults"}}

    def _roots(self) -> dict[Hashable, Any]:
        state = self.optimizer.state
        return {
            "state": {i: state[self.params[i]] for i in self.active if self.params[i] in state},
            "group": self.groups,
            "own": vars(self.optimizer),
        }


def _check_state(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a state that holds more than numbers by parameter: what cannot be seen cannot be held."""
    params = {id(w) for group in optimizer.param_groups for w in group["params"]}
    if any(id(key) not in params for key in optimizer.state):
        raise UnsupportedOptimizerError("it keeps state beside that of its parameters")
    for state in optimizer.state.values():
        for name, value in state.items():
            if not _is_plain(value):
                raise UnsupportedOptimizerError(f"its '{name}' is kept in a {type(value).__name__} of its own")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str | Tensor)


def _copied(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """A deep copy by attributes: torch's own leaves out whatever a subclass added."""
    made: torch.optim.Optimizer = object.__new__(type(optimizer))
    kept = {key: value for key, value in vars(optimizer).items() if key not in APART}
    apart = {"state": optimizer.state, "param_groups": optimizer.param_groups}
    try:
        vars(made).update(copy.deepcopy({**kept, **apart}))
    except Exception as error:
        raise UnsupportedOptimizerError(f"it cannot be copied ({type(error).__name__})") from error
    made._optimizer_step_pre_hooks = OrderedDict()
    made._optimizer_step_post_hooks = OrderedDict()
    for group in made.param_groups:
        for w in group["params"]:
            w.grad = None
            w.data = w.data.double()
    _widen(made.state)
    return made


def _thin(optimizer: torch.optim.Optimizer) -> None:
    """Leave of each group the smallest parameter of each number of dimensions."""
    params = [w for group in optimizer.param_groups for w in group["params"]]
    active = {id(params[i]) for i in _active(optimizer, params)}
    for group in optimizer.param_groups:
        smallest: dict[int, Tensor] = {}
        for w in sorted(group["params"], key=torch.numel, reverse=True):
            if id(w) in active and w.numel():
                smallest[w.ndim] = w
        group["params"] = [w for w in group["params"] if any(w is other for other in smallest.values())]


def _let_move(groups: list[dict[str, Any]]) -> None:
    """Give groups whose learning rate is 0 for now one at which they show their method."""
    largest = max((float(group.get("lr", 1.0)) for group in groups), default=1.0)
    for group in groups:
        if float(group.get("lr", 1.0)) == 0:
            group["lr"] = largest


def _active(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> list[int]:
    """Indices of the parameters it moves: those with a state, or all that may move where none has."""
    movable = [i for i, w in enumerate(params) if w.requires_grad]
    return [i for i in movable if optimizer.state.get(params[i])] or movable


def _list_lengths(node: Any, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, list):
        yield path, len(node)
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _list_lengths(value, (*path, key))


def _at(root: Any, path: Path) -> Any:
    for key in path:
        root = root[key]
    return root


def _widen(node: Any) -> None:
    """Every floating tensor below a node of dicts and lists, in float64."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, dict | list):
            _widen(value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            node[key] = value.double()


def _numbers(node: Any, path: Path, skipped: set[int]) -> Iterator[tuple[Path, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _numbers(value, (*path, key), skipped)
        elif _is_number(value) and id(value) not in skipped:
            yield (*path, key), value


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_complex()
    return isinstance(value, int | float)


def _as_tensor(value: Any) -> Tensor:
    return value.detach().clone().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _like(old: Any, number: Tensor) -> Any:
    """A number in the type of the one it replaces."""
    if isinstance(old, Tensor):
        rounded = number if old.is_floating_point() else number.round()
        return rounded.to(old.dtype).reshape(old.shape).clone()
    if isinstance(old, bool):
        return number.item() >= 0.5
    return round(number.item()) if isinstance(old, int) else number.item()
