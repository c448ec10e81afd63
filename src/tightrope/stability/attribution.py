"""Why a ratio changed: curvature, preconditioner, learning rate, clipping, or another direction.

Along a fixed direction x the ratio is a product, x'T(H)x / x'D^-1 x, so the logs of its factors add up.
Legend: D = edge scaling, P = preconditioner, T(H) = Hessian as the method meets it, x = direction in weight space.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from tightrope.optim import Frozen, FrozenGroup

SMALL = 0.05
"""A factor within this of 1 is not worth a word."""
SHARPER = 0.25
"""By how much the sharpest direction is sharper than the former one where it is said to be another."""
ALONE = 0.995
"""A cause with more of the push than this needs no share."""


@dataclass(frozen=True)
class Landmark:
    """A reading that later ones are compared with.

    Attributes:
        step: When.
        ratio: What it was.
        x: (p,) its top direction in weight space, of any length.
        curvature: x'T(H)x.
        stiffness: sum of x^2 P over each parameter group.
        edges: (2 - lr wd) / (lr F(-1)) of each group, by which its stiffness counts in x'D^-1 x.
        lrs: Learning rate of each group.
        response: What clipping multiplied a change of the gradient by; None where elements differ.
    """

    step: int
    ratio: float
    x: Tensor
    curvature: float
    stiffness: tuple[float, ...]
    edges: tuple[float, ...]
    lrs: tuple[float, ...]
    response: float | None


@dataclass(frozen=True)
class Attribution:
    """What a change of the ratio is made of.

    Attributes:
        since: Step of the reading compared with.
        before, after: The ratio then and now.
        factors: By what each cause multiplied the ratio; their product is after / before. "curvature" and
            "preconditioner" along the former top direction, "learning rate" (with momentum and decay), "clipping",
            and "direction": how much sharper the present top direction is than the former.
        words: One sentence. "curvature" and "direction" are one there, and a cause has its share of the logs of those
            that pushed in the direction of the change.
    """

    since: int
    before: float
    after: float
    factors: dict[str, float]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict, as they are stored."""
        return asdict(self)


def landmark(step: int, ratio: float, top: Tensor, frozen: Frozen) -> Landmark | None:
    """What to remember of a reading for later comparison; None where the ratio is not a product of this kind.

    Args:
        step: Of the reading.
        ratio: Its ratio.
        top: (p,) unit top direction in coordinates scaled by D^-1/2, as `Probe.top_direction`.
        frozen: The method measured against.
    """
    if not _is_diagonal(frozen) or not ratio > 0:
        return None
    assert frozen.D is not None
    x = frozen.D.sqrt().to(top) * top
    response = frozen.response if isinstance(frozen.response, float) else None
    lrs = tuple(group.lr for group in frozen.groups)
    # The top direction has unit length in the scaled coordinates: x'D^-1 x = 1, and x'T(H)x is the ratio itself.
    return Landmark(step, ratio, x, ratio, _stiffness(x, frozen), _edges(frozen), lrs, response)


def attribution(then: Landmark, ratio: float, along: float, frozen: Frozen) -> Attribution | None:
    """What took the ratio from a landmark to where it is now.

    Args:
        then: The reading compared with.
        ratio: The present one.
        along: The present x'T(H)x for the landmark's x, see `Probe.measure`.
        frozen: The present method, over the same parameters in the same groups.
    Returns:
        Attribution; None where a factor is not positive, so that it has no logarithm, or the groups differ.
    """
    if not _is_diagonal(frozen) or len(frozen.groups) != len(then.edges) or not (ratio > 0 and along > 0):
        return None
    if frozen.P is None or frozen.P.shape != then.x.shape:
        return None
    stiffness, edges = _stiffness(then.x, frozen), _edges(frozen)
    if not all(x > 0 and math.isfinite(x) for x in (_weighed(edges, stiffness), _weighed(then.edges, then.stiffness))):
        return None
    response = frozen.response if isinstance(frozen.response, float) else None
    clipping = math.log(response / then.response) if response and then.response else 0.0
    logs = {
        "curvature": math.log(along / then.curvature) - clipping,
        "preconditioner": -_change(stiffness, then.stiffness, edges, then.edges),
        "learning rate": -_change(edges, then.edges, stiffness, then.stiffness),
        "clipping": clipping,
        "direction": math.log(ratio * _weighed(edges, stiffness) / along),
    }
    has_same_lr = then.lrs == tuple(group.lr for group in frozen.groups)
    words = _words(then, ratio, logs, "momentum or decay" if has_same_lr else "learning rate")
    return Attribution(then.step, then.ratio, ratio, {name: math.exp(part) for name, part in logs.items()}, words)


def _is_diagonal(frozen: Frozen) -> bool:
    return frozen.status == "linear" and frozen.P is not None and frozen.P.ndim == 1


def _stiffness(x: Tensor, frozen: Frozen) -> tuple[float, ...]:
    assert frozen.P is not None
    weights = x.double().square() * frozen.P.double()
    return tuple(float(part.sum()) for part in weights.split([group.size for group in frozen.groups]))


def _edges(frozen: Frozen) -> tuple[float, ...]:
    return tuple(_edge(group) for group in frozen.groups)


def _edge(group: FrozenGroup) -> float:
    """(2 - lr wd) / (lr F(-1)): the threshold on lambda_1(P^-1 T(H)); a group that stands still weighs nothing."""
    return group.threshold if math.isfinite(group.threshold) else 0.0


def _weighed(edges: tuple[float, ...], stiffness: tuple[float, ...]) -> float:
    return sum(edge * s for edge, s in zip(edges, stiffness, strict=True))


def _change(
    now: tuple[float, ...], then: tuple[float, ...], other_now: tuple[float, ...], other_then: tuple[float, ...]
) -> float:
    """Of the log of the weighed sum as one factor goes from then to now: the mean over both orders of the two."""
    late = math.log(_weighed(now, other_now) / _weighed(then, other_now))
    early = math.log(_weighed(now, other_then) / _weighed(then, other_then))
    return (late + early) / 2


CAUSES = {
    "curvature": ("the curvature rose", "the curvature fell"),
    "preconditioner": ("the preconditioner shrank", "the preconditioner grew"),
    "learning rate": ("the learning rate rose", "the learning rate fell"),
    "momentum or decay": ("momentum or decay moved the edge closer", "momentum or decay moved the edge away"),
    "clipping": ("clipping let go", "clipping took hold"),
}


def _words(then: Landmark, ratio: float, logs: dict[str, float], rate: str) -> str:
    """One sentence: what drove the change, by which factor and with which share of the drive, and what opposed it.

    A former direction that is no longer the sharpest shows as less curvature and as another direction that is sharper,
    two large numbers that cancel: they are said as one.
    """
    total = math.log(ratio / then.ratio)
    named = {rate if name == "learning rate" else name: part for name, part in logs.items() if name != "direction"}
    named["curvature"] += logs["direction"]
    worth = sorted(
        ((name, part) for name, part in named.items() if abs(part) > math.log1p(SMALL)), key=lambda pair: -abs(pair[1])
    )
    drive = sum(part for part in named.values() if part * total > 0)
    elsewhere = ", now along another direction" if logs["direction"] > math.log1p(SHARPER) else ""
    said = [(_said(name, part, elsewhere), part) for name, part in worth]
    with_it = [f"{words}{_share(part / drive)}" for words, part in said if part * total > 0]
    against = [words for words, part in said if part * total < 0]
    went = f"The ratio went from {then.ratio:.3g} at step {then.step:,} to {ratio:.3g}"
    if not with_it:
        return f"{went}; no one cause stands out."
    return f"{went}: {', '.join(with_it)}{'; against it ' + ', '.join(against) if against else ''}."


def _said(name: str, part: float, elsewhere: str) -> str:
    return f"{CAUSES[name][part < 0]} {math.exp(abs(part)):.3g} times{elsewhere if name == 'curvature' else ''}"


def _share(share: float) -> str:
    return "" if share > ALONE else f" ({share:.0%} of the push)"
