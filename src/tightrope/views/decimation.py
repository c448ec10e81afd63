"""Draw a long line with few points and lose none of its spikes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

MAX_POINTS = 2000


def extremes(values: np.ndarray, max_points: int = MAX_POINTS) -> np.ndarray:
    """Indices of the points to draw: the lowest and the highest of each of `max_points / 2` equal stretches.

    The first and the last point always stay, and so does one non-finite value of a stretch, as the gap it is.

    Args:
        values: (n,); non-finite values are neither lowest nor highest.
        max_points: A shorter line keeps all its points.
    Example:
        >>> extremes(np.array([0.0, 5.0, 1.0, 2.0, -3.0, 2.0]), max_points=4).tolist()
        [0, 1, 3, 4, 5]
    """
    n = len(values)
    if n <= max_points:
        return np.arange(n)
    kept = {0, n - 1}
    borders = np.linspace(0, n, max_points // 2 + 1).astype(int)
    for start, stop in pairwise(borders.tolist()):
        finite = np.isfinite(values[start:stop])
        places = start + np.flatnonzero(finite)
        if len(places):
            kept |= {int(places[values[places].argmin()]), int(places[values[places].argmax()])}
        if not finite.all():
            kept.add(start + int(finite.argmin()))
    return np.array(sorted(kept))
