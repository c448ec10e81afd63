"""The paper's exact figures: 2, 12, 14 and 17, and Proposition 1. They are computed, not trained for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from tightrope.optim import Momentum, RMSProp, heavy_ball, nesterov, none
from tightrope.stability import asymptotic_growth_factor

from ..check import Check, Exact
from ..panels import Computed
from ..study import Study
from ..trajectory import on_parabola
from . import curves
from .curves import BETA, STABLE_RATES, averaged, reparameterised_runs

LARGEST = {0.9: (1.479, 3), 0.99: (2.588, 8), 0.999: (6.514, 14)}
"""Figure 12 at lr 2.2 from nu = 1: beta2 -> largest |x| to three digits, and its step."""
GROWTH = {
    "GD": (none(), 1.2000),
    "Nesterov": (nesterov(BETA, ema=False), 1.2823),
    "heavy ball": (heavy_ball(BETA, ema=False), 1.7721),
}
"""Figure 14: the asymptotic growth factor at 1.1 times the threshold."""


def _late_size(lr: float) -> float:
    """|x| after 2,500 steps of averaged heavy ball, from 1."""
    return max(abs(x) for x in on_parabola(averaged(lr), 2500)[-20:])


@functools.cache
def _sizes(beta2: float) -> list[float]:
    """|x| of RMSProp at lr 2.2, from x = 1 and nu = 1."""
    state = {"nu": 1.0}
    path = on_parabola(lambda params: RMSProp(params, 2.2, beta2=beta2, eps=0.0), 2500, state=state)
    return [abs(x) for x in path]


def _digits(value: float) -> tuple[float, float]:
    """Everything that rounds to a number of three digits after the point."""
    return (value - 5e-4, value + 5e-4)


def _growth(rule: Momentum, multiple: float) -> float:
    lr = 0.1
    return asymptotic_growth_factor(rule, lr, multiple * rule.stability_threshold(lr))


def _steepness(name: str) -> float:
    """Heavy ball's growth beyond 1 over another method's, at 1.1 times each one's threshold."""
    return (_growth(GROWTH["heavy ball"][0], 1.1) - 1) / (_growth(GROWTH[name][0], 1.1) - 1)


@functools.cache
def _squared_gradients(lr: float) -> list[float]:
    """Of averaged heavy ball on x^2 / 2 from x = 1 and m = 0.2: what the paper's bottom row shows."""
    path = on_parabola(averaged(lr), 1000, state={"m": 0.2})
    return [x * x for x in path]


def _distance_of_trajectories() -> float:
    """Largest difference of the two runs that Proposition 1 says are one, over 500 steps."""
    ours, theirs = reparameterised_runs(500)
    return float(np.abs(ours - theirs).max())


def _number(function: Callable[..., float], *arguments: object) -> Callable[[], float]:
    return functools.partial(function, *arguments)


def _peak(beta2: float) -> float:
    return max(_sizes(beta2))


def _step_of_peak(beta2: float) -> float:
    return float(_sizes(beta2).index(_peak(beta2)))


def _last(beta2: float) -> float:
    return _sizes(beta2)[-1]


def _largest_squared_gradient(lr: float) -> float:
    return max(_squared_gradients(lr)[:31])


def _last_squared_gradient(lr: float) -> float:
    return _squared_gradients(lr)[-1]


def _rmsprop_checks() -> tuple[Check, ...]:
    checks: list[Check] = []
    for beta2, (peak, step) in LARGEST.items():
        checks.append(Exact(f"largest |x| at beta2 {beta2:g}", _number(_peak, beta2), _digits(peak)))
        checks.append(Exact(f"its step at beta2 {beta2:g}", _number(_step_of_peak, beta2), (step, step)))
        # The longest memory still swings after 2,500 steps; it has stopped growing all the same.
        band = (1.0995, 1.1005) if beta2 < 0.999 else (0.0, peak / 2)
        checks.append(Exact(f"|x| after 2,500 steps at beta2 {beta2:g}", _number(_last, beta2), band))
    return tuple(checks)


FIG2 = Study(
    name="fig2",
    title="Averaged heavy ball on x^2 / 2 diverges beyond lr 38",
    figure="Figure 2",
    version=1,
    panels=(Computed(curves.around_the_threshold),),
    caption=(
        "The distance from the minimum of x^2 / 2, from 1: below the threshold of 38 it shrinks, above it "
        "grows, at 38 it does neither."
    ),
    checks=(
        Exact("|x| after 2,500 steps at lr 37.9: it converges", _number(_late_size, 37.9), (0.0, 1e-40)),
        Exact("|x| after 2,500 steps at lr 38.1: it diverges", _number(_late_size, 38.1), (1e40, math.inf)),
    ),
)
FIG12 = Study(
    name="fig12",
    title="RMSProp on x^2 / 2 explodes for finitely many steps",
    figure="Figure 12",
    version=1,
    panels=(
        Computed(curves.rmsprop_positions),
        Computed(curves.rmsprop_moments),
    ),
    caption=(
        "From x = 1 and nu = 1, where every one of these rates is unstable. x explodes until its gradients "
        "have raised nu."
    ),
    checks=_rmsprop_checks(),
)
FIG14 = Study(
    name="fig14",
    title="Just beyond the edge heavy ball grows fastest",
    figure="Figure 14",
    version=1,
    panels=(Computed(curves.growth_factors),),
    caption=(
        "What a component of the iterate is multiplied by a step, in the long run, over the curvature along "
        "it, up to 1.1 times each threshold (dotted)."
    ),
    checks=(
        *(
            Exact(f"{name}: growth at its threshold", _number(_growth, rule, 1.0), (1 - 1e-7, 1 + 1e-7))
            for name, (rule, _) in GROWTH.items()
        ),
        *(
            Exact(f"{name}: growth at 1.1 times it", _number(_growth, rule, 1.1), (value - 5e-5, value + 5e-5))
            for name, (rule, value) in GROWTH.items()
        ),
        *(
            Exact(f"heavy ball's growth beyond 1 over that of {name}", _number(_steepness, name), (1.0, math.inf))
            for name in ("GD", "Nesterov")
        ),
    ),
)
FIG17 = Study(
    name="fig17",
    title="Momentum makes large gradients even where it is stable",
    figure="Figure 17",
    version=1,
    panels=(
        Computed(curves.stable_positions),
        Computed(curves.stable_momenta),
        Computed(curves.stable_gradients),
    ),
    caption=(
        "Averaged heavy ball from x = 1 and m = 0.2 at three rates below its threshold of 38; dashed is the "
        "squared gradient at first."
    ),
    checks=(
        *(
            Exact(
                f"lr {lr:g}: largest squared gradient in 30 steps; 1 at first",
                _number(_largest_squared_gradient, lr),
                (math.nextafter(1.0, 2.0), math.inf),
            )
            for lr in STABLE_RATES
        ),
        *(
            Exact(f"lr {lr:g}: squared gradient after 1,000 steps", _number(_last_squared_gradient, lr), (0.0, 1e-12))
            for lr in STABLE_RATES
        ),
    ),
)
P1 = Study(
    name="p1",
    title="A preconditioned run is a plain run on f(P^-1/2 x)",
    figure="Proposition 1",
    version=1,
    panels=(Computed(curves.trajectories),),
    caption=(
        "A run with the preconditioner P, times P^1/2, and the run without it on f(P^-1/2 x): how far each "
        "has gone, and how far apart they are."
    ),
    checks=(
        Exact(
            "largest difference of the two trajectories, 500 steps on the Chebyshev network",
            _distance_of_trajectories,
            (0.0, 1e-12),
        ),
    ),
)
EXACT = (FIG2, FIG12, FIG14, FIG17, P1)
