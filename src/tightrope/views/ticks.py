"""The numbers along a logarithmic axis: all of one axis are written in one way, on paper and on a page."""

from __future__ import annotations

from sys import float_info

import numpy as np

FEW_DECADES = float(np.log10(80))
"""An axis that spans less is numbered 1, 2, 5, 10, any other in powers of ten alone."""
PLAIN = 5e-5, 1e5
"""Ends between which every number 1, 2, 5, 10 is short without a power of ten: 0.0001 to 50000."""


def decades(low: float, high: float) -> float:
    """How many powers of ten lie between the ends of an axis; none is too far from the other."""
    return float(np.log10(high) - np.log10(low))


def spans_few_decades(low: float, high: float) -> bool:
    """Whether an axis has too few powers of ten to be numbered by them alone."""
    return decades(low, high) < FEW_DECADES


def is_plain(low: float, high: float) -> bool:
    """Whether the numbers of an axis are written without a power of ten."""
    return PLAIN[0] < low and high <= PLAIN[1]


def in_digits(value: float) -> str:
    """0.0001, 0.05, 20000."""
    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


def in_powers(value: float) -> tuple[str, int]:
    """The digits and the power of ten of a positive number: 2.5 and 5 for 250000."""
    digits, power = f"{value:.5e}".split("e")
    return digits.rstrip("0").rstrip("."), int(power)


def powers(low: float, high: float) -> list[int]:
    """Powers of ten that number an axis, at most about five of them on it; those beyond its ends serve who moves it."""
    stride = max(1, round(decades(low, high) / 5))
    first, last = (int(np.floor(np.log10(end) / stride)) for end in (low, high))
    found = [stride * place for place in range(first - 3, last + 5)]
    return [power for power in found if float_info.min_10_exp <= power <= float_info.max_10_exp]
