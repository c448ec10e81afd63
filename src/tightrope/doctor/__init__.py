"""A model looked at before training, or from a checkpoint: can it be measured, at what cost, and what is found."""

from .blame import blame
from .curve import SpectrumCurve, spectrum_curve
from .examination import Examination, Part, counted, plural
from .examine import examine
from .snapshot import Snapshot, snapshot

__all__ = [
    "examine",
    "Examination",
    "Part",
    "snapshot",
    "Snapshot",
    "spectrum_curve",
    "SpectrumCurve",
    "blame",
    "plural",
    "counted",
]
