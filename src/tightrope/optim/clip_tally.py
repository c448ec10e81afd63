"""How often clipping acted over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from .clipping import Clipped


class ClipTally(msgspec.Struct, forbid_unknown_fields=True):
    """How often clipping acted over a run, in plain numbers that a checkpoint can hold.

    Attributes:
        label: The clipping's own.
        num_steps: Steps seen.
        num_active: Steps on which anything was clipped.
        num_not_finite: Steps whose gradient held NaN or infinity.
        num_units, num_clipped: Sums over the steps.
        factors: How many steps had a factor near e^(k / 100), for each k; of the global norm only.
    Example:
        >>> tally = ClipTally("global norm 1")
        >>> tally.add(Clipped(num_clipped=1, num_units=1, norm=2.0, factor=0.5))
        >>> tally.words
        'clipping acted on 1 of 1 steps (global norm 1; median factor 0.50)'
    """

    label: str
    num_steps: int = 0
    num_active: int = 0
    num_not_finite: int = 0
    num_units: int = 0
    num_clipped: int = 0
    factors: dict[int, int] = {}

    def add(self, clipped: Clipped) -> None:
        """Count one step."""
        self.num_steps += 1
        self.num_active += clipped.num_clipped > 0
        self.num_not_finite += not clipped.is_finite
        self.num_units += clipped.num_units
        self.num_clipped += clipped.num_clipped
        if clipped.num_clipped and isinstance(clipped.factor, float):
            k = round(100 * math.log(clipped.factor))
            self.factors[k] = self.factors.get(k, 0) + 1

    @property
    def share_clipped(self) -> float:
        """Share of all units that were clipped; 0 before any step."""
        return self.num_clipped / max(self.num_units, 1)

    @property
    def median_factor(self) -> float | None:
        """Median factor of the steps on which the global norm acted, within half a percent; None if it never did."""
        seen = 0
        for k in sorted(self.factors):
            seen += self.factors[k]
            if 2 * seen >= self.num_active:
                return math.exp(k / 100)
        return None

    @property
    def words(self) -> str:
        """One sentence."""
        details = [self.label]
        if self.median_factor is not None:
            details.append(f"median factor {self.median_factor:.2f}")
        elif self.num_active:
            details.append(f"{self.share_clipped:.2%} of units")
        if self.num_not_finite:
            details.append(f"gradients not finite on {self.num_not_finite}, left as they were")
        return f"clipping acted on {self.num_active} of {self.num_steps} steps ({'; '.join(details)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values with string keys; `ClipTally.from_dict` reads them back."""
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ClipTally:
        """The tally that `to_dict` wrote."""
        return msgspec.convert(plain, cls, str_keys=True)
