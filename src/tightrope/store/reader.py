"""Read a run directory, finished, running or torn off, into numpy columns."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tightrope.errors import StoreError

from .schema import CONFIG, EVENTS, MEASUREMENT, STEP, Column


@dataclass(frozen=True)
class RunRecord:
    """A run as stored.

    Attributes:
        path: Its directory.
        config: `config.toml` as a dict.
        start: The `start` event: versions, device, sizes, method; empty before it is written.
        steps: Columns of the `step` events, each (num_steps,) float64; see `schema.STEP`.
        measurements: Columns of the `measurement` events, each (num_measurements,): floats of
            `schema.MEASUREMENT`, and what else the events hold as object arrays.
        num_resumed: How often it was taken up again.
        average: The `average` event of a run that averaged weights, else empty.
        test: The `test` event of a run with held-out data, else empty.
        verdict: The `verdict` event of a run that ended, else empty.
        end: The `end` event, else empty.
    """

    path: Path
    config: dict[str, Any]
    start: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, np.ndarray] = field(default_factory=dict)
    measurements: dict[str, np.ndarray] = field(default_factory=dict)
    num_resumed: int = 0
    average: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """How it ended: "completed", "target_loss", "diverged", "interrupted", or "unfinished"."""
        return str(self.end.get("outcome", "unfinished"))

    @property
    def num_steps(self) -> int:
        """Steps taken: the last one's number, also where not every step is stored."""
        known = self.steps["step"][np.isfinite(self.steps["step"])] if self.steps else np.zeros(0)
        return int(max([self.end.get("step") or 0, *known]))

    @property
    def method_name(self) -> str | None:
        """The method in a word: as the configuration names it, a foreign one by its class; else as the run does."""
        method = self.config.get("method")
        if not isinstance(method, dict):
            return self.start.get("method")
        path = method.get("path")
        return path.rpartition(":")[2] if isinstance(path, str) else method.get("name")


def read_run(path: str | Path) -> RunRecord:
    """A run directory as columns of numpy arrays.

    A torn last line, of a run still going or killed, is left out.

    Raises:
        StoreError: there is no run at the path, or a line before the last is damaged.
    """
    path = Path(path)
    config, events = _read(path)
    by_type: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_type.setdefault(event.pop("type"), []).append(event)
    return RunRecord(
        path=path,
        config=config,
        start=by_type.get("start", [{}])[-1],
        steps=_columns(by_type.get("step", []), STEP),
        measurements=_columns(by_type.get("measurement", []), MEASUREMENT),
        num_resumed=len(by_type.get("resumed", [])),
        average=by_type.get("average", [{}])[-1],
        test=by_type.get("test", [{}])[-1],
        verdict=by_type.get("verdict", [{}])[-1],
        end=by_type.get("end", [{}])[-1],
    )


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a run as they are stored, in order, each with its `type`.

    Raises:
        StoreError: as `read_run`.
    """
    return list(_read(Path(path))[1])


def find_runs(folder: str | Path) -> list[Path]:
    """Run directories at or below a folder, by name; linked folders are looked into, each once."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        if EVENTS in files and CONFIG in files:
            found.append(Path(here))
    return sorted(found)


def check_files(path: Path) -> None:
    """Raise unless a directory holds the two files of a run.

    Raises:
        StoreError: one is missing, or both.
    """
    missing = [name for name in (CONFIG, EVENTS) if not (path / name).is_file()]
    if missing:
        one, none = f"Put it back, or delete {path}.", "`tightrope runs` lists the runs below a folder."
        raise StoreError(
            f"run directory: {path} must be a run directory with {CONFIG} and {EVENTS}; there is no {missing[0]}. "
            f"{one if len(missing) == 1 else none}"
        )


def _read(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    check_files(path)
    try:
        config = tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
        # A byte that is no UTF-8 becomes an escape JSON does not know: its line is damaged, the others are not.
        lines = (path / EVENTS).read_text(encoding="utf-8", errors="backslashreplace").split("\n")
    except OSError as error:
        raise StoreError(
            f"read_run: {path} must be a run directory that can be read; {error.strerror or error}. See who owns it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"read_run: {path / CONFIG} must be TOML; {error}.") from error
    return config, _events(path, lines)


def _events(path: Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    last = len(lines) - 1
    for number, line in enumerate(lines):
        if number == last:
            return  # what follows the last newline is empty, or torn
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise StoreError(
                f"read_run: line {number + 1} of {path / EVENTS} must be a JSON object with a type; got "
                f"{line[:40]!r}. The lines around it are intact: delete that one to read the rest, which can "
                "then be reported but no longer resumed."
            )
        yield event


def _columns(events: list[dict[str, Any]], numeric: tuple[Column, ...]) -> dict[str, np.ndarray]:
    columns = {
        column.name: np.array([_number(column.name, event.get(column.name)) for event in events], dtype=np.float64)
        for column in numeric
    }
    for name in {name for event in events for name in event} - set(columns):
        values = np.empty(len(events), dtype=object)
        values[:] = [event.get(name) for event in events]
        columns[name] = values
    return columns


def _number(name: str, value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"read_run: {name} must be a number, or the text of one; got {repr(value)[:40]}.") from error
