"""The named methods under torch's names and main keywords; the lecture spelling (beta1=, beta2=) works too.

`eps_inside_root` takes P = (nu + eps)^power, as some lecture notes write the adaptive methods, for nu^power + eps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tightrope.errors import ConfigError

from .method import GradientMethod
from .momentum import Momentum
from .recipes import (
    AdafactorRecipe,
    AdaGradRecipe,
    AdamRecipe,
    AdamWRecipe,
    AMSGradRecipe,
    GDRecipe,
    HeavyBallRecipe,
    NAdamRecipe,
    NesterovRecipe,
    PadamRecipe,
    RMSPropRecipe,
)

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
    eps_inside_root: bool = False,
) -> GradientMethod:
    """RMSProp (Tieleman and Hinton 2012) without momentum; `beta2` is `alpha`. Decay is added to the gradient.

    torch's keywords but `momentum`, a heavy ball of steps already divided by P where here P divides the heavy ball,
    and `centered`, which subtracts the squared mean gradient from nu; `freeze` reads both from torch's.
    """
    decay = alpha if beta2 is None else beta2
    recipe = RMSPropRecipe(lr=lr, beta2=decay, eps=eps, weight_decay=weight_decay, eps_inside_root=eps_inside_root)
    return recipe.build(params)


def Adam(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    bias_correction: bool = True,
    eps_inside_root: bool = False,
    gradient_init: bool = False,
    decoupled_weight_decay: bool = False,
) -> GradientMethod:
    """Adam (Kingma and Ba 2015, Algorithm 1); decay is added to the gradient unless decoupled, as in torch.

    `amsgrad` is torch's: the running maximum of nu, divided by 1 - beta2^t like nu itself; the paper's is `AMSGrad`.
    `gradient_init` starts nu at the first squared gradient, a warmup of its own (GI-Adam; see `RMS`).
    """
    recipe = AdamRecipe(
        lr=lr,
        **_betas("Adam", betas, beta1, beta2),
        eps=eps,
        eps_inside_root=eps_inside_root,
        bias_correction=bias_correction,
        amsgrad=amsgrad,
        gradient_init=gradient_init,
        weight_decay=weight_decay,
    )
    return recipe.build(params, decoupled_weight_decay=decoupled_weight_decay)


def AdamW(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    bias_correction: bool = True,
    eps_inside_root: bool = False,
) -> GradientMethod:
    """AdamW (Loshchilov and Hutter 2019, Algorithm 2): Adam with decoupled weight decay."""
    recipe = AdamWRecipe(
        lr=lr,
        **_betas("AdamW", betas, beta1, beta2),
        eps=eps,
        eps_inside_root=eps_inside_root,
        bias_correction=bias_correction,
        amsgrad=amsgrad,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


def Adagrad(
    params: Params,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    *,
    eps_inside_root: bool = False,
) -> GradientMethod:
    """AdaGrad (Duchi et al. 2011), torch's keywords but for lr_decay, which a schedule does; threshold 2 / lr."""
    recipe = AdaGradRecipe(
        lr=lr,
        eps=eps,
        eps_inside_root=eps_inside_root,
        initial=initial_accumulator_value,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


def AMSGrad(
    params: Params,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    bias_correction: bool = False,
    eps_inside_root: bool = False,
) -> GradientMethod:
    """AMSGrad (Reddi et al. 2018, Algorithm 2): the maximum of nu itself; `bias_correction` gives torch's."""
    recipe = AMSGradRecipe(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        eps_inside_root=eps_inside_root,
        bias_correction=bias_correction,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


def Padam(
    params: Params,
    lr: float = 1e-1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    power: float = 0.25,
    running_max: bool = False,
    eps_inside_root: bool = False,
) -> GradientMethod:
    """Padam (Chen et al. 2018): P = nu^power + eps; its authors take the running maximum of nu as well."""
    recipe = PadamRecipe(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        eps_inside_root=eps_inside_root,
        power=power,
        running_max=running_max,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


def NAdam(
    params: Params,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    bias_correction: bool = False,
    eps_inside_root: bool = False,
    momentum_decay: float | None = None,
) -> GradientMethod:
    """Nadam with constant beta1 and no bias correction (Cohen et al. 2022, Figure 5) unless told otherwise.

    `bias_correction` corrects both averages for their start at zero. `momentum_decay=4e-3` is torch.optim.NAdam:
    corrected, with Dozat's schedule, at first several times below the threshold it tends to (`ScheduledNesterov`).
    """
    recipe = NAdamRecipe(
        lr=lr,
        **_betas("NAdam", betas, beta1, beta2),
        eps=eps,
        eps_inside_root=eps_inside_root,
        bias_correction=bias_correction,
        momentum_decay=momentum_decay,
        weight_decay=weight_decay,
    )
    return recipe.build(params)


def Adafactor(
    params: Params,
    lr: float = 1e-3,
    *,
    beta1: float = 0.9,
    decay: float = 0.8,
    eps: float = 1e-7,
    weight_decay: float = 0.0,
) -> GradientMethod:
    """Adafactor (Shazeer and Stern 2018) with momentum, as Cohen et al. 2022 run it; see `Factored`."""
    return AdafactorRecipe(lr=lr, beta1=beta1, decay=decay, eps=eps, weight_decay=weight_decay).build(params)


def _betas(method: str, betas: tuple[float, float], beta1: float | None, beta2: float | None) -> dict[str, float]:
    """Both decays, each from the lecture spelling where that is given."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ConfigError(f"{method}: betas must be two numbers; got {betas!r}. Write betas=(0.9, 0.999).")
    return {
        "beta1": betas[0] if beta1 is None else beta1,
        "beta2": betas[1] if beta2 is None else beta2,
    }


RMSProp = RMSprop
AdaGrad = Adagrad
