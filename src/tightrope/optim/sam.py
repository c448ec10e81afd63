"""SAM: any optimizer, stepping with the gradient of a point uphill of where it stands.

Legend: g = gradient, S = diagonal the ascent is scaled by, T = |w| + eta, w = weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from tightrope.errors import ConfigError, ShapeError, UnsupportedOptimizerError, check_count, check_number

from .ascent import Ascent, Writings, climb, has_new_gradient, writings
from .buffers import buffers_kept
from .frozen import Frozen
from .loading import MAX_SEED, Memory, load_base, memory_of

Count = Annotated[int, msgspec.Meta(ge=1)]
MEMORY = Memory.__struct_fields__


class SharpnessAware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sharpness-aware minimisation as a value: step with the gradient taken at w + eps, uphill of w.

    SAM ascends by eps = rho g / ||g||, ASAM (`adaptive`) by eps = rho T^2 g / ||T g||, the norms being over all
    parameters of all groups. Where the norm is zero or not finite there is no ascent, and the step is a plain one.

    Args:
        rho: Length of the ascent, at least 0.
        adaptive: ASAM: measure the ascent in units of T = |w| + eta, so that rescaling layers changes nothing.
        eta: Of ASAM, at least 0.
        micro_batches: Ascend separately for each of this many parts of a batch and average their gradients (mSAM).
        sparsity: Share of the coordinates each ascent leaves alone, drawn anew every time, in [0, 1). The length
            is not made up for, and no time is saved: the second gradient is a full one.
        every: Ascend on steps 1, every + 1, 2 every + 1, ... and take plain steps between.
    Raises:
        ConfigError: a field is out of its range.
    References:
        Foret et al. 2021 (arXiv 2010.01412), eq. 2 and section 4.1 (m-sharpness); Kwon et al. 2021 (arXiv
        2102.11600), Algorithm 1; Mi et al. 2022 (arXiv 2210.05177) for masks; Liu et al. 2022 (arXiv 2203.02714) for
        periodic ascent, here without their reuse of the last ascent.
    """

    rho: float = 0.05
    adaptive: bool = False
    eta: float = 0.01
    micro_batches: Count = 1
    sparsity: float = 0.0
    every: Count = 1

    def __post_init__(self) -> None:
        finite, hint = "be finite and at least 0", "0 is the plain base method."
        check_number("SAM: rho", self.rho, lambda rho: 0 <= rho < math.inf, finite, hint)
        check_number("SAM: eta", self.eta, lambda eta: 0 <= eta < math.inf, finite)
        check_number("SAM: sparsity", self.sparsity, lambda share: 0 <= share < 1, "be in [0, 1)")
        check_count("SAM: micro_batches", self.micro_batches)
        check_count("SAM: every", self.every)

    @property
    def label(self) -> str:
        """Its name in prose, with rho and whatever else is not the default."""
        fields = zip(self.__struct_fields__, self.__struct_defaults__, strict=True)
        changed = {name for name, default in fields if getattr(self, name) != default} - {"adaptive"} | {"rho"}
        numbers = ", ".join(f"{name}={getattr(self, name):g}" for name in self.__struct_fields__ if name in changed)
        return f"{'ASAM' if self.adaptive else 'SAM'}({numbers})"

    def wrap(self, base: torch.optim.Optimizer, *, seed: int = 0, model: nn.Module | None = None) -> SAM:
        """The base optimizer made sharpness-aware."""
        return SAM(base, seed=seed, model=model, **msgspec.structs.asdict(self))

    def no_threshold(self) -> str:
        """Why no eigenvalue of one transformed Hessian is the edge of this method; empty where one is."""
        if self.rho > 0 and self.every > 1:
            return (
                f"SAM: with every={self.every} plain steps and ascents alternate, and the curvatures at which that is "
                "stable need not form an interval, so there is no one edge; periodic_growth tells for each curvature."
            )
        if self.rho > 0 and self.micro_batches > 1:
            return (
                f"SAM: with micro_batches={self.micro_batches} the edge is that of mean(H_i + c_i H_i^2) over the "
                "Hessians of the micro-batches, which the Hessian of one batch does not determine."
            )
        return ""


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation over a base optimizer, whose groups, state and learning rates it shares.

    With a closure, `sam.step(closure)` does everything. The closure clears the gradients, runs forward and backward
    and returns the loss; it is called once for a plain step and twice for one with an ascent. With micro_batches = m
    above 1 it is called as closure(i) for i = 0 .. m-1, on part i of the batch.

    In a loop of your own, which may clip, accumulate or scale gradients, the ascent is a block:

        sam.zero_grad()
        loss_fn(model, batch).backward()
        with sam.ascent():                    # w + eps inside; the first gradient is cleared for you
            loss_fn(model, batch).backward()
        sam.step()                            # w again, and .grad holds the second gradient

    Weights come back bit for bit, also after an exception. So do the buffers of every module that runs inside:
    BatchNorm's running statistics are those of the first pass. Layers that draw random numbers draw anew.
    With micro_batches = m run the first three statements for each part; after the m-th, .grad is the mean. `zero_grad`
    clears `.grad` alone: parts that will not make a step, such as those left over at an epoch's end, are dropped by
    `sam.discard()`. With every above 1 enter the block only where `sam.is_ascent_due`.

    Args:
        base: Any torch optimizer that needs no closure itself.
        rho, adaptive, eta, micro_batches, sparsity, every: See `SharpnessAware`.
        seed: Of the masks of sparse ascents, drawn where the parameters live; mask n is a function of seed and n.
        model: Whose buffers to keep; default those of the modules seen running. Give it where torch.compile made
            the model: it warns of the hook that watches them.
    Raises:
        ConfigError: a hyperparameter is out of its range, step and ascent are called out of order, or a block ran no
            second backward.
        ShapeError: a gradient is missing, sparse or complex.
        UnsupportedOptimizerError: the base is no optimizer, is SAM itself or takes closures of its own (LBFGS).
    Cost:
        An ascent is a second forward and backward, and a copy of the weights while it lasts; ASAM and sparse SAM
        keep one more vector, mSAM another.
    References:
        Foret et al. 2021 (arXiv 2010.01412), Algorithm 1; see `SharpnessAware` for the others.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        micro_batches: int = 1,
        sparsity: float = 0.0,
        every: int = 1,
        seed: int = 0,
        model: nn.Module | None = None,
    ) -> None:
        if not isinstance(base, torch.optim.Optimizer) or isinstance(base, SAM | torch.optim.LBFGS):
            kind = base.__name__ if isinstance(base, type) else type(base).__name__
            raise UnsupportedOptimizerError(
                f"SAM: base must be an optimizer that steps once on given gradients, such as SGD(...); got {kind}."
            )
        check_number("SAM: seed", seed, lambda seed: 0 <= seed < MAX_SEED and seed == int(seed), "be a whole number")
        self.base, self.seed, self.model = base, int(seed), model
        self.rule = SharpnessAware(
            rho=rho, adaptive=adaptive, eta=eta, micro_batches=micro_batches, sparsity=sparsity, every=every
        )
        self.num_steps = self.num_ascents = 0
        self.last_ascent: int | None = None
        self.grad_norm: float | None = None
        self._scales: dict[Tensor, Tensor] = {}
        self.discard()
        self._is_up = False
        # What torch restores an unpickled optimizer by: hooks and profiling, without groups of its own.
        torch.optim.Optimizer.__setstate__(self, {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimizer's groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's state."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's defaults."""
        return self.base.defaults

    @property
    def is_ascent_due(self) -> bool:
        """Whether the next step is one of those that ascend first."""
        return self.num_steps % self.rule.every == 0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer."""
        self.base.add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """Step the base optimizer, with a closure after evaluating it as the class says.

        Returns:
            The closure's loss at the weights before the step, the mean over micro-batches; None without a closure.
        """
        if self._is_up:
            raise ConfigError("SAM: step() must come after the ascent block; got a call inside it. Unindent it.")
        loss = None if closure is None else self._evaluate(closure)
        if 0 < self._num_gathered < self.rule.micro_batches:
            num_gathered = self._num_gathered
            self.discard()
            raise ConfigError(
                f"SAM: step() must follow {self.rule.micro_batches} ascents, one for each micro-batch; got "
                f"{num_gathered}, now dropped. Go on with a first part; call discard() where parts are left over."
            )
        self.base.step()
        self.num_steps += 1
        return loss

    def _evaluate(self, closure: Callable[..., Any]) -> Any:
        m = self.rule.micro_batches
        losses = []
        self.discard()  # parts of a step that an exception ended
        for part in [(i,) for i in range(m)] if m > 1 else [()]:
            with torch.enable_grad():
                losses.append(closure(*part))
                if self.is_ascent_due:
                    with self.ascent():
                        closure(*part)
                else:
                    self._gather()
        return losses[0] if m == 1 else sum(losses) / m

    @contextmanager
    def ascent(self, *, grad_scale: float = 1.0) -> Iterator[None]:
        """Hold the weights uphill inside the block, for the second backward; see the class.

        Args:
            grad_scale: Factor on the gradients in `.grad`, such as `scaler.get_scale()`. The ascent does not depend
                on it; the norm that `freeze` goes by is divided by it.
        """
        if self._is_up:
            raise ConfigError("SAM: ascent() must not be entered twice; got a call inside the block.")
        if not self.is_ascent_due:
            raise ConfigError(
                f"SAM: with every={self.rule.every} an ascent is due on steps 1, {self.rule.every + 1}, ...; got one "
                f"on step {self.num_steps + 1}. Enter the block where sam.is_ascent_due, which does not count steps "
                "that a gradient scaler skips."
            )
        climbing = self._climbing()
        former = [w.detach().clone() for w in climbing]
        with buffers_kept(self.model):
            try:
                self._is_up = True
                self._climb(climbing, grad_scale)
                cleared = writings(self._having_gradients())
                yield
                self._check_second(cleared)
            except BaseException:
                self.discard()
                raise
            finally:
                self._is_up = False
                with torch.no_grad():
                    torch._foreach_copy_(climbing, former)
        self._gather()

    def _having_gradients(self) -> list[Tensor]:
        return [w for group in self.param_groups for w in group["params"] if w.grad is not None]

    def _check_second(self, cleared: Writings) -> None:
        if not has_new_gradient(self._having_gradients(), cleared):
            raise ConfigError(
                "SAM: the ascent block must run a second backward(); got no new gradient in it, and a step would "
                "follow zeros."
            )

    def _climbing(self) -> list[Tensor]:
        """The parameters that have a gradient."""
        climbing = self._having_gradients()
        if not climbing:
            raise ShapeError("SAM: an ascent needs the gradient of a first backward(); got none in any parameter.")
        if any(w.grad.is_sparse or w.grad.is_complex() for w in climbing if w.grad is not None):
            raise ShapeError("SAM: gradients must be real and dense; got a sparse or complex one.")
        return climbing

    def _climb(self, climbing: list[Tensor], grad_scale: float) -> None:
        rule = self.rule
        seed = [self.seed, self.num_ascents]
        eta = rule.eta if rule.adaptive else None
        norm, scales = climb(climbing, rule.rho, eta=eta, share=1 - rule.sparsity, seed=seed)
        self.grad_norm = norm / grad_scale
        self._scales = dict(zip(climbing, scales, strict=True)) if scales else {}
        self.num_ascents += 1
        self.last_ascent = self.num_steps
        # Where they lie, for they may be views of one vector.
        torch._foreach_zero_([w.grad for w in climbing if w.grad is not None])

    @torch.no_grad()
    def _gather(self) -> None:
        """Add the gradients of a micro-batch to those before it; after the last, leave the mean in `.grad`."""
        m = self.rule.micro_batches
        if m == 1:
            return
        gathered = self._gathered
        for w in self._having_gradients():
            if w.grad is not None:
                gathered[w] = gathered[w].add_(w.grad) if w in gathered else w.grad.clone()
        self._num_gathered += 1
        if self._num_gathered == m:
            for w, total in gathered.items():
                w.grad = total.div_(m) if w.grad is None else w.grad.copy_(total.div_(m))
            self.discard()

    def discard(self) -> None:
        """Drop the micro-batches gathered for a step that will not come; after a whole step there are none.

        A step that raises for want of parts, an exception in the block and a step with a closure drop them too.
        """
        self._num_gathered = 0
        self._gathered: dict[Tensor, Tensor] = {}

    def frozen(self, base: Frozen) -> Frozen:
        """What `freeze` says of the whole, from what it says of the base: the Hessian as the last ascent bends it."""
        if base.status == "no_threshold" or self.rule.rho == 0:
            return base
        reason = self.rule.no_threshold() or self._idleness()
        if reason:
            return replace(base, groups=(), P=None, D=None, status="no_threshold", reason=reason)
        if base.status != "linear":
            return base
        if self.grad_norm is None or (self._is_scaled and not self._scales):
            reason = "SAM: the gradient norm of an ascent is not known yet; take one step, then measure."
            return replace(base, status="not_stepped", reason=reason)
        factor = self.rule.rho / self.grad_norm
        held = f"the ascent held at {factor:.3g} times the gradient"
        return replace(base, ascent=Ascent(factor, self._flat_scale(base.parameters)), condition=held)

    def _idleness(self) -> str:
        """Why the last step was a plain one though steps of this rule ascend; empty where it was not, or none was."""
        if self.last_ascent is not None and self.num_steps > self.last_ascent + 1:
            return (
                f"SAM: the last step did not ascend: of {self.num_steps} steps number {self.last_ascent + 1} was the "
                "last to do so. Freeze sam.base for the edge of plain steps, or ascend before the next, then measure."
            )
        if self.grad_norm is not None and not 0 < self.grad_norm < math.inf:
            return (
                "SAM: the last ascent met a gradient that was zero or not finite and did nothing; "
                "take another step, then measure."
            )
        return ""

    @property
    def _is_scaled(self) -> bool:
        """Whether S is not the identity: ASAM, sparse, or both."""
        return self.rule.adaptive or self.rule.sparsity > 0

    def _flat_scale(self, parameters: tuple[Tensor, ...]) -> Tensor | None:
        """(p,) S of the last ascent, zero where a parameter had no gradient; None for the identity."""
        if not self._scales:
            return None
        return torch.cat([self._scales.get(w, torch.zeros_like(w)).detach().reshape(-1) for w in parameters])

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and, under "sam", what ascents have left: counters, seed and gradient norm.

        What ASAM and masks scaled the last ascent by is not in it: after loading, `freeze` waits for the next one.
        """
        return {**self.base.state_dict(), "sam": {name: getattr(self, name) for name in MEMORY}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of SAM over the same base.

        Raises:
            ConfigError: it is of another optimizer or of other parameters; nothing is changed.
        """
        memory = memory_of(state_dict)
        load_base(self.base, {name: value for name, value in state_dict.items() if name != "sam"})
        vars(self).update(msgspec.structs.asdict(memory))
        self._scales = {}
        self.discard()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks, and what schedulers put on the instance, stay behind, as with torch's own optimizers.
        kept = (*MEMORY, "base", "model", "rule", "_scales", "_gathered", "_num_gathered", "_is_up")
        return {name: getattr(self, name) for name in kept}
