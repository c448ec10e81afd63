"""Where a run stands and how it came there, in plain text, from what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightrope.errors import ConfigError
from tightrope.store import read_events

from .facts import as_float, number, plural, plus_minus

MOST_LAYERS = 3


@dataclass(frozen=True)
class Explanation:
    """A run at one step.

    Attributes:
        run: Its directory.
        step: The last one stored, or that asked for.
        measurement: The last measurement up to there, as stored; empty where there is none.
        cause: Of the last approach to the edge up to there, as stored; None without one.
        not_finite: What was seen not to be finite up to there, as stored.
        is_growing: The last measurement with a ratio, or the run's verdict at its end, is `unstable`.
        lines: All of it in words.
    """

    run: str
    step: int
    measurement: dict[str, Any]
    cause: dict[str, Any] | None
    not_finite: tuple[dict[str, Any], ...]
    is_growing: bool
    lines: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return {
            "run": self.run,
            "step": self.step,
            "measurement": self.measurement,
            "cause": self.cause,
            "not_finite": list(self.not_finite),
            "is_growing": self.is_growing,
            "lines": list(self.lines),
        }


def explanation(path: str | Path, at: int | None = None) -> Explanation:
    """What is known of a run, lab or watched, running or over, at a step.

    Args:
        path: The run directory.
        at: A step; default the last one stored.
    Raises:
        ConfigError: the run has not come to that step, or it is below 1.
        StoreError: as `read_run`.
    """
    events = read_events(path)
    steps = [int(as_float(event.get("step"))) for event in events if event["type"] in ("step", "measurement", "end")]
    last = max(steps, default=0)
    if at is not None and not 1 <= at <= last:
        raise ConfigError(f"explain: the step must be one the run has taken, 1 to {last:,}; got {at:,}.")
    step = last if at is None else at
    seen = [event for event in events if as_float(event.get("step", 0)) <= step]
    readings = [event for event in seen if event["type"] == "measurement"]
    causes = [event["cause"] for event in readings if event.get("cause")]
    bad = tuple(event for event in seen if event["type"] == "not_finite")
    start = next((event for event in events if event["type"] == "start"), {})
    lines = tuple(_lines(path, step, start, readings, causes, bad))
    judged = [event for event in readings if _ordered(event.get("ratio")) > float("-inf")][-1:]
    judged += [event for event in events if event["type"] == "verdict" and step == last]
    is_growing = any("unstable" in (event.get("verdict"), event.get("name")) for event in judged)
    last_cause = causes[-1] if causes else None
    return Explanation(str(path), step, readings[-1] if readings else {}, last_cause, bad, is_growing, lines)


def _lines(
    path: str | Path,
    step: int,
    start: dict[str, Any],
    readings: list[dict[str, Any]],
    causes: list[dict[str, Any]],
    bad: tuple[dict[str, Any], ...],
) -> Iterator[str]:
    size = plural(int(as_float(start.get("num_parameters", 0))), "parameter")
    yield f"{path}: {start.get('method', 'a run')}, {size}, at step {step:,}."
    yield from (str(event.get("words", "")) for event in bad)
    if not readings:
        yield "No measurement up to there."
        return
    last = readings[-1]
    yield f"Measured at step {int(last['step']):,}: {last.get('verdict', 'undecided')}. {last.get('words', '')}".strip()
    yield from _details(last, readings)
    if causes:
        yield f"How it came to its edge: {causes[-1]['words']}"
    highest = max(readings, key=lambda event: _ordered(event.get("ratio")))
    if len(readings) > 1 and _ordered(highest.get("ratio")) > float("-inf"):
        ratio = plus_minus(highest["ratio"], highest.get("residual"))
        yield f"The highest of {plural(len(readings), 'measurement')}: {ratio}, at step {int(highest['step']):,}."


def _details(reading: dict[str, Any], readings: list[dict[str, Any]]) -> Iterator[str]:
    """What stands beside the ratio, as far as it was stored; what not every reading takes, from the last that did."""
    sharp = _last_with("sharpness", readings)
    sharpness = plus_minus(sharp.get("sharpness"), sharp.get("sharpness_residual"))
    if sharp is reading or math.isfinite(as_float(reading.get("ratio"))):
        yield (
            f"Sharpness {sharpness}{_when(sharp, reading)}, threshold {number(reading.get('threshold'))}, held by "
            f"about {number(reading.get('participation'))} coordinates; {reading.get('route', '')}, "
            f"{plural(int(as_float(reading.get('num_products', 0))), 'product')}."
        )
    layers = [f"{layer['name']} {layer['share']:.0%}" for layer in reading.get("layers") or ()][:MOST_LAYERS]
    if layers:
        yield f"The sharpest direction lies in {', '.join(layers)}."
    if reading.get("num_dormant"):
        plain, dormant = _last_with("plain_ratio", readings), plural(int(reading["num_dormant"]), "dormant coordinate")
        if plain is reading:
            yield f"Without a floor under {dormant} the ratio is {number(plain['plain_ratio'])}."
        else:
            known = f"; without it the ratio was {number(plain['plain_ratio'])}{_when(plain, reading)}" if plain else ""
            yield f"Held at a floor: {dormant}{known}."
    lr, next_lr = number(reading.get("lr")), number(reading.get("next_lr"))
    if reading.get("next_lr") is not None and next_lr != lr:
        ratio = number(reading.get("next_ratio"))
        yield f"The step's learning rate was {lr}; with the next, {next_lr}, the ratio is {ratio}."
    if "minibatch_margin" in reading:
        low, high = (number(end) for end in reading["minibatch_margin_interval"])
        margin = number(reading["minibatch_margin"])
        yield f"Margin for small batches (experimental): {margin}, between {low} and {high} with 95 % confidence."


def _last_with(name: str, readings: list[dict[str, Any]]) -> dict[str, Any]:
    """The last reading in which a number is known; empty where there is none."""
    return next((event for event in reversed(readings) if math.isfinite(as_float(event.get(name)))), {})


def _when(event: dict[str, Any], reading: dict[str, Any]) -> str:
    return f" at step {int(event['step']):,}" if event and event is not reading else ""


def _ordered(value: Any) -> float:
    found = as_float(value)
    return found if found == found else float("-inf")
