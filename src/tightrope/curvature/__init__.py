"""Curvature of a loss as an operator on flat vectors, and its largest eigenvalues with bounds."""

from .blocks import Block, block_eigenvalues, group_blocks, layer_blocks
from .bounds import krylov_error, probabilistic_upper
from .change import gradient_norm, loss_change
from .composition import Projected, Shifted, Squared, Sum, to_scipy
from .conditioning import ConditionNumber, condition_number
from .differences import FiniteDifference
from .distributed import Sharded
from .extremes import extreme_eigenvalues
from .fisher import Fisher
from .gauss_newton import Criterion, GaussNewton
from .lanczos import top_eigenvalues
from .layers import LayerShare, layer_shares, participation
from .loss_curvature import LossCurvature, LossFn, SelfCheck
from .observation import gradients_set_aside, is_compiled, observing, random_states_kept
from .operators import Ascended, Dense, Scaled, SymmetricOperator
from .pieces import MicroBatches, mapped, num_examples, rows, tensors
from .precision import autocast_set_aside, working_dtype
from .products import Hessian
from .rebuilt import RebuiltHessian
from .repetition import Draws, Repetition, repetition
from .results import BottomResult, EigenResult, Extremes
from .routes import hessian
from .selfcheck import self_check
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
    "Block",
    "Sharded",
    "to_scipy",
    "LossFn",
    "LossCurvature",
    "MicroBatches",
    "num_examples",
    "mapped",
    "rows",
    "tensors",
    "Hessian",
    "RebuiltHessian",
    "FiniteDifference",
    "Criterion",
    "GaussNewton",
    "Fisher",
    "hessian",
    "self_check",
    "SelfCheck",
    "loss_change",
    "gradient_norm",
    "observing",
    "gradients_set_aside",
    "random_states_kept",
    "autocast_set_aside",
    "working_dtype",
    "repetition",
    "Repetition",
    "Draws",
    "is_compiled",
    "EigenResult",
    "top_eigenvalues",
    "BottomResult",
    "Extremes",
    "extreme_eigenvalues",
    "block_eigenvalues",
    "layer_blocks",
    "group_blocks",
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
