"""Pictures and tables of stored runs: one self-contained HTML report, its panels, and runs side by side."""

from .comparison import KNOWN, SHOWN, comparison
from .explanation import Explanation, explanation
from .figures import Panel, panels
from .report import write_report
from .spectrum import spectrum_panel, write_spectrum

__all__ = [
    "write_report",
    "panels",
    "Panel",
    "comparison",
    "KNOWN",
    "SHOWN",
    "explanation",
    "Explanation",
    "spectrum_panel",
    "write_spectrum",
]
