"""How `tightrope doctor` looks: the finding first, then what it rests on."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator

from tightrope.doctor import Examination, counted, examine, plural
from tightrope.errors import ConfigError
from tightrope.stability import size_words

from .building import build, chatter_aside
from .output import say

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def doctor_says(target: str, budget: str, max_bytes: str | None, as_json: bool) -> bool:
    """Examine what a build function makes and print it; returns whether it can be measured.

    Raises:
        ConfigError: the function, the budget or the number of bytes is wrong.
    """
    share, limit = parse_share(budget), None if max_bytes is None else parse_bytes(max_bytes)
    built = build(target)
    with chatter_aside():
        examination = examine(
            built.model,
            built.optimizer,
            built.loss_fn,
            built.batch,
            max_bytes=limit,
            budget=share,
            observe=_observer(),
        )
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if as_json:
        say(json.dumps(plain(examination.to_dict()), indent=1))
    else:
        say(examination.words)
        for name, value in _lines(examination):
            say(f"{name:<10} {value}")
    return examination.is_measurable


def parse_share(text: str) -> float:
    """A share such as 3%, 0.03 or 100%, above 0 and at most 1."""
    number, percent = (text.strip().removesuffix("%"), text.strip().endswith("%"))
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ConfigError(f"doctor: --budget must be above 0 and at most 100%; got '{text}'. Write 3% or 0.03.")
    return share


def parse_bytes(text: str) -> float:
    """A number of bytes such as 2GB, 512MiB or 1e9, above 0."""
    found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    try:
        amount = float(found[1]) * UNITS[found[2]] if found else 0.0
    except (KeyError, ValueError):
        amount = 0.0
    if not 0 < amount < math.inf:
        raise ConfigError(f"--max-bytes must be a number of bytes above 0; got '{text}'. Write 2GB or 512MiB.")
    return amount


def plain(value: object) -> object:
    """A value as JSON has it: numbers that are not finite become the text they have in a stored run."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _observer() -> Callable[[str], None]:
    """Shows on a terminal what is being done, on one line that goes away; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda stage: None
    return lambda stage: print(f"\r\x1b[K{stage} ...\r", end="", file=sys.__stderr__, flush=True)


def _lines(e: Examination) -> Iterator[tuple[str, str]]:
    if e.num_parameters:
        yield "model", _model(e)
    if e.optimizer:
        yield "optimizer", _optimizer(e)
    if e.route:
        yield "route", "; ".join(part for part in (e.route, _manner(e), _check(e)) if part)
    m = e.measurement
    if m is not None and m.has_ratio:
        yield "ratio", f"{m.ratio:.4g} ± {m.residual:.1g} at the start of training; the edge is 1"
    if e.num_steps:
        yield "steps", f"{e.num_steps} real training steps were taken here on the batch; nothing was stored"
    if not math.isnan(e.step_bytes) or not math.isnan(e.graph_bytes):
        yield "memory", _memory(e)
    if not math.isnan(e.step_seconds):
        yield "seconds", _seconds(e)
    if e.cadence:
        yield "cadence", "; ".join(f"{100 * share:.3g} %: every {plural(every, 'step')}" for share, every in e.cadence)


def _model(e: Examination) -> str:
    words = [counted(e.num_parameters, "parameter")]
    if e.num_frozen:
        words.append(f"{e.num_frozen:,} of them frozen")
    if e.num_measured and e.num_measured != e.num_parameters - e.num_frozen:
        words.append(f"{e.num_measured:,} moved by the optimizer")
    return f"{', '.join(words)}; {' and '.join(e.dtypes)} on {e.device}"


def _optimizer(e: Examination) -> str:
    if e.threshold is not None and e.groups:
        lr = e.groups[0][0]
        rates = {group[0] for group in e.groups}
        in_lr = f" = {e.threshold * lr:.6g} / lr" if len(rates) == 1 and math.isfinite(e.threshold) else ""
        return f"{e.optimizer}: stable up to a preconditioned sharpness of {e.threshold:.6g}{in_lr}"
    if e.groups:
        each = ", ".join(
            f"{threshold:.6g} (lr {lr:g}, {counted(size, 'parameter')})" for lr, threshold, size in e.groups
        )
        return f"{e.optimizer}: a threshold for each group: {each}; the ratio joins them"
    return f"{e.optimizer}: no threshold"


def _manner(e: Examination) -> str:
    return f"run with {' and '.join(e.manner)}" if e.manner else ""


def _check(e: Examination) -> str:
    """What the check found, unless the route says it already."""
    return "" if e.check in e.route else e.check


def _memory(e: Examination) -> str:
    parts = []
    if not math.isnan(e.step_bytes):
        parts.append(f"a training step holds {size_words(e.step_bytes)}")
    if not math.isnan(e.graph_bytes):
        vectors = "" if math.isnan(e.vector_bytes) else f" and up to about {size_words(e.vector_bytes)} of vectors"
        parts.append(f"a measurement {size_words(e.graph_bytes)} of graph{vectors} on top of the weights")
        parts.append(f"its first use {size_words(e.check_bytes)} for the check")
    return "; ".join(parts)


def _seconds(e: Examination) -> str:
    words = f"a training step {e.step_seconds:.3g}"
    if not math.isnan(e.cold_seconds):
        words += f"; a first measurement {e.cold_seconds:.3g} ({e.cold_products} products)"
    if not math.isnan(e.warm_seconds):
        words += f"; a later one {e.warm_seconds:.3g} ({e.warm_products:.3g})"
    return words
