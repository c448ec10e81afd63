"""What an optimizer's step hooks take: the learning rate, norms of the gradient and, when asked, what to measure.

Legend: g = gradient, w = weights, p = number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.optim import Frozen, freeze
from tightrope.parameters import flatten

Guard = Callable[[str], AbstractContextManager[None]]
"""A context, named, in which nothing that goes wrong gets out."""


@dataclass(frozen=True)
class Captured:
    """One optimizer step as it was taken.

    Attributes:
        step: Its number, 1 for the first.
        params: What the optimizer moves.
        w: (p,) weights before it.
        g: (p,) gradient it was taken with; zero where there was none.
        frozen: The method as the step left it.
        norm: Of g.
    """

    step: int
    params: tuple[Tensor, ...]
    w: Tensor
    g: Tensor
    frozen: Frozen
    norm: float


class StepHooks:
    """Removable hooks around `optimizer.step`, which see a step at the moment it is taken.

    Args:
        optimizer: A torch optimizer.
        is_wanted: Whether to look at the step of this number at all.
        guard: Context for whatever happens inside a hook.
    Attributes:
        num_steps: Steps taken since the hooks were set.
        lr: Learning rate of the last step's first group.
        norms: Of the last step's gradients, one a parameter that has one, not yet waited for.
        with_gradient: Those parameters; by the time the loop tells of its step they may have lost their gradients.
        wants_step: Whether to take all of the next step.
        captured: The last step that was wanted.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, is_wanted: Callable[[int], bool], guard: Guard) -> None:
        self.optimizer, self.is_wanted, self.guard = optimizer, is_wanted, guard
        self.num_steps, self.lr = 0, float("nan")
        self.norms: Tensor | None = None
        self.with_gradient: list[Tensor] = []
        self.wants_step = False
        self.captured: Captured | None = None
        self._before: tuple[tuple[Tensor, ...], Tensor, Tensor | None] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def remove(self) -> None:
        """Take the hooks away and let go of what they hold."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._before, self.captured, self.norms = [], None, None, None
        self.with_gradient = []

    def _enter(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.is_wanted(self.num_steps + 1):
            return
        with self.guard("before the step"), torch.no_grad():
            has_closure = _has_closure(args, kwargs)
            self.norms = None if has_closure else self._gradient_norms()
            self._before = None
            if self.wants_step:
                params = moved(self.optimizer)
                w = flatten([part.detach() for part in params])
                self._before = params, w, None if has_closure else self._gradient(params)

    def _leave(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.num_steps += 1
        if not self.is_wanted(self.num_steps):
            return
        with self.guard("after the step"), torch.no_grad():
            self.lr = float(self.optimizer.param_groups[0].get("lr", float("nan")))
            if _has_closure(args, kwargs):
                self.norms = self._gradient_norms()
            if self._before is not None:
                params, w, g = self._before
                self._before = None
                g = self._gradient(params) if g is None else g
                frozen = freeze(self.optimizer)
                self.captured = Captured(self.num_steps, params, w, g, frozen, float(g.norm()))

    def _gradient(self, params: tuple[Tensor, ...]) -> Tensor:
        return flatten([torch.zeros_like(w) if w.grad is None else w.grad for w in params]) / self._grad_scale()

    def _gradient_norms(self) -> Tensor | None:
        self.with_gradient = [w for w in moved(self.optimizer) if w.grad is not None]
        gradients = [w.grad for w in self.with_gradient if w.grad is not None]
        if not gradients:
            return None
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(dense)])
        return norms / self._grad_scale()

    def _grad_scale(self) -> Tensor | float:
        """What a gradient scaler multiplied the gradients by and a fused optimizer will divide them by."""
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        return 1.0 if scale is None else scale


def _has_closure(args: Any, kwargs: Any) -> bool:
    """Whether the step takes its gradient itself, in a closure: until then that of the step before may lie there."""
    return any(each is not None for each in (*args[1:], kwargs.get("closure")))


def moved(optimizer: torch.optim.Optimizer) -> tuple[Tensor, ...]:
    """What an optimizer moves now, in the order of its groups."""
    return tuple(w for group in optimizer.param_groups for w in group["params"] if w.requires_grad)
