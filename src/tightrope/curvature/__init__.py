"""Curvature of a loss as an operator on flat vectors, and its largest eigenvalues with bounds."""

from .bounds import krylov_error, probabilistic_upper
from .composition import Projected, Shifted, Squared, Sum, to_scipy
from .conditioning import ConditionNumber, condition_number
from .distributed import Sharded
from .lanczos import EigenResult, top_eigenvalues
from .layers import LayerShare, layer_shares, participation
from .observation import observing
from .operators import Ascended, Dense, Scaled, SymmetricOperator
from .products import Hessian, LossFn
from .spectrum import SpectralDensity, SpectralEstimate, effective_dimension, spectral_density
from .trace import DiagonalEstimate, Estimate, diagonal, frobenius_norm, trace

__all__ = [
    "SymmetricOperator",
    "Dense",
    "Scaled",
    "Ascended",
    "Shifted",
    "Squared",
    "Sum",
    "Projected",
    "Sharded",
    "to_scipy",
    "LossFn",
    "Hessian",
    "observing",
    "EigenResult",
    "top_eigenvalues",
    "krylov_error",
    "probabilistic_upper",
    "SpectralDensity",
    "SpectralEstimate",
    "spectral_density",
    "effective_dimension",
    "Estimate",
    "trace",
    "frobenius_norm",
    "DiagonalEstimate",
    "diagonal",
    "ConditionNumber",
    "condition_number",
    "LayerShare",
    "layer_shares",
    "participation",
]
