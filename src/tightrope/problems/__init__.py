"""Problems: model + data + loss as w -> L(w), from networks on real data to quadratics."""

from .archives import ARCHIVES, Archive, data_folder
from .catalogue import PROBLEMS, AnyProblem
from .cifar import Cifar10, Cifar100
from .downloads import download
from .embedded import Chebyshev, Digits, Quadratic
from .imagenet import ImageNet
from .losses import cross_entropy, half_squared_error, token_cross_entropy
from .models import Point, convolutional, fully_connected, small_convolutional
from .problem import Batch, Problem, ProblemConfig, classification, supervised
from .residual import bottleneck_residual, wide_residual
from .sequences import Sequences
from .transformer import Transformer
from .translation import Translation

__all__ = [
    "Archive",
    "ARCHIVES",
    "data_folder",
    "download",
    "Batch",
    "Problem",
    "supervised",
    "classification",
    "ProblemConfig",
    "Digits",
    "Cifar10",
    "Cifar100",
    "ImageNet",
    "Sequences",
    "Translation",
    "Chebyshev",
    "Quadratic",
    "AnyProblem",
    "PROBLEMS",
    "fully_connected",
    "convolutional",
    "small_convolutional",
    "wide_residual",
    "bottleneck_residual",
    "Transformer",
    "Point",
    "half_squared_error",
    "cross_entropy",
    "token_cross_entropy",
]
