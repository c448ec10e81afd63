"""Curvature of a loss as an operator on flat vectors, and its largest eigenvalues with bounds."""

from .bounds import krylov_error, probabilistic_upper
from .lanczos import EigenResult, top_eigenvalues
from .observation import observing
from .operators import Ascended, Dense, Scaled, SymmetricOperator
from .products import Hessian, LossFn

__all__ = [
    "SymmetricOperator",
    "Dense",
    "Scaled",
    "Ascended",
    "LossFn",
    "Hessian",
    "observing",
    "EigenResult",
    "top_eigenvalues",
    "krylov_error",
    "probabilistic_upper",
]
