"""How `tightrope measure` looks: a checkpoint's measurement, its layers and its spectrum."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tightrope.doctor import Snapshot, blame, snapshot, spectrum_curve
from tightrope.errors import ConfigError, StoreError, TightropeError, check_count, check_number
from tightrope.stability import Measurement
from tightrope.views import spectrum_panel, write_spectrum

from .building import Built, build, chatter_aside
from .examining import plain
from .output import print_table, say
from .weights import put_into, read_checkpoint

NUM_VECTORS = 4
MOST_LAYERS = 8
LAYER_COLUMNS = {"name": "layer", "share": "share", "participation": "entries that hold it", "size": "of"}


def measure_says(
    target: str, path: Path, k: int, rtol: float, has_layers: bool, spectrum: Path | None, as_json: bool
) -> bool:
    """Measure a checkpoint and print it; returns whether there is a number.

    Raises:
        ConfigError: the function, k or rtol is wrong.
        StoreError: the checkpoint cannot be read or does not fit, or the spectrum cannot be written.
    """
    check_count("measure: --k", k)
    check_number("measure: --rtol", rtol, lambda value: 0 < value < 1, "be above 0 and below 1")
    if spectrum is not None and spectrum.is_dir():
        raise StoreError(f"measure: --spectrum must be a file; {spectrum} is a directory. Name a file in it.")
    checkpoint, built = read_checkpoint(path), build(target)
    if any(w.is_meta for w in built.model.parameters()):
        raise ConfigError("measure: the model built must have values to load into; it is on the meta device.")
    with chatter_aside():
        notes = put_into(checkpoint, built.model, built.optimizer)
    found = _measured(built, k, rtol, NUM_VECTORS if spectrum else 0)
    if isinstance(found, str):
        say(json.dumps({"status": "failed", "reason": found}) if as_json else f"It cannot be measured: {found}")
        return False
    m = found.measurement
    if not found.has_ratio:
        notes.append("There is no ratio without a frozen method: the raw sharpness alone was measured.")
    if spectrum is not None and found.density is not None and found.density.status == "estimate":
        _draw(found, spectrum, path)
        notes.append(f"Spectrum: {spectrum}")
    if as_json:
        layers = {"layers": [layer.to_dict() for layer in found.layers]} if has_layers else {}
        say(json.dumps(plain({**m.to_dict(), **layers, "notes": notes}), indent=1))
    else:
        _print(found, notes, has_layers)
    return m.has_ratio or math.isfinite(m.sharpness)


def _measured(built: Built, k: int, rtol: float, num_vectors: int) -> Snapshot | str:
    """The snapshot, or why there is none."""
    try:
        with chatter_aside():
            return snapshot(
                built.model,
                built.optimizer,
                built.loss_fn,
                built.batch,
                k=k,
                rtol=rtol,
                num_spectrum_vectors=num_vectors,
            )
    except TightropeError as error:
        return str(error)
    except Exception as error:  # of the user's own code: one line, as for the build function
        return blame(error)


def _print(found: Snapshot, notes: Sequence[str], has_layers: bool) -> None:
    for name, value in _lines(found.measurement):
        say(f"{name:<14} {value}")
    if has_layers and found.layers:
        where = "in coordinates in which the optimizer steps alike" if found.has_ratio else "of the raw Hessian"
        say(f"\nLayers of the top direction, {where}:")
        rows = [layer.to_dict() for layer in found.layers[:MOST_LAYERS]]
        print_table(LAYER_COLUMNS, [{**row, "share": f"{row['share']:.1%}"} for row in rows])
        rest = found.layers[MOST_LAYERS:]
        if rest:
            say(f"{len(rest)} more hold {sum(layer.share for layer in rest):.1%}.")
    for note in notes:
        say(note)


def _lines(m: Measurement) -> Iterator[tuple[str, str]]:
    if m.has_ratio:
        yield "ratio", f"{m.ratio:.5g} ± {m.residual:.1g}; the edge is 1"
        yield "bounds", f"{m.lower:.5g} to {m.upper:.5g} ({_kind(m)})"
        if len(m.ratios) > 1:
            yield "ratios", ", ".join(f"{value:.5g}" for value in m.ratios)
        if m.condition:
            yield "holds", f"with {m.condition}"
        if m.threshold is not None and m.preconditioned_sharpness is not None:
            yield "threshold", f"{m.threshold:.6g}; preconditioned sharpness {m.preconditioned_sharpness:.6g}"
        else:
            yield "threshold", "differs from group to group; the ratio joins them"
        if m.growth is not None:
            yield "growth", f"{m.growth:.4f} times a step along the top direction"
    if math.isfinite(m.sharpness):
        yield "sharpness", f"{m.sharpness:.5g} ± {m.sharpness_residual:.1g}, of the raw Hessian"
        yield "participation", f"{m.participation:,.4g} coordinates hold the top direction"
    yield "loss", f"{m.loss:.5g}"
    yield "status", m.status + (f": {m.reason}" if m.reason else "")
    if m.route:
        yield "route", m.route
    yield "cost", f"{m.num_products} products, {m.seconds:.3g} s"


def _kind(m: Measurement) -> str:
    words = {
        "exact": "lower and upper bound exact up to rounding",
        "probabilistic": f"lower rigorous, upper with {100 * (m.confidence or 0):.3g} % confidence",
        "residual": "lower rigorous, upper by the residual",
    }
    return words[m.upper_kind]


def _draw(found: Snapshot, out: Path, path: Path) -> None:
    m = found.measurement
    assert found.density is not None
    curve = spectrum_curve(found.density)
    arrays: dict[str, Any] = {name: getattr(curve, name).numpy() for name in ("eigenvalue", "count", "error")}
    panel = spectrum_panel(
        **arrays,
        zero=curve.zero,
        at_zero=(curve.at_zero.value, curve.at_zero.standard_error),
        size=curve.size,
        extremes=curve.extremes,
        edge=1.0 if found.has_ratio else None,
        title="eigenvalue, in units of the edge" if found.has_ratio else "eigenvalue of the Hessian",
    )
    top = f"ratio {m.ratio:.4g} ± {m.residual:.1g}" if m.has_ratio else f"sharpness {m.sharpness:.4g}"
    fact = f"{path.name}: {top}, loss {m.loss:.4g}. {found.density.num_products} products for the spectrum."
    write_spectrum(panel, out, title=f"Spectrum of {path.stem}", facts=[fact])
