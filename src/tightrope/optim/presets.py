"""The named methods under torch's names and keywords; the lecture spelling (beta1=, beta2=) is accepted too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tightrope.errors import ConfigError

from .method import GradientMethod
from .momentum import Momentum
from .recipes import AdamRecipe, AdamWRecipe, GDRecipe, HeavyBallRecipe, NesterovRecipe, RMSPropRecipe

Params = Iterable[Any]


def SGD(
    params: Params,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> GradientMethod:
    """Stochastic gradient descent with torch's keywords; decay is added to the gradient, as there.

    With dampening the first step is damped like every other (torch takes its first step undamped).

    Raises:
        ConfigError: nesterov without momentum, or with dampening.
    """
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ConfigError(f"SGD: nesterov needs momentum above 0 and dampening 0; got {momentum} and {dampening}.")
    rule = Momentum.of_sgd(momentum, dampening, nesterov)
    return GradientMethod(params, lr, momentum=rule, weight_decay=weight_decay, decoupled_weight_decay=False)


def GD(params: Params, lr: float, *, weight_decay: float = 0.0) -> GradientMethod:
    """Gradient descent, w <- w - lr g; threshold 2 / lr."""
    return GDRecipe(lr=lr, weight_decay=weight_decay).build(params)


def HeavyBall(
    params: Params, lr: float, beta1: float = 0.9, *, ema: bool = False, weight_decay: float = 0.0
) -> GradientMethod:
    """Heavy ball momentum (Polyak 1964), in standard form unless `ema`; threshold (2 + 2 beta1) / lr."""
    return HeavyBallRecipe(lr=lr, beta1=beta1, ema=ema, weight_decay=weight_decay).build(params)


def Nesterov(
    params: Params, lr: float, beta1: float = 0.9, *, ema: bool = False, weight_decay: float = 0.0
) -> GradientMethod:
    """Nesterov momentum, in standard form unless `ema`; threshold (2 + 2 beta1) / ((1 + 2 beta1) lr)."""
    return NesterovRecipe(lr=lr, beta1=beta1, ema=ema, weight_decay=weight_decay).build(params)


def RMSprop(
    params: Params,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    beta2: float | None = None,
) -> GradientMethod:
    """RMSProp (Tieleman and Hinton 2012), torch's keywords; `beta2` is `alpha`. Decay is added to the gradient."""
    decay = alpha if beta2 is None else beta2
    recipe = RMSPropRecipe(lr=lr, beta2=decay, eps=eps, weight_decay=weight_decay)
    return recipe.build(params)


def Adam(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    bias_correction: bool = True,
    decoupled_weight_decay: bool = False,
) -> GradientMethod:
    """Adam (Kingma and Ba 2015, Algorithm 1); decay is added to the gradient unless decoupled, as in torch."""
    recipe = AdamRecipe(
        lr=lr,
        beta1=betas[0] if beta1 is None else beta1,
        beta2=betas[1] if beta2 is None else beta2,
        eps=eps,
        bias_correction=bias_correction,
        weight_decay=weight_decay,
    )
    return recipe.build(params, decoupled_weight_decay=decoupled_weight_decay)


def AdamW(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    bias_correction: bool = True,
) -> GradientMethod:
    """AdamW (Loshchilov and Hutter 2019, Algorithm 2): Adam with decoupled weight decay."""
    recipe = AdamWRecipe(
        lr=lr,
        beta1=betas[0] if beta1 is None else beta1,
        beta2=betas[1] if beta2 is None else beta2,
        eps=eps,
        bias_correction=bias_correction,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


RMSProp = RMSprop
