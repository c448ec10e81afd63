"""The figures of Cohen et al. 2022 (arXiv 2207.14484) as studies, a module a family."""

from .adaptive import ADAPTIVE
from .architectures import FIG4
from .frozen import FROZEN
from .minibatch import FIG6
from .momentum import FIG13
from .parabola import EXACT
from .sharpening import SHARPENING
from .solutions import SOLUTIONS
from .warmup import FIG7

_STUDIES = (*ADAPTIVE, *FROZEN, *SHARPENING, *SOLUTIONS, FIG4, FIG6, FIG7, FIG13, *EXACT)
STUDIES = {study.name: study for study in _STUDIES}

__all__ = ["STUDIES"]
