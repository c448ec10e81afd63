"""Theory: the small systems and closed forms behind the lessons, numbers in and numbers out."""

from .adam import PENALTIES, adam_step_bound, adam_worst_gradients, adamw_proximal_step, gi_adam_warmup
from .catapult import CatapultPath, catapult, two_layer_start
from .online import OnlineRun, play, reddi_slopes
from .self_stabilization import self_stabilization
from .wilson import wilson_data, wilson_test_error

__all__ = [
    "reddi_slopes",
    "play",
    "OnlineRun",
    "two_layer_start",
    "catapult",
    "CatapultPath",
    "self_stabilization",
    "wilson_data",
    "wilson_test_error",
    "adam_step_bound",
    "adam_worst_gradients",
    "gi_adam_warmup",
    "adamw_proximal_step",
    "PENALTIES",
]
