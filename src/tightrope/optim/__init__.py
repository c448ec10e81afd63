"""Gradient methods: a momentum rule joined to a preconditioner rule, and any optimizer frozen in time."""

from .adapters import freeze
from .frozen import Frozen, FrozenGroup
from .method import GradientMethod
from .momentum import Momentum, heavy_ball, nesterov, none
from .preconditioner import RMS, FixedDense, FixedDiagonal, Identity, PreconditionerRule
from .presets import GD, SGD, Adam, AdamW, HeavyBall, Nesterov, RMSProp, RMSprop
from .recipes import RECIPES, AnyRecipe, CustomRecipe, Recipe

__all__ = [
    "Momentum",
    "none",
    "heavy_ball",
    "nesterov",
    "PreconditionerRule",
    "Identity",
    "RMS",
    "FixedDiagonal",
    "FixedDense",
    "GradientMethod",
    "GD",
    "SGD",
    "HeavyBall",
    "Nesterov",
    "RMSprop",
    "RMSProp",
    "Adam",
    "AdamW",
    "Recipe",
    "CustomRecipe",
    "AnyRecipe",
    "RECIPES",
    "Frozen",
    "FrozenGroup",
    "freeze",
]
