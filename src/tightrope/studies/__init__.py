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
from .endings import AtTheEnd
from .execution import Execution, GridProgress, check_problems, execute
from .figure import picture
from .folder import RunState, StudyFolder
from .forecast import Forecast, forecast
from .judgement import Judgement, judge, total
from .panels import Computed, GradientSplit, OverSteps, Panel, TopEigenvalues
from .study import SCALES, Case, Study, check_scale, run_key

__all__ = [
    "Study",
    "Case",
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
    "Panel",
    "OverSteps",
    "TopEigenvalues",
    "GradientSplit",
    "AtTheEnd",
    "Computed",
    "picture",
]
