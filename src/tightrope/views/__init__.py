"""Pictures and tables of stored runs: the HTML report, its panels, runs side by side, figures for paper and page."""

from .charts import Block, Chart, Line, Picture, block, fit
from .comparison import KNOWN, SHOWN, comparison
from .explanation import Explanation, explanation
from .figures import Panel, panels
from .grid import picture_panel
from .prints import prints, write_prints
from .report import write_report
from .sheet import write_sheet
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
    "Picture",
    "Block",
    "Chart",
    "Line",
    "block",
    "fit",
    "picture_panel",
    "write_sheet",
    "prints",
    "write_prints",
]
