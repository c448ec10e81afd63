"""What an optimizer's step hooks take: the learning rate, norms of the gradient and, when asked, what to measure.

Legend: g = gradient, w = weights, p = number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from tightrope.optim import Frozen, freeze
from tightrope.parameters import flatten

from .admission import changes_the_run, check_moves

BEFORE, AFTER = "before the step", "after the step"

Guard = Callable[[str], AbstractContextManager[None]]
"""A context, named, in which nothing that goes wrong gets out."""

Place = tuple[tuple[int, torch.device, torch.dtype], ...]
"""Which parameters are moved, where and in which precision; vectors of another place do not fit."""


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
        place: Where the parameters were.
    """

    step: int
    params: tuple[Tensor, ...]
    w: Tensor
    g: Tensor
    frozen: Frozen
    norm: float
    place: Place


@dataclass(frozen=True)
class _Before:
    """What is taken before a step; nothing where it is not wanted, no g where the step itself will compute it."""

    params: tuple[Tensor, ...] = ()
    w: Tensor | None = None
    g: Tensor | None = None


class StepHooks:
    """Removable hooks around `optimizer.step`, which see a step at the moment it is taken.

    Args:
        optimizer: A torch optimizer.
        is_wanted: Whether to look at the step of this number at all.
        guard: Context for whatever happens inside a hook.
    Attributes:
        num_steps: Steps taken since the hooks were set; one that a gradient scaler skips is none.
        lr: Learning rate of the last step's first group.
        norms: Of the last step's gradients, not yet waited for.
        normed: Ids of the parameters they belong to.
        wants_step: Whether to take all of the next step.
        captured: The last step that was wanted.
        is_alone: No other watcher had its hooks on this optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, is_wanted: Callable[[int], bool], guard: Guard) -> None:
        self.optimizer, self.is_wanted, self.guard = optimizer, is_wanted, guard
        self.num_steps, self.lr = 0, float("nan")
        self.norms: Tensor | None = None
        self.normed: tuple[int, ...] = ()
        self.wants_step = False
        self.captured: Captured | None = None
        self._is_closed, self._before = False, _Before()
        # Not traced where it is the optimizer's step that is compiled.
        enter, leave = torch.compiler.disable(self._enter), torch.compiler.disable(self._leave)
        self.is_alone = not any(each.optimizer is optimizer and each.is_set for each in _ALL)
        self._handles: list[Any] = [optimizer.register_step_pre_hook(enter), optimizer.register_step_post_hook(leave)]
        _ALL.add(self)

    @property
    def is_set(self) -> bool:
        return bool(self._handles)

    def remove(self) -> None:
        """Take the hooks away and let go of what they hold."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._before, self.captured, self.norms = [], _Before(), None, None

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, the optimizer refuses to step: it is we who run, and no step of ours may move the run.

        Raises:
            ConfigError: it was asked to, by the one who asked.
        """
        self._is_closed = True
        try:
            yield
        finally:
            self._is_closed = False

    def _enter(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_closed:
            raise changes_the_run("the optimizer")
        self._before = _Before()
        if not self.is_wanted(self.num_steps + 1):
            return
        with self.guard(BEFORE), torch.no_grad():
            has_closure = any(callable(given) for given in (*args[1:], *kwargs.values()))
            if not has_closure:  # else the gradient is yet to be computed, inside the step
                self._take_norms()
            if self.wants_step:
                params = moved(self.optimizer)
                check_moves(params)
                w = flatten([part.detach() for part in params])
                self._before = _Before(params, w, None if has_closure else self._gradient(params))

    def _leave(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_wanted, before = self.is_wanted(self.num_steps + 1), self._before
        self._before = _Before()
        if self._is_skipped(is_wanted):
            return
        self.num_steps += 1
        if not is_wanted:
            return
        with self.guard(AFTER), torch.no_grad():
            self.lr = float(self.optimizer.param_groups[0].get("lr", float("nan")))
            if any(callable(given) for given in (*args[1:], *kwargs.values())):
                self._take_norms()
            if before.w is not None:
                g = self._gradient(before.params) if before.g is None else before.g
                frozen = freeze(self.optimizer)
                place = placed(before.params)
                self.captured = Captured(self.num_steps, before.params, before.w, g, frozen, float(g.norm()), place)

    def _take_norms(self) -> None:
        """Of the gradients there are; the first that is not finite is found among them."""
        having = [w for w in moved(self.optimizer) if w.grad is not None]
        self.norms, self.normed = None, tuple(map(id, having))
        if having:
            gradients = [w.grad for w in having if w.grad is not None]
            values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
            self.norms = torch.stack([norm.float() for norm in torch._foreach_norm(values)]) / self._grad_scale()

    def _gradient(self, params: Sequence[Tensor]) -> Tensor:
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in params]
        return flatten([g.to_dense() if g.is_sparse else g for g in gradients]) / self._grad_scale()

    def _grad_scale(self) -> Tensor | float:
        """What a gradient scaler multiplied the gradients by and a fused optimizer will divide them by."""
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        return 1.0 if scale is None else scale

    def _is_skipped(self, is_wanted: bool) -> bool:
        """Whether a gradient scaler met an infinity and a fused optimizer, which is called all the same, does nothing.

        An accelerator is waited for only where the step is looked at.
        """
        found: Tensor | None = getattr(self.optimizer, "found_inf", None)
        return found is not None and (is_wanted or found.device.type == "cpu") and bool(found)


def moved(optimizer: torch.optim.Optimizer) -> tuple[Tensor, ...]:
    """What an optimizer moves now, in the order of its groups."""
    return tuple(w for group in optimizer.param_groups for w in group["params"] if w.requires_grad)


def placed(params: Sequence[Tensor]) -> Place:
    """Where parameters are now."""
    return tuple((id(w), w.device, w.dtype) for w in params)


def place_words(params: Sequence[Tensor]) -> str:
    """Where parameters are now, in words."""
    num, dtype = sum(w.numel() for w in params), str(params[0].dtype).removeprefix("torch.")
    return f"{num:,} numbers in {len(params)} parameters, {dtype} on {params[0].device}"


_ALL: WeakSet[StepHooks] = WeakSet()
