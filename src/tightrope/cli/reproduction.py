"""The table of what the studies found, written into a page of the documentation between two marks."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tightrope.errors import ConfigError
from tightrope.store import replace_file
from tightrope.studies import Judgement, total


def marks(scale: str) -> tuple[str, str]:
    """The lines between which the tables of a scale stand."""
    return f"<!-- measured {scale}: begin -->", f"<!-- measured {scale}: end -->"


def around_the_table(page: Path, scale: str) -> tuple[str, str]:
    """What stands before and after the tables of a scale in a page.

    Raises:
        ConfigError: there is no such page, or it has not one place for the table.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--into: {page} must be a page that can be rewritten; {error.strerror}.") from error
    begin, end = marks(scale)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ConfigError(f"--into: {page} must hold the lines {begin} and {end} once each, in this order.")
    return text.split(begin)[0], text.split(end)[1]


def write_table(page: Path, scale: str, found: Sequence[Judgement]) -> None:
    """Replace what stands between the two marks of a page by what was found now; the rest of it stays.

    Raises:
        ConfigError: as `around_the_table`, or it cannot be written.
    """
    (before, after), (begin, end) = around_the_table(page, scale), marks(scale)
    try:
        replace_file(page, f"{before}{begin}\n{table(found)}\n{end}{after}".encode())
    except OSError as error:
        raise ConfigError(f"--into: {page} must be a page that can be rewritten; {error.strerror}.") from error


def table(found: Sequence[Judgement]) -> str:
    """Studies with their results and costs, then every finding, in Markdown."""
    lines = [f"Measured {time.strftime('%Y-%m-%d')} on {machine()}; {_environment(found)}.", ""]
    lines += ["| study | figure | scale | result | runs | core seconds | measuring |", "|---|---|---|---|---|---|---|"]
    lines += [_study_row(judgement) for judgement in found]
    # Studies share runs: together each counts once.
    lines += [_row("together", "", "", "", *_cost_cells({k: v for each in found for k, v in each.costs.items()})), ""]
    lines += ["| study | claim | number | must be | result | why |", "|---|---|---|---|---|---|"]
    for judgement in found:
        for finding in judgement.findings:
            cells = (finding.claim, finding.number, finding.band, finding.result, finding.why)
            lines.append(_row(judgement.study.name, *cells))
    return "\n".join(lines)


def machine() -> str:
    """The processor, as the system names it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _environment(found: Sequence[Judgement]) -> str:
    values: dict[str, list[str]] = {}
    for judgement in found:
        for name, its in judgement.environment.items():
            values[name] = list(dict.fromkeys([*values.get(name, []), *its]))
    return ", ".join(f"{name} {' and '.join(its)}" for name, its in values.items()) or "no runs"


def _study_row(judgement: Judgement) -> str:
    study = judgement.study
    if not judgement.num_runs:
        return _row(study.name, study.figure, "any", judgement.result, "exact", "-", "-")
    done, *cost = _cost_cells(judgement.costs)
    runs = f"{done} of {judgement.num_runs}"
    return _row(study.name, study.figure, judgement.scale, judgement.result, runs, *cost)


def _cost_cells(costs: Mapping[str, tuple[float, float]]) -> tuple[str, str, str]:
    """Runs, their seconds, and the share of these spent measuring."""
    seconds, measuring = total(costs)
    return str(len(costs)), f"{seconds:.0f}", f"{measuring / seconds:.0%}" if seconds else "-"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
