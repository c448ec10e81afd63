"""What the exact figures draw: the library's own methods on x^2 / 2, and the growth of three of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tightrope.optim import GradientMethod, HeavyBall, Momentum, RMSProp, heavy_ball, nesterov, none
from tightrope.stability import asymptotic_growth_factor
from tightrope.views import Chart, Line, fit

from ..trajectory import followed, on_parabola, reparameterised

BETA = 0.9
RATES_ABOUT_38 = (36.0, 37.0, 38.0, 39.0, 40.0)
BETA2S = (0.9, 0.99, 0.999)
RMSPROP_RATES = (2.1, 2.2, 2.4)
"""Figure 12's right column: the paper leaves its three rates open; these all lie above 2, where it starts unstable."""
STABLE_RATES = (10.0, 20.0, 30.0)
"""Figure 17: the paper leaves its three rates open; these are stable ones over the range."""
STANDARD = {
    "GD(0.2)": (none(), 0.2),
    "heavy ball(0.02, 0.9)": (heavy_ball(BETA, ema=False), 0.02),
    "Nesterov(0.02, 0.9)": (nesterov(BETA, ema=False), 0.02),
}
"""Figure 14: three methods of one effective learning rate, in standard form."""


def averaged(lr: float) -> Callable[..., GradientMethod]:
    """Heavy ball that averages its gradients, as Adam does."""
    return lambda params: HeavyBall(params, lr, BETA, ema=True)


def reparameterised_runs(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The two runs that Proposition 1 says are one, (num_steps + 1, p) each: averaged heavy ball at lr 0.5."""

    def make(params: object, **options: object) -> GradientMethod:
        return GradientMethod(params, 0.5, momentum=heavy_ball(BETA, ema=True), **options)  # type: ignore[arg-type]

    ours, theirs = reparameterised(make, num_steps)
    return ours.numpy(), theirs.numpy()


def around_the_threshold() -> list[Chart]:
    """Figure 2: |x| over 100 steps of averaged heavy ball; the threshold is lr 38."""
    paths = {lr: np.abs(on_parabola(averaged(lr), 100)) for lr in RATES_ABOUT_38}
    lines = _ranked({f"lr {lr:g}": path for lr, path in paths.items()})
    return fit([Chart(lines, y_title="|x|", is_y_log=True)])


def rmsprop_positions() -> list[Chart]:
    """Figure 12, upper row: x over 60 steps of RMSProp from x = 1 and nu = 1."""
    return _rmsprop("x")


def rmsprop_moments() -> list[Chart]:
    """Figure 12, lower row: nu over the same steps."""
    return _rmsprop("nu")


def growth_factors() -> list[Chart]:
    """Figure 14: the asymptotic growth factor over the curvature, up to 1.1 times each threshold."""
    charts = []
    for look, (name, (rule, lr)) in enumerate(STANDARD.items()):
        threshold = rule.stability_threshold(lr)
        curvature = np.linspace(0, 1.1, 441)[1:] * threshold
        factors = _factors(rule, lr, curvature)
        line = Line(curvature, factors, look=look)
        charts.append(
            Chart(
                (line,),
                title=name,
                x_title="Hessian eigenvalue",
                y_title="asymptotic growth factor",
                levels=(1.0,),
                level_name="neither grows nor shrinks",
                marks=(threshold,),
                mark_name="stability threshold",
            )
        )
    return fit(charts, is_shared=True)


def stable_positions() -> list[Chart]:
    """Figure 17, upper row: x over 30 steps of averaged heavy ball from x = 1 and m = 0.2."""
    return _stable("x", lambda x, m: x)


def stable_momenta() -> list[Chart]:
    """Figure 17, middle row: m over the same steps."""
    return _stable("m", lambda x, m: m)


def stable_gradients() -> list[Chart]:
    """Figure 17, lower row: the squared gradient over the same steps; dashed where it began."""
    charts = _stable("squared gradient", lambda x, m: x * x, level=1.0)
    return fit(charts)


def trajectories() -> list[Chart]:
    """Proposition 1: how far the two runs are apart, and how far they have gone, over 500 steps."""
    ours, theirs = reparameterised_runs(500)
    steps = np.arange(len(ours), dtype=float)
    gone = np.linalg.norm(ours - ours[0], axis=1)
    apart = np.linalg.norm(ours - theirs, axis=1)
    lines = (Line(steps, gone, "from where they began"), Line(steps, apart, "from one another", look=1))
    return fit([Chart(lines, y_title="distance", is_y_log=True)])


def _ranked(paths: dict[str, np.ndarray]) -> tuple[Line, ...]:
    """A line each, coloured from the first to the last."""
    last = max(1, len(paths) - 1)
    return tuple(
        Line(np.arange(len(path), dtype=float), np.asarray(path), label, rank=place / last)
        for place, (label, path) in enumerate(paths.items())
    )


def _rmsprop(column: str) -> list[Chart]:
    left = {f"beta2 {beta2:g}": _rmsprop_path(2.2, beta2)[column] for beta2 in BETA2S}
    right = {f"lr {lr:g}": _rmsprop_path(lr, 0.999)[column] for lr in RMSPROP_RATES}
    charts = [
        Chart(_ranked(paths), title=title, y_title=column)
        for title, paths in (("lr 2.2", left), ("beta2 0.999", right))
    ]
    return fit(charts, is_shared=True)


def _rmsprop_path(lr: float, beta2: float) -> dict[str, np.ndarray]:
    return followed(lambda params: RMSProp(params, lr, beta2=beta2, eps=0.0), 60, state={"nu": 1.0}, names=("nu",))


def _factors(rule: Momentum, lr: float, curvature: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.array([asymptotic_growth_factor(rule, lr, float(value)) for value in curvature])


def _stable(
    y_title: str, value: Callable[[np.ndarray, np.ndarray], np.ndarray], level: float | None = None
) -> list[Chart]:
    charts = []
    for place, lr in enumerate(STABLE_RATES):
        path = followed(averaged(lr), 30, state={"m": 0.2}, names=("m",))
        y = value(path["x"], path["m"])
        rank = place / (len(STABLE_RATES) - 1)
        line = Line(np.arange(len(y), dtype=float), y, rank=rank, has_marks=True, level=level)
        charts.append(Chart((line,), title=f"lr {lr:g}", y_title=y_title, level_name="at first"))
    return fit(charts)
