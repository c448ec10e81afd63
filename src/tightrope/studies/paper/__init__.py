"""The figures of Cohen et al. 2022 (arXiv 2207.14484) as studies, a module a family."""

from .adaptive import ADAPTIVE
from .architectures import FIG4
from .frozen import FROZEN
from .minibatch import FIG6
from .momentum import FIG13
from .parabola import EXACT
from .sharpening import SHARPENING
from .solutions import SOLUTIONS

STUDIES = {study.name: study for study in (*ADAPTIVE, *FROZEN, *SHARPENING, *SOLUTIONS, FIG4, FIG6, FIG13, *EXACT)}

__all__ = ["STUDIES"]
