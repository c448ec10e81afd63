"""freeze(optimizer): the frozen linear method of any optimizer, read from its state, unwrapped or probed.

Dispatch is on "package.Class" along the method resolution order, so nothing is imported needlessly and a class of a
known name from elsewhere is not mistaken for it.
Legend: D = edge scaling, P = preconditioner, w = a parameter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError, UnsupportedOptimizerError, one_line

from ..frozen import Frozen
from ..momentum import Momentum
from ..sam import SAM
from .assembly import assemble, movable, without_method
from .identification import GroupFinding
from .probing import probe
from .readers import READERS
from .reading import NOT_STEPPED, Reader, Reading


def freeze(optimizer: Any) -> Frozen:
    """The optimizer with its preconditioner frozen as its last step left it.

    torch's optimizers and ours are read from their own state, and so is what `register_reader` made known. Wrappers
    of Accelerate and Lightning are looked through. Any other optimizer is probed: a copy of it takes steps until its
    method is known, or known not to be linear. The optimizer itself is left as it is.
    Learning rate, betas and decay are those its groups hold now: call it after `optimizer.step()` and before
    `scheduler.step()`; for torch's Adafactor also before `zero_grad()`. Where momentum depends on the step (NAdam),
    parameters of one group that have taken different numbers of steps become groups of their own.

    Returns:
        Frozen; where no linear method can be read its status and reason say why, and no number is given.
    Raises:
        UnsupportedOptimizerError: it is no optimizer.
    Cost:
        A few elementwise passes over the parameters; no gradient, no product. Probing: two float64 copies and some
        90 steps of them the first time, besides 600 or more of a copy of a few small parameters; a copy and 6 to 9
        steps after that.
    Example:
        >>> freeze(torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)).stability_threshold()
        20.0
    """
    kinds = type(optimizer).__mro__
    for kind in kinds:
        if _name(kind) in WRAPPERS:
            return WRAPPERS[_name(kind)](optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        if _wrapped(optimizer):
            return _refused_wrapper(optimizer)
        raise UnsupportedOptimizerError(f"freeze: needs a torch optimizer; got {type(optimizer).__name__}.")
    problem = _problem(optimizer)
    if problem:
        return without_method(optimizer, problem)
    for kind in kinds:
        if _name(kind) in NO_LINEAR_METHOD:
            return without_method(optimizer, f"{kind.__name__}: {NO_LINEAR_METHOD[_name(kind)]}")
        reader = READERS.get(kind) or READERS.get(_name(kind))
        if reader is not None and _steps_as(type(optimizer), kind):
            return _read(optimizer, reader)
    return _probed(optimizer)


def register_reader(kind: type | str, reader: Reader) -> None:
    """Make a class of optimizers known to `freeze`; subclasses that keep its `step` are read the same way.

    Args:
        kind: The class, or "package.Class" with the package's first name, so that it need not be imported.
        reader: (optimizer, one of its groups) -> Reading.
    Raises:
        ConfigError: a string that is not "package.Class".
    Example:
        >>> register_reader("mypackage.Lookback", lambda optimizer, group: Reading(Momentum(beta=group["beta"])))
    """
    if isinstance(kind, str) and (kind.count(".") != 1 or not all(kind.split("."))):
        raise ConfigError(
            f'register_reader: a name must be "package.Class"; got {kind!r}. Give the package\'s first name, or the '
            "class itself."
        )
    READERS[kind] = reader


def _name(kind: type) -> str:
    """ "package.Class" """
    return f"{kind.__module__.split('.')[0]}.{kind.__name__}"


def _steps_as(kind: type, known: type) -> bool:
    """Whether a class takes the very steps of a known one; torch wraps `step` for its profiler."""
    return inspect.unwrap(kind.step) is inspect.unwrap(known.step)  # type: ignore[attr-defined]


def _problem(optimizer: torch.optim.Optimizer) -> str:
    """What keeps any optimizer from being frozen, or nothing."""
    params = [w for group in optimizer.param_groups for w in movable(group)]
    if not params:
        return "no parameter of the optimizer requires a gradient."
    if len({id(w) for w in params}) < len(params):
        return "the optimizer holds a parameter twice and moves it twice a step: pass each parameter once."
    if any(torch.nn.parameter.is_lazy(w) for w in params):
        return "its parameters have no shape yet: run the lazy model once on a batch."
    for group in optimizer.param_groups:
        lr = float(group.get("lr", 0.0))
        if not 0 <= lr < math.inf:
            return f"its learning rate must be finite and at least 0; got {lr}: set it in optimizer.param_groups."
    if any(w.is_complex() or w.layout != torch.strided for w in params):
        return "parameters must be real and dense: give complex ones as torch.view_as_real(w)."
    if any(group.get("maximize", False) for group in optimizer.param_groups):
        return "maximize=True ascends the loss: no stability threshold applies."
    return ""


def _read(optimizer: torch.optim.Optimizer, reader: Reader) -> Frozen:
    name = type(optimizer).__name__
    try:
        return assemble(
            optimizer, [part for group in _moving_groups(optimizer) for part in _parts(optimizer, reader, group)]
        )
    except ConfigError as error:
        return without_method(optimizer, str(error))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else one_line(str(error))
        return without_method(
            optimizer,
            f"the groups and state of {name} cannot be read ({missing}): if they were loaded, load those of the same "
            f"{name} over the same parameters.",
        )


def _parts(
    optimizer: torch.optim.Optimizer, reader: Reader, group: dict[str, Any]
) -> list[tuple[Reading, dict[str, Any]]]:
    """The readings of a group: several where its momentum depends on the step and some parameters joined later."""
    whole = reader(optimizer, group)
    parts: list[tuple[Momentum | None, list[Tensor]]] = []
    for _, same in groupby(group["params"], key=lambda w: _num_steps(optimizer, w)):
        run = list(same)
        has_state = any(whole.has_state(w) for w in run)
        momentum = reader(optimizer, {**group, "params": run}).momentum if has_state else None
        last, others = parts.pop() if parts else (momentum, [])
        if None in (last, momentum) or last == momentum:
            parts.append((momentum if last is None else last, others + run))
        else:
            parts += [(last, others), (momentum, run)]
    if len(parts) == 1:
        return [(whole, group)]
    return [(replace(whole, momentum=momentum or whole.momentum), {**group, "params": run}) for momentum, run in parts]


def _num_steps(optimizer: torch.optim.Optimizer, w: Tensor) -> int:
    state = optimizer.state.get(w, {})
    return int(state.get("preconditioner_step", state.get("step", 0)) or 0)


def _probed(optimizer: torch.optim.Optimizer) -> Frozen:
    """Frozen by probing."""
    if _wrapped(optimizer):
        return _refused_wrapper(optimizer)
    name = type(optimizer).__name__
    try:
        found = probe(optimizer)
        if found is None:
            return without_method(optimizer, NOT_STEPPED, "not_stepped")
        groups = optimizer.param_groups
        params = [w for group in groups for w in group["params"]]
        P = {id(params[i]): part for i, part in found.P.items()}
        return assemble(optimizer, [(_reading(finding, P), groups[j]) for j, finding in found.groups.items()])
    except UnsupportedOptimizerError as error:
        return without_method(optimizer, f"{name} was probed and has no frozen method that is known: {error}.")


def _wrapped(wrapper: Any) -> list[torch.optim.Optimizer]:
    attributes = getattr(wrapper, "__dict__", {})
    return [value for value in attributes.values() if isinstance(value, torch.optim.Optimizer)]


def _refused_wrapper(wrapper: Any) -> Frozen:
    """What holds an optimizer may change its steps on a beat that probing would not see."""
    inner, name = _wrapped(wrapper)[0], type(wrapper).__name__
    return without_method(
        inner,
        f"{name} wraps {type(inner).__name__} and may change its steps: freeze the inner optimizer if it does not, or "
        f"make {name} known by register_reader.",
    )


def _reading(finding: GroupFinding, P: dict[int, Tensor]) -> Reading:
    return Reading(
        momentum=finding.momentum,
        is_decoupled=finding.is_decoupled,
        diagonal=lambda w: P[id(w)],
        is_ready=lambda w: id(w) in P,
        weight_decay=finding.weight_decay,
    )


def _moving_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if movable(group)]


def _unwrapped(wrapper: Any) -> Frozen:
    return freeze(wrapper.optimizer)


def _uphill(sam: SAM) -> Frozen:
    base = freeze(sam.base)
    frozen = sam.frozen(base)
    has_both = base.condition and frozen.condition != base.condition
    return replace(frozen, condition=f"{base.condition} and {frozen.condition}") if has_both else frozen


# How to freeze what holds another optimizer, by "package.Class".
WRAPPERS: dict[str, Callable[[Any], Frozen]] = {
    "tightrope.SAM": _uphill,
    "accelerate.AcceleratedOptimizer": _unwrapped,
    "lightning.LightningOptimizer": _unwrapped,
    "pytorch_lightning.LightningOptimizer": _unwrapped,
    "lightning._FabricOptimizer": _unwrapped,
    "lightning_fabric._FabricOptimizer": _unwrapped,
}
NO_LINEAR_METHOD = {
    "torch.Adadelta": "its step is scaled by past steps, so with P held still it is not linear in the gradient.",
    "torch.Rprop": "its step depends on the signs of gradients only, so it has no linear threshold.",
    "torch.LBFGS": "its step comes from a history of secants and a line search, not from a linear recurrence.",
    "torch.ASGD": "its learning rate decays inside the step and it averages iterates; freeze the SGD beneath it.",
    "torch.SparseAdam": "it updates the moments of touched rows only, so one frozen P does not describe its next step.",
    "torch.Muon": "it steps by an orthogonalised matrix of constant size, which is not linear in the gradient.",
}
