"""Adam in closed form: its largest step, its hidden warmup, and the problem that AdamW's step solves.

Legend: b1, b2 = decay of the first and second moment, g = gradient, m = averaged gradient, D = diagonal of P^-1,
t = number of the step (1, 2, ...).
"""

from __future__ import annotations

import math

import numpy as np

from tightrope.errors import ConfigError, check_number, did_you_mean

PENALTIES = ("linear", "preconditioned", "plain")
"""Ways to put weight decay into the problem that one step solves; see `adamw_proximal_step`."""


def adam_step_bound(beta1: float = 0.9, beta2: float = 0.999, t: int | None = None) -> float:
    """Largest step of Adam in units of lr, over all gradients there can be (eps = 0); it is attained.

    (1-b1) / sqrt((1-b2) (1-b1^2/b2)) late in a run, 7.27 at (0.9, 0.999); at step t, with bias correction, times
    sqrt(1-(b1^2/b2)^t) sqrt(1-b2^t) / (1-b1^t), which makes it 1 at the first step. "At most lr" holds for
    stationary gradients only.

    Args:
        beta1, beta2: In [0, 1), with b1^2 < b2.
        t: The step; None for the limit.
    Raises:
        ConfigError: an argument is out of its range.
    Source:
        Cauchy-Schwarz on the two averages; `adam_worst_gradients` gives equality.
    """
    _check_decays("adam_step_bound", beta1, beta2)
    quotient = beta1**2 / beta2
    late = (1 - beta1) / math.sqrt((1 - beta2) * (1 - quotient))
    if t is None:
        return late
    _check_step("adam_step_bound", t)
    return late * math.sqrt((1 - quotient**t) * (1 - beta2**t)) / (1 - beta1**t)


def adam_worst_gradients(num_steps: int, beta1: float = 0.9, beta2: float = 0.999) -> np.ndarray:
    """(num_steps,) gradients that make Adam's last step as long as it can be: each b2/b1 times the one before.

    Args:
        num_steps: At least 1.
        beta1, beta2: As for the bound.
    Raises:
        ConfigError: an argument is out of its range.
    """
    _check_step("adam_worst_gradients", num_steps)
    _check_decays("adam_worst_gradients", beta1, beta2)
    return np.asarray((beta1 / beta2) ** np.arange(num_steps - 1, -1, -1, dtype=np.float64))


def gi_adam_warmup(t: int, beta2: float = 0.999) -> float:
    """Factor on Adam's step t if nu starts from the first squared gradient and is bias corrected: sqrt(1 - b2^t).

    With gradients of one size nu is right from the start, so dividing it by 1 - b2^t makes P too large: a warmup.

    Args:
        t: The step, from 1.
        beta2: In (0, 1).
    Raises:
        ConfigError: an argument is out of its range.
    """
    _check_step("gi_adam_warmup", t)
    _check_decays("gi_adam_warmup", 0.0, beta2)
    return math.sqrt(1 - beta2**t)


def adamw_proximal_step(
    theta: np.ndarray, m: np.ndarray, D: np.ndarray, *, lr: float, weight_decay: float, penalty: str = "linear"
) -> np.ndarray:
    """Where <m, z - theta> + |z - theta|^2_(1/D) / (2 lr) + penalty(z) is least, for three ways to put the decay.

    "linear": wd <z, theta / D>, which is AdamW's step exactly, theta - lr D m - lr wd theta.
    "preconditioned": wd/2 |z|^2_(1/D), (theta - lr D m) / (1 + lr wd), which is AdamW's to first order in lr wd.
    "plain": wd/2 |z|^2, (theta - lr D m) / (1 + lr wd D): what shrinks a weight then depends on its gradients.

    Args:
        theta, m, D: (p,) weights, averaged gradient, and positive scaling P^-1.
        lr, weight_decay: Positive; at least 0.
        penalty: One of `PENALTIES`.
    Raises:
        ConfigError: an argument is out of its range.
    Source:
        Loshchilov and Hutter 2019 (arXiv 1711.05101) for the step; the minimisers by setting the gradient to 0.
    """
    check_number("adamw_proximal_step: lr", lr, lambda lr: 0 < lr < math.inf, "be positive and finite")
    check_number("adamw_proximal_step: weight_decay", weight_decay, lambda wd: 0 <= wd < math.inf, "be at least 0")
    if penalty not in PENALTIES:
        raise ConfigError(f"adamw_proximal_step: penalty '{penalty}' is not known. {did_you_mean(penalty, PENALTIES)}")
    stepped = theta - lr * D * m
    if penalty == "linear":
        return np.asarray(stepped - lr * weight_decay * theta)
    return np.asarray(stepped / (1 + lr * weight_decay * (D if penalty == "plain" else 1.0)))


def _check_decays(where: str, beta1: float, beta2: float) -> None:
    check_number(f"{where}: beta2", beta2, lambda b: 0 < b < 1, "be in (0, 1)")
    check_number(
        f"{where}: beta1", beta1, lambda b: b >= 0 and b * b < beta2, f"be at least 0, its square below {beta2}"
    )


def _check_step(where: str, t: int) -> None:
    check_number(f"{where}: t", t, lambda t: t >= 1 and t.is_integer(), "be a whole number from 1")
