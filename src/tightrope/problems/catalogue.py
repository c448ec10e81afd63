"""Every problem a configuration can name."""

from __future__ import annotations

from .cifar import Cifar10, Cifar100
from .embedded import Chebyshev, Digits, Quadratic
from .imagenet import ImageNet
from .problem import ProblemConfig
from .sequences import Sequences
from .translation import Translation

AnyProblem = Digits | Cifar10 | Cifar100 | ImageNet | Sequences | Translation | Chebyshev | Quadratic
PROBLEMS: dict[str, type[ProblemConfig]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "imagenet": ImageNet,
    "sequences": Sequences,
    "translation": Translation,
    "chebyshev": Chebyshev,
    "quadratic": Quadratic,
}
