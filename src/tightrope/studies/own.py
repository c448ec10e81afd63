"""Figure 5's panel for an optimizer of one's own: a study made on the spot."""

from __future__ import annotations

import math
import re
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
LONGEST = 50
"""Letters of a label in the names of its files, which may have 255 bytes, up to four a letter."""


def own_study(method: ForeignRecipe, rates: Iterable[float]) -> Study:
    """An optimizer at several rates on the Chebyshev network, each run judged against the optimizer's own threshold."""
    rates = tuple(rates)
    options = ", ".join(f"{name}={value}" for name, value in method.options.items())
    return Study(
        name=f"aeos-{_file_name(method.label)}",
        title=f"{len(rates)} learning {'rate' if len(rates) == 1 else 'rates'} on the Chebyshev network",
        figure=method.label,
        version=1,
        grids=(("small", lambda: [Case(f"lr {lr:g}", _run(method, lr), method.label) for lr in rates]),),
        panels=PANELS,
        caption=f"{method.label} is called with {options}." if options else "",
        checks=(MostAtTheirEdge("at its own threshold", BAND, at_least=math.ceil(MOST * len(rates) - 1e-9)),),
    )


def _file_name(label: str) -> str:
    """A label as part of a file's name: no separators, and short enough in any alphabet."""
    return re.sub(r"\W", "-", label)[:LONGEST]


def _run(method: ForeignRecipe, lr: float) -> RunConfig:
    return chebyshev_run({"name": "foreign", "lr": lr, "path": method.path, "options": method.options})
