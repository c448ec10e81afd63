"""freeze(optimizer): the frozen linear method of any optimizer, read from its state, unwrapped or probed.

Dispatch is on "package.Class" along the method resolution order, so nothing is imported needlessly and a class of a
known name from elsewhere is not mistaken for it.
Legend: D = edge scaling, P = preconditioner, w = a parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError, UnsupportedOptimizerError

from ..frozen import Frozen, FrozenGroup
from ..sam import SAM
from .probing import GroupFinding, probe
from .readers import NOT_STEPPED, READERS, Reader, Reading


def freeze(optimizer: Any) -> Frozen:
    """The optimizer with its preconditioner frozen as its last step left it.

    torch's optimizers and ours are read from their own state, and so is what `register_reader` made known. Wrappers
    of Accelerate and Lightning are looked through. Any other optimizer is probed: a copy of it takes steps until its
    method is known, or known not to be linear. The optimizer itself is left as it is.
    Learning rate, betas and decay are those its groups hold now: call it after `optimizer.step()` and before
    `scheduler.step()`; for torch's Adafactor also before `zero_grad()`.

    Returns:
        Frozen; where no linear method can be read its status and reason say why, and no number is given.
    Raises:
        UnsupportedOptimizerError: it is no optimizer.
    Cost:
        A few elementwise passes over the parameters; no gradient, no product. Probing: two float64 copies and some
        90 steps of them the first time, a copy and 6 to 9 steps after that.
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
        return _without_method(optimizer, problem)
    for kind in kinds:
        if _name(kind) in NO_LINEAR_METHOD:
            return _without_method(optimizer, f"{kind.__name__}: {NO_LINEAR_METHOD[_name(kind)]}")
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
    params = [w for group in optimizer.param_groups for w in _movable(group)]
    if not params:
        return "no parameter of the optimizer requires a gradient."
    if len({id(w) for w in params}) < len(params):
        return "the optimizer holds a parameter twice and moves it twice a step: pass each parameter once."
    if any(w.is_complex() or w.layout != torch.strided for w in params):
        return "parameters must be real and dense: give complex ones as torch.view_as_real(w)."
    if any(group.get("maximize", False) for group in optimizer.param_groups):
        return "maximize=True ascends the loss: no stability threshold applies."
    return ""


def _read(optimizer: torch.optim.Optimizer, reader: Reader) -> Frozen:
    name = type(optimizer).__name__
    try:
        return _assemble(optimizer, [(reader(optimizer, group), group) for group in _moving_groups(optimizer)])
    except ConfigError as error:
        return _without_method(optimizer, str(error))
    except (KeyError, RuntimeError, TypeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        return _without_method(
            optimizer,
            f"the groups and state of {name} cannot be read ({missing}): if they were loaded, load those of the same "
            f"{name} over the same parameters.",
        )


def _probed(optimizer: torch.optim.Optimizer) -> Frozen:
    """Frozen by probing."""
    if _wrapped(optimizer):
        return _refused_wrapper(optimizer)
    name = type(optimizer).__name__
    try:
        found = probe(optimizer)
        if found is None:
            return _without_method(optimizer, NOT_STEPPED, "not_stepped")
        groups = optimizer.param_groups
        params = [w for group in groups for w in group["params"]]
        P = {id(params[i]): part for i, part in found.P.items()}
        return _assemble(optimizer, [(_reading(finding, P), groups[j]) for j, finding in found.groups.items()])
    except UnsupportedOptimizerError as error:
        return _without_method(optimizer, f"{name} was probed and has no frozen method that is known: {error}.")


def _wrapped(wrapper: Any) -> list[torch.optim.Optimizer]:
    attributes = getattr(wrapper, "__dict__", {})
    return [value for value in attributes.values() if isinstance(value, torch.optim.Optimizer)]


def _refused_wrapper(wrapper: Any) -> Frozen:
    """What holds an optimizer may change its steps on a beat that probing would not see."""
    inner, name = _wrapped(wrapper)[0], type(wrapper).__name__
    return _without_method(
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


def _assemble(optimizer: torch.optim.Optimizer, parts: list[tuple[Reading, dict[str, Any]]]) -> Frozen:
    groups = tuple(_describe(group, reading) for reading, group in parts)
    if any(group.lr * group.weight_decay >= 2 for group in groups):
        return _without_method(optimizer, "lr * weight_decay must be below 2: the decay alone diverges.")
    members = [(reading, w) for reading, group in parts for w in _movable(group)]
    adaptive = [(reading.has_state(w), reading) for reading, w in members if reading.is_ready]
    if adaptive and not any(is_ready for is_ready, _ in adaptive):
        return _without_method(optimizer, adaptive[0][1].unready, "not_stepped", groups)
    P = [_diagonal(reading, w) for reading, w in members]
    if len(P) > 1 and any(diagonal.ndim == 2 for diagonal in P):
        return _without_method(optimizer, "a dense preconditioner must be the only group: flatten the model into one.")
    whole = P[0] if len(P) == 1 else torch.cat(P)
    D = _edge_scaling(groups, members, whole)
    # The sum is one pass; it may overflow where every element is finite.
    if not bool(D.sum().isfinite()) and not bool(D.isfinite().all()):
        return _without_method(optimizer, _not_finite(whole))
    decays = {group.coupled_decay for group in groups}
    shift = [torch.full((group.size,), group.coupled_decay, dtype=whole.dtype, device=whole.device) for group in groups]
    return Frozen(
        parameters=tuple(w for _, w in members),
        groups=groups,
        P=whole,
        D=D,
        shift=decays.pop() if len(decays) == 1 else torch.cat(shift),
    )


def _moving_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if _movable(group)]


def _movable(group: dict[str, Any]) -> list[Tensor]:
    return [w for w in group["params"] if w.requires_grad]


def _describe(group: dict[str, Any], reading: Reading) -> FrozenGroup:
    decay = float(group.get("weight_decay", 0.0)) if reading.weight_decay is None else reading.weight_decay
    return FrozenGroup(
        momentum=reading.momentum,
        lr=float(group["lr"]),
        weight_decay=decay if reading.is_decoupled else 0.0,
        coupled_decay=0.0 if reading.is_decoupled else decay,
        size=sum(w.numel() for w in _movable(group)),
    )


@torch.no_grad()
def _diagonal(reading: Reading, w: Tensor) -> Tensor:
    """P of one parameter as a vector, at least in float32; ones where it is the identity or not known yet."""
    dtype = torch.promote_types(w.dtype, torch.float32)
    diagonal = reading.diagonal(w) if reading.has_state(w) else None
    if diagonal is None:
        return torch.ones(w.numel(), dtype=dtype, device=w.device)
    return diagonal.to(dtype) if diagonal.ndim == 2 and w.ndim == 1 else diagonal.reshape(-1).to(dtype)


def _edge_scaling(groups: tuple[FrozenGroup, ...], members: list[tuple[Reading, Tensor]], P: Tensor) -> Tensor:
    """D = lr F(-1) / ((2 - lr wd) P), zero where P is not known yet because nothing has moved."""
    scales = [group.lr * group.momentum.alternating_gain / (2 - group.lr * group.weight_decay) for group in groups]
    if P.ndim == 2:
        inverse: Tensor = torch.linalg.inv(P)
        return inverse * scales[0]
    D = torch.empty_like(P)
    sizes = [group.size for group in groups]
    for scale, part, target in zip(scales, P.split(sizes), D.split(sizes), strict=True):
        torch.div(torch.tensor(scale, dtype=P.dtype, device=P.device), part, out=target)
    at = 0
    for reading, w in members:
        if not reading.has_state(w):
            D[at : at + w.numel()] = 0
        at += w.numel()
    return D


def _not_finite(P: Tensor) -> str:
    if not bool(P.isfinite().all()):
        return (
            "the second moment holds NaN or infinity: a gradient was not finite. Go back to a state before it, and "
            "skip such steps."
        )
    return "the preconditioner is 0 somewhere: a gradient is always 0 there; give the optimizer an eps above 0."


def _without_method(
    optimizer: torch.optim.Optimizer,
    reason: str,
    status: str = "no_threshold",
    groups: tuple[FrozenGroup, ...] = (),
) -> Frozen:
    parameters = tuple(w for group in optimizer.param_groups for w in _movable(group))
    return Frozen(parameters, groups, None, None, 0.0, status, reason)


def _unwrapped(wrapper: Any) -> Frozen:
    return freeze(wrapper.optimizer)


def _uphill(sam: SAM) -> Frozen:
    return sam.frozen(freeze(sam.base))


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
