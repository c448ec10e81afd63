"""The table of what the studies found, written into a page of the documentation between two marks."""

from __future__ import annotations

import platform
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tightrope.errors import ConfigError
from tightrope.store import replace_file
from tightrope.studies import STUDIES, Judgement, Study, total


def marks(scale: str) -> tuple[str, str]:
    """The lines between which the tables of a scale stand."""
    return f"<!-- measured {scale}: begin -->", f"<!-- measured {scale}: end -->"


def check_page(page: Path, scale: str, studies: Iterable[Study]) -> None:
    """Raise unless the tables of these studies can take the place of those that a page holds of a scale.

    Raises:
        ConfigError: there is no such page, it has not one place for them, or rows of another study would be lost.
    """
    _, tables, _ = _parted(page, scale)
    held = dict.fromkeys(line.split("|")[1].strip() for line in tables.splitlines() if line.startswith("|"))
    lost = [name for name in held if name in STUDIES.keys() - {study.name for study in studies}]
    if lost:
        raise ConfigError(
            f"--into: all rows of {scale} in {page} must be written at once; those of {', '.join(lost)} would be lost. "
            "Name these studies too, or all."
        )


def check_runs(found: Iterable[Judgement], names: Iterable[str], settings: Iterable[str], folder: Path) -> None:
    """Raise where the studies named need runs and none of any of them has ended: nothing was measured.

    Raises:
        ConfigError: where the runs were looked for, and what makes them.
    """
    needy = [judgement for judgement in found if judgement.num_runs]
    if not needy or any(judgement.costs for judgement in needy):
        return
    scale = needy[0].scale
    options = ["--scale", scale, *(part for each in settings for part in ("--set", each)), "--out", str(folder)]
    raise ConfigError(
        f"--into: {folder} must hold a run that ended, of what is to be written; there is none at {scale}. Make them: "
        f"tightrope study run {shlex.join([*names, *options])}"
    )


def write_table(page: Path, scale: str, found: Sequence[Judgement]) -> None:
    """Replace what stands between the two marks of a page by what was found now; the rest of it stays.

    Raises:
        ConfigError: there is no such page, it has not one place for the table, or it cannot be written.
    """
    (before, _, after), (begin, end) = _parted(page, scale), marks(scale)
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


def _parted(page: Path, scale: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks of a scale in a page."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"--into: {page} must be a page that can be rewritten; {why}.") from error
    begin, end = marks(scale)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ConfigError(f"--into: {page} must hold the lines {begin} and {end} once each, in this order.")
    before, _, rest = text.partition(begin)
    between, _, after = rest.partition(end)
    return before, between, after


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
