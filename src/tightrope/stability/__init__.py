"""How far an optimizer is from its edge: recurrence, measurement, and the verdict in words."""

from .allotment import MOST_COLUMNS, NUM_OTHERS, Allotment, allotted
from .attribution import Attribution, Landmark, attribution, landmark
from .block import restricted
from .dormant import FLOOR, floored
from .measurement import Measurement
from .minibatch import BatchLook, BatchMargin, batch_look, batch_margin, shared_transfer
from .operator import ratio_operator
from .persistence import LOSS_GROWN, STEPS_TO_PERSIST, Persistence
from .probe import REASONS, Probe, measure
from .recurrence import asymptotic_growth_factor, growth_at_ratio, periodic_growth, recurrence
from .sizes import size_words
from .step_curvature import StepCurvature, step_curvature
from .verdict import EDGE_BAND, NUM_EARLY_STEPS, RunVerdict, Verdict, run_verdict, verdict

__all__ = [
    "recurrence",
    "asymptotic_growth_factor",
    "growth_at_ratio",
    "periodic_growth",
    "Measurement",
    "ratio_operator",
    "Allotment",
    "allotted",
    "MOST_COLUMNS",
    "NUM_OTHERS",
    "restricted",
    "Probe",
    "REASONS",
    "size_words",
    "measure",
    "floored",
    "FLOOR",
    "StepCurvature",
    "step_curvature",
    "Landmark",
    "landmark",
    "Attribution",
    "attribution",
    "BatchLook",
    "batch_look",
    "BatchMargin",
    "batch_margin",
    "shared_transfer",
    "EDGE_BAND",
    "NUM_EARLY_STEPS",
    "Verdict",
    "verdict",
    "Persistence",
    "STEPS_TO_PERSIST",
    "LOSS_GROWN",
    "RunVerdict",
    "run_verdict",
]
