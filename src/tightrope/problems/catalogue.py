"""Every problem a configuration can name."""

from __future__ import annotations

from .cifar import Cifar10, Cifar100
from .embedded import Chebyshev, Digits, Quadratic
from .problem import ProblemConfig

AnyProblem = Digits | Cifar10 | Cifar100 | Chebyshev | Quadratic
PROBLEMS: dict[str, type[ProblemConfig]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "chebyshev": Chebyshev,
    "quadratic": Quadratic,
}
