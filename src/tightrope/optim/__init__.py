"""Gradient methods: momentum and preconditioner rules joined, schedules, SAM, and any optimizer frozen in time."""

from .adapters import freeze
from .ascent import Ascent, sam_threshold
from .frozen import Frozen, FrozenGroup
from .method import GradientMethod
from .momentum import Momentum, heavy_ball, nesterov, none
from .preconditioner import RMS, Accumulated, Factored, FixedDense, FixedDiagonal, Identity, PreconditionerRule
from .presets import (
    GD,
    SGD,
    Adafactor,
    AdaGrad,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    HeavyBall,
    NAdam,
    Nesterov,
    Padam,
    RMSProp,
    RMSprop,
)
from .recipes import RECIPES, AnyRecipe, CustomRecipe, Recipe
from .sam import SAM, SharpnessAware
from .schedules import (
    AnySchedule,
    Constant,
    Cosine,
    InverseSquareRoot,
    LinearWarmup,
    OneCycle,
    Schedule,
    StepDecay,
    WarmRestarts,
    WarmupStableDecay,
)

__all__ = [
    "Momentum",
    "none",
    "heavy_ball",
    "nesterov",
    "PreconditionerRule",
    "Identity",
    "RMS",
    "Accumulated",
    "Factored",
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
    "Adagrad",
    "AdaGrad",
    "AMSGrad",
    "Padam",
    "NAdam",
    "Adafactor",
    "Recipe",
    "CustomRecipe",
    "AnyRecipe",
    "RECIPES",
    "Schedule",
    "Constant",
    "StepDecay",
    "LinearWarmup",
    "Cosine",
    "WarmRestarts",
    "OneCycle",
    "WarmupStableDecay",
    "InverseSquareRoot",
    "AnySchedule",
    "SharpnessAware",
    "SAM",
    "sam_threshold",
    "Frozen",
    "FrozenGroup",
    "Ascent",
    "freeze",
]
