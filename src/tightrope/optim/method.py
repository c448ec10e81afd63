"""GradientMethod: one momentum rule and one preconditioner rule joined into a torch optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError, ShapeError, TightropeError, check_number

from .loading import check_loadable
from .momentum import Momentum, MomentumRule, ScheduledNesterov, none
from .preconditioner import RMS, Accumulated, Factored, FixedDense, FixedDiagonal, Identity, PreconditionerRule, State


class GradientMethod(torch.optim.Optimizer):
    """w <- w - lr (P^-1 d + weight_decay w), with d from the momentum rule and P from the preconditioner.

    A plain `torch.optim.Optimizer`: parameter groups (each may have its own lr, momentum, preconditioner and
    decay), closures, `state_dict` and torch's learning rate schedulers. Groups keep the rules themselves.

    Args:
        params: Tensors or groups of them, as for any torch optimizer.
        lr: Learning rate, at least 0.
        momentum: A `MomentumRule`; default the plain gradient.
        preconditioner: A `PreconditionerRule`; default the identity.
        weight_decay: At least 0. Decoupled by default: it never enters the momentum or P.
        decoupled_weight_decay: False adds `weight_decay * w` to the gradient instead (L2, torch's Adam and SGD).
    Raises:
        ConfigError: a hyperparameter is out of its range.
        ShapeError: a gradient or a fixed preconditioner does not fit.
    Cost:
        Memory: a copy of w for each of momentum and adaptive P.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), sections 2 and A; Loshchilov and Hutter 2019 (arXiv 1711.05101).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: MomentumRule | None = None,
        preconditioner: PreconditionerRule | None = None,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": none() if momentum is None else momentum,
            "preconditioner": Identity() if preconditioner is None else preconditioner,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "is_preconditioner_frozen": False,
        }
        torch.optim.Optimizer.__init__(self, _listed("params", params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with rules of its own; what it leaves out is the optimizer's.

        Raises:
            ConfigError, ShapeError: as for the optimizer; the group is not added.
        """
        if not isinstance(param_group, dict):
            raise ConfigError(f"GradientMethod: a group must be a dict; got {type(param_group).__name__}. {_GIVE}")
        _check_parameters(param_group)
        try:
            torch.optim.Optimizer.add_param_group(self, param_group)
        except ValueError as error:
            raise ShapeError(f"GradientMethod: {error}. Give each trainable tensor once, in one group.") from error
        try:
            _check_group(self.param_groups[-1])
        except TightropeError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the `state_dict` of any GradientMethod over the same parameters; its rules come along.

        Raises:
            ConfigError: it is of no GradientMethod, or of other parameters; nothing is changed.
        """
        check_loadable(self.param_groups, state_dict)
        torch.optim.Optimizer.load_state_dict(self, state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients in `.grad`; parameters without one are left alone.

        NaN and infinity pass into the weights, as with torch's optimizers: looking for them would wait for the device
        at every step. A gradient scaler or a look at the norm skips such steps; `measure` and `freeze` name them.

        Args:
            closure: Recomputes and returns the loss; called once, before the step.
        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._step(group, w, w.grad)
        return loss

    def _step(self, group: dict[str, Any], w: Tensor, g: Tensor) -> None:
        if g.is_sparse or g.is_complex():
            raise ShapeError("GradientMethod: gradients must be real and dense; got a sparse or complex one.")
        lr, momentum, rule = group["lr"], group["momentum"], group["preconditioner"]
        decay, is_decoupled = group["weight_decay"], group["decoupled_weight_decay"]
        if not isinstance(momentum, MomentumRule):
            raise ConfigError(
                f"GradientMethod: a group's momentum must stay a Momentum rule; got {momentum!r}. A schedule that "
                "cycles momentum does not apply: pass it cycle_momentum=False."
            )
        state = self.state[w] or self._init(group, w)
        if decay and not is_decoupled:
            g = g.add(w, alpha=decay)
        state["step"] += 1
        if not (group["is_preconditioner_frozen"] and state["preconditioner_step"]):
            state["preconditioner_step"] = state["step"]
            rule.update(state, g)
        d = momentum.direction(state.get("m"), g, state["preconditioner_step"])
        if decay and is_decoupled:
            w.mul_(1 - lr * decay)
        P = self.preconditioner(group, w)
        if P is None:
            w.add_(d, alpha=-lr)
        elif rule.is_diagonal:
            w.addcdiv_(d, P, value=-lr)
        else:
            w.sub_(torch.cholesky_solve(d.unsqueeze(1), state["cholesky"]).squeeze(1), alpha=lr)

    def _init(self, group: dict[str, Any], w: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[w]
        state.update(_fresh(group, w), step=0, preconditioner_step=0)
        if group["momentum"].needs_state:
            state["m"] = torch.zeros_like(w, memory_format=torch.preserve_format)
        return state

    def has_preconditioner(self, group: dict[str, Any], w: Tensor) -> bool:
        """Whether P is known for a parameter: always for a fixed one, after its first step for an adaptive one."""
        return not group["preconditioner"].is_adaptive or bool(self.state.get(w))

    def preconditioner(self, group: dict[str, Any], w: Tensor) -> Tensor | None:
        """P of the last step for one parameter, momentum's bias correction included; None where P = I."""
        rule: PreconditionerRule = group["preconditioner"]
        state = self.state.get(w) or {**_fresh(group, w), "preconditioner_step": 0}
        t: int = state["preconditioner_step"]
        P = rule.diagonal(state, t)
        if P is None or not rule.is_bias_corrected:
            return P
        momentum: MomentumRule = group["momentum"]
        return P * momentum.bias_correction(t)

    def momentum(self, group: dict[str, Any]) -> Momentum:
        """The linear momentum rule a group's last step followed; before any step, that of the first.

        Where the rule changes with the step, it is that of the parameter with the most steps: `freeze` asks for those
        that joined later as groups of their own.
        """
        rule: MomentumRule = group["momentum"]
        steps = [self.state[w]["preconditioner_step"] for w in group["params"] if self.state.get(w)]
        return rule.at(max(steps, default=1))

    def freeze_preconditioner(self) -> None:
        """Hold P and the weights of momentum from here on: Adam becomes "frozen Adam" (Cohen et al. 2022, section 4).

        A parameter that has had no gradient yet takes the P of its first one.

        Raises:
            ConfigError: no step was taken yet, so an adaptive P holds nothing.
        """
        for group in self.param_groups:
            if not any(self.has_preconditioner(group, w) for w in group["params"]):
                raise ConfigError("freeze_preconditioner: P must have seen a gradient; take a step() first.")
        for group in self.param_groups:
            group["is_preconditioner_frozen"] = True


def _fresh(group: dict[str, Any], w: Tensor) -> State:
    """The rule's state before the first step of a parameter of the group."""
    before = itertools.takewhile(lambda other: other is not w, group["params"])
    rule: PreconditionerRule = group["preconditioner"]
    return rule.init(w, sum(other.numel() for other in before))


_GIVE = "Give model.parameters(), a list of tensors, or groups of them."


def _listed(name: str, params: Any) -> list[Any]:
    """Parameters or groups as a list: of anything with an order that can be gone through."""
    if isinstance(params, Tensor | set) or not isinstance(params, Iterable):
        raise ConfigError(f"GradientMethod: {name} must be a list of tensors; got {type(params).__name__}. {_GIVE}")
    return list(params)


def _check_parameters(param_group: dict[str, Any]) -> None:
    """Raise unless what is to be optimized are distinct tensors of real floating numbers; torch checks the rest."""
    given = param_group.get("params")
    params = [given] if isinstance(given, Tensor) else _listed("the params of a group", given)
    # What torch calls named parameters are pairs.
    tensors = [w[1] if isinstance(w, tuple) and len(w) == 2 else w for w in params]
    param_group["params"] = params
    for w in tensors:
        if not isinstance(w, Tensor):
            raise ConfigError(f"GradientMethod: parameters must be tensors; got {type(w).__name__}. {_GIVE}")
        if not w.is_floating_point():
            raise ShapeError(
                f"GradientMethod: parameters must be real floating numbers; got one of {w.dtype}. Leave it out, or "
                "give a complex one as torch.view_as_real(w)."
            )
    if len({id(w) for w in tensors}) < len(tensors):
        raise ShapeError("GradientMethod: parameters must be distinct; got one twice in a group. Pass each once.")


def _check_group(group: dict[str, Any]) -> None:
    rule = group["preconditioner"]
    finite = "be finite and at least 0"
    check_number("GradientMethod: lr", group["lr"], lambda lr: 0 <= lr < math.inf, finite)
    check_number("GradientMethod: weight_decay", group["weight_decay"], lambda decay: 0 <= decay < math.inf, finite)
    if not isinstance(group["momentum"], MomentumRule):
        raise ConfigError(f"GradientMethod: momentum must be a Momentum rule; got {group['momentum']!r}.")
    if not isinstance(rule, PreconditionerRule):
        raise ConfigError(f"GradientMethod: preconditioner must be a rule; got {rule!r}.")
    rule.check_size(sum(w.numel() for w in group["params"]))


# The rules are plain values: torch.load(weights_only=True) may read them back in a state_dict.
torch.serialization.add_safe_globals(
    [Momentum, ScheduledNesterov, Identity, RMS, Accumulated, Factored, FixedDiagonal, FixedDense]
)
