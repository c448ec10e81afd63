"""Problems: model + data + loss as w -> L(w), from networks on real data to quadratics."""

from .losses import cross_entropy, half_squared_error
from .models import Point, fully_connected
from .problem import PROBLEMS, AnyProblem, Batch, Chebyshev, Digits, Problem, ProblemConfig, Quadratic, supervised

__all__ = [
    "Batch",
    "Problem",
    "supervised",
    "ProblemConfig",
    "Digits",
    "Chebyshev",
    "Quadratic",
    "AnyProblem",
    "PROBLEMS",
    "fully_connected",
    "Point",
    "half_squared_error",
    "cross_entropy",
]
