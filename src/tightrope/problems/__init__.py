"""Problems: model + data + loss as w -> L(w), from networks on real data to quadratics."""

from .archives import ARCHIVES, Archive, data_folder
from .catalogue import PROBLEMS, AnyProblem
from .cifar import Cifar10, Cifar100
from .downloads import download
from .embedded import Chebyshev, Digits, Quadratic
from .losses import cross_entropy, half_squared_error
from .models import Point, convolutional, fully_connected
from .problem import Batch, Problem, ProblemConfig, classification, supervised

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
    "Chebyshev",
    "Quadratic",
    "AnyProblem",
    "PROBLEMS",
    "fully_connected",
    "convolutional",
    "Point",
    "half_squared_error",
    "cross_entropy",
]
