"""Recipes: each named method as a value, hyperparameters only, from which its two rules follow."""

from __future__ import annotations

import typing
from typing import ClassVar

from .foreign import ForeignRecipe
from .momentum import Momentum, MomentumRule, ScheduledNesterov, heavy_ball, nesterov, none
from .preconditioner import RMS, Accumulated, Factored, Identity, PreconditionerRule
from .recipe import Recipe, RuledRecipe


class GDRecipe(RuledRecipe, frozen=True, tag="gd"):
    """Gradient descent; with minibatches, stochastic gradient descent."""

    label: ClassVar[str] = "Gradient descent"

    @property
    def momentum(self) -> Momentum:
        return none()


class HeavyBallRecipe(RuledRecipe, frozen=True, tag="heavyball"):
    """Gradient descent with heavy ball momentum, in standard form unless `ema`."""

    label: ClassVar[str] = "Heavy ball"
    beta1: float = 0.9
    ema: bool = False

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=self.ema)


class NesterovRecipe(RuledRecipe, frozen=True, tag="nesterov"):
    """Gradient descent with Nesterov momentum, in standard form unless `ema`."""

    label: ClassVar[str] = "Nesterov"
    beta1: float = 0.9
    ema: bool = False

    @property
    def momentum(self) -> Momentum:
        return nesterov(self.beta1, ema=self.ema)


class RMSPropRecipe(RuledRecipe, frozen=True, tag="rmsprop"):
    """RMSProp (Tieleman and Hinton 2012): P = sqrt(nu) + eps, no momentum; decay is added to the gradient."""

    label: ClassVar[str] = "RMSProp"
    is_decay_decoupled: ClassVar[bool] = False
    beta2: float = 0.99
    eps: float = 1e-8
    eps_inside_root: bool = False

    @property
    def momentum(self) -> Momentum:
        return none()

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(beta=self.beta2, eps=self.eps, eps_inside_root=self.eps_inside_root)


class AdamRecipe(RuledRecipe, frozen=True, tag="adam"):
    """Adam (Kingma and Ba 2015): RMSProp's P with an averaged gradient; decay is added to it.

    `gradient_init` starts nu at the first squared gradient (GI-Adam), which warms the step up as sqrt(1 - beta2^t).
    """

    label: ClassVar[str] = "Adam"
    is_decay_decoupled: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside_root: bool = False
    bias_correction: bool = True
    amsgrad: bool = False
    gradient_init: bool = False

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=True)

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(
            beta=self.beta2,
            eps=self.eps,
            eps_inside_root=self.eps_inside_root,
            bias_correction=self.bias_correction,
            running_max=self.amsgrad,
            gradient_init=self.gradient_init,
        )


class AdamWRecipe(RuledRecipe, frozen=True, tag="adamw"):
    """AdamW (Loshchilov and Hutter 2019): Adam with decay that never meets the preconditioner."""

    label: ClassVar[str] = "AdamW"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside_root: bool = False
    bias_correction: bool = True
    amsgrad: bool = False

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=True)

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(
            beta=self.beta2,
            eps=self.eps,
            eps_inside_root=self.eps_inside_root,
            bias_correction=self.bias_correction,
            running_max=self.amsgrad,
        )


class AdaGradRecipe(RuledRecipe, frozen=True, tag="adagrad"):
    """AdaGrad (Duchi et al. 2011): P from the sum of all squared gradients; decay is added to the gradient."""

    label: ClassVar[str] = "AdaGrad"
    is_decay_decoupled: ClassVar[bool] = False
    eps: float = 1e-10
    eps_inside_root: bool = False
    initial: float = 0.0

    @property
    def momentum(self) -> Momentum:
        return none()

    @property
    def preconditioner(self) -> PreconditionerRule:
        return Accumulated(eps=self.eps, eps_inside_root=self.eps_inside_root, initial=self.initial)


class AMSGradRecipe(RuledRecipe, frozen=True, tag="amsgrad"):
    """AMSGrad (Reddi et al. 2018): Adam whose P never falls; bias corrected as torch does only when told so."""

    label: ClassVar[str] = "AMSGrad"
    is_decay_decoupled: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside_root: bool = False
    bias_correction: bool = False

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=True)

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(
            beta=self.beta2,
            eps=self.eps,
            eps_inside_root=self.eps_inside_root,
            bias_correction=self.bias_correction,
            running_max=True,
        )


class PadamRecipe(RuledRecipe, frozen=True, tag="padam"):
    """Padam (Chen et al. 2018): Adam with P = nu^power + eps; the running maximum of its authors is an option."""

    label: ClassVar[str] = "Padam"
    is_decay_decoupled: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside_root: bool = False
    power: float = 0.25
    running_max: bool = False

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=True)

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(
            beta=self.beta2,
            eps=self.eps,
            eps_inside_root=self.eps_inside_root,
            power=self.power,
            running_max=self.running_max,
        )


class NAdamRecipe(RuledRecipe, frozen=True, tag="nadam"):
    """Nadam (Dozat 2016) as Cohen et al. 2022 run it: Adam with averaged Nesterov momentum, beta1 constant.

    `bias_correction` corrects both averages; `momentum_decay` (torch's default is 4e-3) adds Dozat's schedule to the
    correction, which is torch.optim.NAdam.
    """

    label: ClassVar[str] = "Nadam"
    is_decay_decoupled: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_inside_root: bool = False
    bias_correction: bool = False
    momentum_decay: float | None = None

    @property
    def is_corrected(self) -> bool:
        """Whether the averages are corrected for their start at zero: the schedule is defined with it only."""
        return self.bias_correction or self.momentum_decay is not None

    @property
    def momentum(self) -> Momentum:
        return nesterov(self.beta1, ema=True)

    @property
    def momentum_rule(self) -> MomentumRule:
        return ScheduledNesterov(self.beta1, decay=self.momentum_decay) if self.is_corrected else self.momentum

    @property
    def preconditioner(self) -> PreconditionerRule:
        return RMS(
            beta=self.beta2,
            eps=self.eps,
            eps_inside_root=self.eps_inside_root,
            bias_correction=self.is_corrected,
        )

    @property
    def formula(self) -> str:
        if not self.is_corrected:
            return self.preconditioner.formula
        # The momentum rule makes up for the start of its average, so P does not carry 1-beta1^t as Adam's does.
        return "sqrt(nu/(1-beta2^t) + eps)" if self.eps_inside_root else "sqrt(nu/(1-beta2^t)) + eps"


class AdafactorRecipe(RuledRecipe, frozen=True, tag="adafactor"):
    """Adafactor (Shazeer and Stern 2018) with momentum of the gradient; see `Factored` for what is assumed."""

    label: ClassVar[str] = "Adafactor"
    beta1: float = 0.9
    decay: float = 0.8
    eps: float = 1e-7

    @property
    def momentum(self) -> Momentum:
        return heavy_ball(self.beta1, ema=True)

    @property
    def preconditioner(self) -> PreconditionerRule:
        return Factored(decay=self.decay, eps=self.eps)


class CustomRecipe(RuledRecipe, frozen=True, tag="custom"):
    """Any momentum rule with any preconditioner rule."""

    label: ClassVar[str] = "Custom method"
    momentum_rule: Momentum = Momentum()
    preconditioner_rule: Identity | RMS | Accumulated | Factored = Identity()

    @property
    def momentum(self) -> Momentum:
        return self.momentum_rule

    @property
    def preconditioner(self) -> PreconditionerRule:
        return self.preconditioner_rule


AnyRecipe = (
    GDRecipe
    | HeavyBallRecipe
    | NesterovRecipe
    | RMSPropRecipe
    | AdamRecipe
    | AdamWRecipe
    | AdaGradRecipe
    | AMSGradRecipe
    | PadamRecipe
    | NAdamRecipe
    | AdafactorRecipe
    | CustomRecipe
    | ForeignRecipe
)
RECIPES: dict[str, type[Recipe]] = {str(kind.__struct_config__.tag): kind for kind in typing.get_args(AnyRecipe)}
