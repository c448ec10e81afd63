"""Figure 5's panel for an optimizer of one's own: a study made on the spot."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tightrope.optim import ForeignRecipe
from tightrope.training import RunConfig

from .check import MostAtTheirEdge
from .paper.adaptive import PANELS
from .paper.networks import chebyshev_run
from .study import Case, Study

BAND = (0.85, 1.15)
MOST = 0.8
"""Share of the rates at which a method must sit at its edge: four of five, as for the methods of Figure 5."""


def own_study(method: ForeignRecipe, rates: Iterable[float]) -> Study:
    """An optimizer at several rates on the Chebyshev network, each run judged against the optimizer's own threshold."""
    rates = tuple(rates)
    return Study(
        name=f"aeos-{method.label}",
        title=f"{method.label} at its own edge of stability",
        figure="Figure 5, a panel of one's own",
        version=1,
        grids=(("small", lambda: [Case(f"lr {lr:g}", _run(method, lr), method.label) for lr in rates]),),
        panels=PANELS,
        checks=(MostAtTheirEdge("at its own threshold", BAND, at_least=math.ceil(MOST * len(rates) - 1e-9)),),
    )


def _run(method: ForeignRecipe, lr: float) -> RunConfig:
    return chebyshev_run({"name": "foreign", "lr": lr, "path": method.path, "options": method.options})
