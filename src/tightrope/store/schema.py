"""What a run directory holds: the events, their columns and units.

A run is a directory: `config.toml`, `events.jsonl`, `arrays/`, `checkpoint/`. Each line of `events.jsonl` is one event
with a `type`; non-finite numbers are the strings "nan", "inf" and "-inf". What a resumed run had written past its
checkpoint is kept in `events.discarded.jsonl`, which nothing reads.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIG = "config.toml"
EVENTS = "events.jsonl"
DISCARDED = "events.discarded.jsonl"
ARRAYS = "arrays"
CHECKPOINT = "checkpoint/state.safetensors"
FORMAT = 1
"""Version of the events' format, stored in every `start` event."""


@dataclass(frozen=True)
class Column:
    """One number an event holds.

    Attributes:
        name: Key in the event.
        unit: "" for a pure number.
        meaning: In a few words, for tables and hovers.
    """

    name: str
    unit: str
    meaning: str


STEP = (
    Column("step", "steps", "number of the optimizer step, 1 for the first"),
    Column("loss", "", "training loss before the step, on the step's batch"),
    Column("lr", "", "learning rate of the step"),
    Column("grad_norm", "", "2-norm of the gradient, before clipping"),
    Column("clipped", "", "share of the units that clipping shortened; NaN without clipping"),
)
"""Columns of a `step` event, one an optimizer step."""

MEASUREMENT = (
    Column("step", "steps", "number of the optimizer step measured"),
    Column("loss", "", "loss where it was measured, on the measured data"),
    Column("ratio", "", "preconditioned sharpness over its threshold; the edge is 1"),
    Column("residual", "", "ratio +- residual holds an eigenvalue"),
    Column("lower", "", "rigorous lower bound of the ratio"),
    Column("upper", "", "upper bound of the ratio, of the kind stored beside it"),
    Column("threshold", "1 / lr", "stability threshold of the frozen method"),
    Column("preconditioned_sharpness", "1 / lr", "largest eigenvalue of the preconditioned Hessian"),
    Column("sharpness", "1 / lr of plain descent", "largest eigenvalue of the raw Hessian"),
    Column("sharpness_residual", "1 / lr of plain descent", "sharpness +- this holds an eigenvalue"),
    Column("participation", "coordinates", "how many coordinates hold the top direction"),
    Column("growth", "per step", "long-run growth of the frozen method along the top direction"),
    Column("semi_gradient_sq", "loss / lr", "squared 2-norm of P^-1/2 g, with the gradient g on the measured data"),
    Column("semi_gradient_sq_top", "loss / lr", "its part along the top eigenvectors that were found"),
    Column("second_moment_norm", "", "2-norm of the second moment nu; NaN where the method has none"),
    Column("num_products", "products", "Hessian-vector products spent"),
    Column("seconds", "s", "wall-clock time of the measurement"),
)
"""Numeric columns of a `measurement` event; it also holds status, reason, upper_kind, confidence, is_audit,
route, check, condition, ratios, verdict and words."""

TYPES = ("start", "resumed", "step", "measurement", "glance", "not_finite", "average", "test", "verdict", "end")
"""Event types; a run writes them in this order, and `resumed` each time it was taken up again. `glance` (the curvature
along one step) and `not_finite` (the first number of its kind) are those of watched runs."""
