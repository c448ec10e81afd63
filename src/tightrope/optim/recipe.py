"""Recipe: a gradient method as a value, the learning rate and what else a configuration says of it.

It is what a configuration holds under `[method]`, where `name` picks it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import torch

from tightrope.errors import check_number

from .method import GradientMethod
from .momentum import Momentum, MomentumRule
from .preconditioner import AbstractStructMeta, Identity, PreconditionerRule


class Recipe(
    msgspec.Struct,
    metaclass=AbstractStructMeta,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
):
    """A gradient method before it has parameters; the learning rate is all that every method has."""

    lr: float

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name in prose."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """P written out, for people."""

    @property
    @abstractmethod
    def is_adaptive(self) -> bool:
        """Whether P follows the gradients, so that the first steps say little."""

    @property
    @abstractmethod
    def needs_shapes(self) -> bool:
        """Whether it must see parameters in their shapes: one flat vector would not do."""

    @property
    @abstractmethod
    def constant_threshold(self) -> float | None:
        """The threshold on lambda_1(P^-1 H) that holds at every step; None where none is known, or it moves."""

    @property
    def code(self) -> str:
        """Digest of the code its steps come from, where that is not this library's."""
        return ""

    @abstractmethod
    def check(self) -> None:
        """Raise unless its settings make a method, as far as that shows without parameters.

        Raises:
            ConfigError: a setting is out of its range.
        """

    @abstractmethod
    def build(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimizer over these parameters.

        Raises:
            ConfigError: it cannot be made.
        """


class RuledRecipe(Recipe, frozen=True, kw_only=True):
    """A named method whose momentum rule and preconditioner rule are known, and so its threshold.

    `is_decay_decoupled` says whether decay stays out of the gradient.
    """

    is_decay_decoupled: ClassVar[bool] = True
    weight_decay: float = 0.0

    @property
    @abstractmethod
    def momentum(self) -> Momentum:
        """Its linear momentum rule; where that changes with the step, the one it tends to."""

    @property
    def momentum_rule(self) -> MomentumRule:
        """What its steps follow: `momentum` unless the rule changes with the step."""
        return self.momentum

    @property
    def preconditioner(self) -> PreconditionerRule:
        """Its preconditioner rule; the identity unless the method has one."""
        return Identity()

    @property
    def formula(self) -> str:
        return self.preconditioner.formula

    @property
    def decoupled_decay(self) -> float:
        """The decay that acts on the weights directly, 0 where it is added to the gradient."""
        return self.weight_decay if self.is_decay_decoupled else 0.0

    @property
    def is_adaptive(self) -> bool:
        return self.preconditioner.is_adaptive

    @property
    def needs_shapes(self) -> bool:
        return self.preconditioner.needs_shapes

    @property
    def constant_threshold(self) -> float | None:
        return self.stability_threshold() if isinstance(self.momentum_rule, Momentum) else None

    def check(self) -> None:
        check_number("method.weight_decay:", self.weight_decay, lambda wd: wd >= 0, "be finite and at least 0")
        # Building the rules checks their hyperparameters.
        _ = self.stability_threshold(), self.preconditioner

    def build(self, params: Iterable[Any], *, decoupled_weight_decay: bool | None = None) -> GradientMethod:
        """The optimizer over these parameters, with the recipe's kind of decay unless told otherwise."""
        return GradientMethod(
            params,
            self.lr,
            momentum=self.momentum_rule,
            preconditioner=self.preconditioner,
            weight_decay=self.weight_decay,
            decoupled_weight_decay=(
                self.is_decay_decoupled if decoupled_weight_decay is None else decoupled_weight_decay
            ),
        )

    def stability_threshold(self, t: float = math.inf) -> float:
        """Threshold of the frozen method in units of 1 / lr, on lambda_1(P^-1 H), or P^-1 (H + wd) if decay is L2.

        It is that of step t; only a momentum that changes with the step (Nadam's schedule) has more than one.
        """
        return self.momentum_rule.at(t).stability_threshold(self.lr, self.decoupled_decay)
