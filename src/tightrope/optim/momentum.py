"""Momentum rules: linear filters from gradients to a step direction, and the threshold each implies.

Legend: b = beta, c = discount, k = gain, g = gradient, m = decaying sum of gradients (times 1 - b, an average),
t = number of the step (1, 2, ...), mu = weight of Nesterov's look ahead.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod

import msgspec
import numpy as np
from torch import Tensor

from tightrope.errors import check_number

from .preconditioner import AbstractStructMeta

DECAY_DIVERGES = "From there on the decay alone makes the weights oscillate and grow."


class MomentumRule(msgspec.Struct, metaclass=AbstractStructMeta, frozen=True):
    """How a step direction follows from past gradients: linear in them, with weights that may change with the step.

    `beta` is the decay of the average m, the one thing a rule remembers.
    """

    beta: float = 0.0

    @property
    def needs_state(self) -> bool:
        """Whether the rule remembers anything: False for the plain gradient."""
        return self.beta > 0

    @abstractmethod
    def at(self, t: float) -> Momentum:
        """The rule of step t as a linear rule for ever; t = inf gives the one it tends to."""

    @abstractmethod
    def direction(self, m: Tensor | None, g: Tensor, t: int) -> Tensor:
        """Direction of step t with gradient g; updates m in place. May return m or g itself."""

    @abstractmethod
    def bias_correction(self, t: int) -> float:
        """Share of a constant gradient in the average of t steps, 1 - b^t; 1 where the direction makes up for it."""


class Momentum(MomentumRule, frozen=True, forbid_unknown_fields=True):
    """The linear momentum rule m <- b m + k (1-b) g with direction k (1-c) g + c m.

    One family holds every linear rule (quasi-hyperbolic momentum with a gain): plain gradient (b=0),
    heavy ball (c=1) and Nesterov (c=b), each as an exponential moving average (EMA, k=1) or in standard form
    (k=1/(1-b), where m is the momentum buffer of torch.optim.SGD).

    Args:
        beta: b, the decay of the average, in [0, 1).
        discount: c, weight of the average against the fresh gradient, in [0, 1].
        gain: k, factor on the whole direction, positive.
    Raises:
        ConfigError: a field is out of its range.
    Example:
        >>> round(heavy_ball(0.9, ema=True).stability_threshold(lr=1.0), 6)
        38.0
    References:
        Cohen et al. 2022 (arXiv 2207.14484), Table 1; Ma and Yarats 2019 (arXiv 1810.06801), eqs. 3-4.
    """

    discount: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        in_unit = "be in [0, 1]"
        check_number("Momentum: beta", self.beta, lambda b: 0 <= b < 1, "be in [0, 1)", "0 is plain gradient descent.")
        check_number("Momentum: discount", self.discount, lambda c: 0 <= c <= 1, in_unit, "1 is heavy ball.")
        check_number("Momentum: gain", self.gain, lambda k: 0 < k < math.inf, "be positive and finite", "1 averages.")

    @classmethod
    def of_sgd(cls, momentum: float, dampening: float, nesterov: bool) -> Momentum:
        """The rule of torch.optim.SGD: buffer <- momentum buffer + (1 - dampening) g."""
        if momentum == 0 or momentum >= 1:
            return cls(beta=momentum)
        return cls(beta=momentum, discount=momentum if nesterov else 1.0, gain=(1 - dampening) / (1 - momentum))

    def at(self, t: float) -> Momentum:
        return self

    def bias_correction(self, t: int) -> float:
        return float(1 - self.beta**t)

    def direction(self, m: Tensor | None, g: Tensor, t: int) -> Tensor:
        b, c, k = self.beta, self.discount, self.gain
        if m is None:
            return g if k == 1 else g * k
        m.mul_(b).add_(g, alpha=k * (1 - b))
        return m if c == 1 else (g * (k * (1 - c))).add_(m, alpha=c)

    def transfer(self, z: complex) -> complex:
        """F(z), the z-transform from gradient to direction; F(-1) is its gain on alternating gradients."""
        b, c, k = self.beta, self.discount, self.gain
        return k * ((1 - c) + c * (1 - b) * z / (z - b))

    @property
    def alternating_gain(self) -> float:
        """F(-1) = k (1 + b - 2 b c) / (1 + b), the gain on gradients that flip sign every step."""
        b = self.beta
        return self.gain * (1 + b - 2 * b * self.discount) / (1 + b)

    def stability_threshold(self, lr: float, weight_decay: float = 0.0) -> float:
        """Largest lambda_1(P^-1 H) at which the frozen method is stable, in units of 1 / lr.

        (2 - lr wd) / (lr F(-1)), with decoupled weight decay wd. Above it the iterate oscillates and grows.
        """
        check_number("stability_threshold: lr", lr, lambda lr: lr > 0, "be positive")
        decay = lr * weight_decay
        check_number("stability_threshold: lr * weight_decay", decay, lambda d: d < 2, "be below 2", DECAY_DIVERGES)
        return (2 - lr * weight_decay) / (lr * self.alternating_gain)


class ScheduledNesterov(MomentumRule, frozen=True, forbid_unknown_fields=True):
    """Nesterov with the bias of its average corrected and a look ahead mu_t that grows: torch.optim.NAdam's momentum.

    m <- b m + (1-b) g with direction (1 - mu_t) g / (1 - mu_1...mu_t) + mu_{t+1} m / (1 - mu_1...mu_{t+1}) and
    mu_t = b (1 - 0.96^(t decay) / 2). It tends to averaged Nesterov, from thresholds several times lower.

    Args:
        beta: b, the decay of the average, in [0, 1).
        decay: How fast mu_t approaches b, at least 0 (torch's momentum_decay); None for mu_t = b throughout.
    Example:
        >>> rule = ScheduledNesterov(0.9, decay=4e-3)
        >>> [round(rule.at(t).stability_threshold(lr=1.0), 2) for t in (1, 10, 1000, math.inf)]
        [1.94, 3.49, 3.93, 13.57]
    References:
        Dozat 2016, Incorporating Nesterov momentum into Adam; torch.optim.NAdam for the weights of step t.
    """

    decay: float | None = None

    def __post_init__(self) -> None:
        check_number("ScheduledNesterov: beta", self.beta, lambda b: 0 <= b < 1, "be in [0, 1)")
        if self.decay is not None:
            check_number("ScheduledNesterov: decay", self.decay, lambda d: d >= 0, "be at least 0", "torch takes 4e-3.")

    def at(self, t: float) -> Momentum:
        fresh, averaged = _nadam_weights(self.beta, self.decay, t)
        return Momentum(beta=self.beta, discount=averaged / (fresh + averaged), gain=fresh + averaged)

    def bias_correction(self, t: int) -> float:
        return 1.0

    def direction(self, m: Tensor | None, g: Tensor, t: int) -> Tensor:
        if m is None:
            return g
        fresh, averaged = _nadam_weights(self.beta, self.decay, t)
        m.lerp_(g, 1 - self.beta)
        return (g * fresh).add_(m, alpha=averaged)


@functools.lru_cache(maxsize=16)
def _nadam_weights(b: float, decay: float | None, t: float) -> tuple[float, float]:
    """Weights of g and m in the direction of step t; every parameter of a step asks for the same."""
    rate = math.inf if decay is None else decay

    def mu(steps: float | np.ndarray) -> float | np.ndarray:
        return b * (1 - 0.5 * 0.96 ** (steps * rate))

    # The product is at most b^t: where that is below rounding it is 0, and long runs pay nothing for it.
    product = float(np.prod(mu(np.arange(1.0, t + 1)))) if b**t > 1e-20 else 0.0
    now, following = float(mu(t)), float(mu(t + 1))
    return (1 - now) / (1 - product), following / (1 - product * following)


def none() -> Momentum:
    """The plain gradient (gradient descent, RMSProp, AdaGrad)."""
    return Momentum()


def heavy_ball(beta: float, *, ema: bool) -> Momentum:
    """Heavy ball: `ema=True` averages gradients (Adam), `ema=False` sums them (torch.optim.SGD)."""
    return Momentum(beta=beta, gain=_gain(beta, ema))


def nesterov(beta: float, *, ema: bool) -> Momentum:
    """Nesterov: the direction looks one step ahead, b m + (fresh gradient)."""
    return Momentum(beta=beta, discount=beta, gain=_gain(beta, ema))


def _gain(beta: float, ema: bool) -> float:
    return 1.0 if ema or not 0 <= beta < 1 else 1 / (1 - beta)
