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
from .cycles import OrderOfEvents, SharpnessOverACycle, SpikesInTheTop
from .endings import AtTheEnd
from .execution import Execution, GridProgress, check_problems, execute
from .figure import picture
from .folder import RunState, StudyFolder
from .forecast import Forecast, forecast
from .growth import RawGrowth, RisesWhenFrozen
from .judgement import Judgement, judge, total
from .minibatches import MidTraining, NeverFarBeyond
from .panels import Computed, GradientSplit, OverSteps, Panel, TopEigenvalues
from .solutions import FallsWith, SharperAtEqualSteps
from .study import SCALES, Case, Study, check_scale, run_key
from .warmup import LargerBatchNearer, PushedDown, SpikesLate

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
    "RawGrowth",
    "RisesWhenFrozen",
    "OrderOfEvents",
    "SharpnessOverACycle",
    "SpikesInTheTop",
    "MidTraining",
    "NeverFarBeyond",
    "PushedDown",
    "LargerBatchNearer",
    "SpikesLate",
    "FallsWith",
    "SharperAtEqualSteps",
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
