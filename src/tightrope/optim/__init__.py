"""Gradient methods: momentum and preconditioner rules joined, schedules, SAM, and any optimizer frozen in time."""

from .ascent import Ascent, sam_threshold
from .averaging import WeightAverage
from .clip_tally import ClipTally
from .clipping import AnyClipping, Clipped, Clipping, GlobalNormClip, UnitClip, ValueClip
from .foreign import ForeignRecipe
from .freezing import PinnedPath, Reading, Recollection, freeze, pinned_path, register_reader
from .frozen import Frozen, FrozenGroup
from .layerwise import layerwise_groups
from .method import GradientMethod
from .momentum import Momentum, MomentumRule, ScheduledNesterov, heavy_ball, nesterov, none
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
from .recipe import Recipe, RuledRecipe
from .recipes import RECIPES, AnyRecipe, CustomRecipe
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
from .traits import TRAITS, Traits

__all__ = [
    "MomentumRule",
    "Momentum",
    "ScheduledNesterov",
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
    "RuledRecipe",
    "CustomRecipe",
    "ForeignRecipe",
    "AnyRecipe",
    "RECIPES",
    "Traits",
    "TRAITS",
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
    "layerwise_groups",
    "WeightAverage",
    "Clipping",
    "GlobalNormClip",
    "ValueClip",
    "UnitClip",
    "AnyClipping",
    "Clipped",
    "ClipTally",
    "Frozen",
    "FrozenGroup",
    "Ascent",
    "freeze",
    "Reading",
    "register_reader",
    "Recollection",
    "pinned_path",
    "PinnedPath",
]
