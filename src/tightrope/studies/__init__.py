"""The paper's figures as studies: grids of runs, carried out side by side, and checks that decide their claims."""

from .catalogue import STUDIES, studies
from .check import (
    AboveMoreOften,
    AtItsEdge,
    Check,
    Exact,
    Finding,
    MostAtTheirEdge,
    Outcome,
    decide,
    verdict_of,
)
from .cluster import Cluster
from .connection import connected
from .execution import check_problems, execute
from .folder import RunState, StudyFolder
from .forecast import Forecast, forecast
from .grid import Execution, GridProgress
from .judgement import Judgement, judge, total
from .own import own_study
from .short_run import CANDIDATES, SEARCH_STEPS, find_rates, spaced
from .soundness import Soundness, examine
from .study import SCALES, Case, Panel, Study, check_scale, run_key

__all__ = [
    "Study",
    "Case",
    "Panel",
    "SCALES",
    "check_scale",
    "run_key",
    "STUDIES",
    "studies",
    "StudyFolder",
    "RunState",
    "check_problems",
    "execute",
    "Execution",
    "GridProgress",
    "connected",
    "Cluster",
    "forecast",
    "Forecast",
    "Check",
    "Outcome",
    "Finding",
    "decide",
    "verdict_of",
    "AtItsEdge",
    "MostAtTheirEdge",
    "AboveMoreOften",
    "Exact",
    "judge",
    "Judgement",
    "total",
    "examine",
    "Soundness",
    "find_rates",
    "CANDIDATES",
    "SEARCH_STEPS",
    "spaced",
    "own_study",
]
