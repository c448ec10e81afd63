"""How far an optimizer is from its edge: recurrence, measurement, and the verdict in words."""

from .allotment import MOST_COLUMNS, NUM_OTHERS, Allotment, allotted
from .block import restricted
from .measurement import Measurement
from .operator import ratio_operator
from .probe import REASONS, Probe, measure
from .recurrence import asymptotic_growth_factor, growth_at_ratio, periodic_growth, recurrence
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
    "measure",
    "EDGE_BAND",
    "NUM_EARLY_STEPS",
    "Verdict",
    "verdict",
    "RunVerdict",
    "run_verdict",
]
