"""What a Krylov space grown from a random vector proves about the largest eigenvalue.

Legend: p = size of the operator, m = products spent on one random start, epsilon = relative error.
"""

from __future__ import annotations

import math


def krylov_error(p: int, m: int, failure: float) -> float:
    """Relative error of the largest Ritz value that is exceeded with probability at most `failure`.

    The error is relative to the spread lambda_1 - lambda_p; the start is uniform on the sphere. Solves
    1.648 sqrt(p) exp(-sqrt(epsilon) (2m - 1)) = failure for epsilon.

    References:
        Kuczynski and Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13(4), Theorem 4.2.
    """
    if m < 1:
        return math.inf
    return (max(0.0, math.log(1.648 * math.sqrt(p) / failure)) / (2 * m - 1)) ** 2


def probabilistic_upper(p: int, m: int, largest: float, smallest: float, confidence: float) -> float:
    """Upper bound on lambda_1 that holds with probability `confidence` over the random start.

    Each extreme Ritz value errs by at most epsilon times the true spread S, each with half the failure
    probability, so S <= (largest - smallest) / (1 - 2 epsilon) and lambda_1 <= largest + epsilon S.

    Args:
        largest: Largest Ritz value of a space that contains the m-step Krylov space of one random vector.
        smallest: Smallest Ritz value of the same space.
    Returns:
        The bound; inf while too few products were spent to say anything.
    """
    epsilon = krylov_error(p, m, (1 - confidence) / 2)
    if epsilon >= 0.5:
        return math.inf
    return largest + epsilon * (largest - smallest) / (1 - 2 * epsilon)
