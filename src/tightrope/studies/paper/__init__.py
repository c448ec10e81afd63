"""The figures of Cohen et al. 2022 (arXiv 2207.14484) as studies, a module a family."""

from .adaptive import ADAPTIVE
from .frozen import FROZEN
from .minibatch import FIG6
from .momentum import FIG13
from .parabola import EXACT
from .sharpening import SHARPENING
from .warmup import FIG7

STUDIES = {study.name: study for study in (*ADAPTIVE, *FROZEN, *SHARPENING, FIG6, FIG7, FIG13, *EXACT)}

__all__ = ["STUDIES"]
