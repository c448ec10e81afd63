"""How far an optimizer is from its edge: recurrence, measurement, and the verdict in words."""

from .blame import blame
from .block import restricted
from .curve import SpectrumCurve, spectrum_curve
from .doctor import examine
from .examination import Examination, Part, plural, size_words
from .measurement import Measurement
from .probe import Probe, measure
from .recurrence import asymptotic_growth_factor, growth_at_ratio, periodic_growth, recurrence
from .snapshot import Snapshot, snapshot
from .verdict import EDGE_BAND, NUM_EARLY_STEPS, RunVerdict, Verdict, run_verdict, verdict

__all__ = [
    "recurrence",
    "asymptotic_growth_factor",
    "growth_at_ratio",
    "periodic_growth",
    "Measurement",
    "restricted",
    "Examination",
    "Part",
    "examine",
    "Snapshot",
    "snapshot",
    "SpectrumCurve",
    "spectrum_curve",
    "size_words",
    "plural",
    "blame",
    "Probe",
    "measure",
    "EDGE_BAND",
    "NUM_EARLY_STEPS",
    "Verdict",
    "verdict",
    "RunVerdict",
    "run_verdict",
]
