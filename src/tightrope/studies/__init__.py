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
from .cycles import OrderOfEvents, SharpnessOverACycle, SpikesInTheTop
from .endings import AtTheEnd
from .execution import check_problems, execute
from .figure import picture
from .folder import RunState, StudyFolder
from .forecast import Forecast, forecast
from .grid import Execution, GridProgress
from .growth import RawGrowth, RisesWhenFrozen, StaysShort
from .judgement import Judgement, judge, total
from .minibatches import MidTraining, NeverFarBeyond
from .own import own_study
from .panels import Computed, GradientSplit, OverSteps, Panel, TopEigenvalues
from .short_run import CANDIDATES, SEARCH_STEPS, find_rates, spaced
from .solutions import FallsWith, SharperAtEqualSteps
from .soundness import Soundness, examine
from .study import SCALES, Case, Study, check_scale, run_key
from .warmup import LargerBatchHigher, PushedDown, ShortOnAverage, SpikesLate

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
    "RawGrowth",
    "RisesWhenFrozen",
    "StaysShort",
    "OrderOfEvents",
    "SharpnessOverACycle",
    "SpikesInTheTop",
    "MidTraining",
    "NeverFarBeyond",
    "PushedDown",
    "ShortOnAverage",
    "LargerBatchHigher",
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
    "examine",
    "Soundness",
    "find_rates",
    "CANDIDATES",
    "SEARCH_STEPS",
    "spaced",
    "own_study",
]
