"""How `tightrope study` looks: lists, progress over a grid of runs, tables of what the checks found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from tightrope.errors import DataError, check_count
from tightrope.studies import (
    STUDIES,
    Case,
    Execution,
    GridProgress,
    Judgement,
    Study,
    StudyFolder,
    check_problems,
    check_scale,
    connected,
    execute,
    forecast,
    judge,
    studies,
    total,
)

from .output import print_table, say
from .reproduction import check_page, check_runs, write_table

LISTED = {"name": "name", "figure": "figure", "title": "what it shows", "runs": "runs", "scales": "scales"}
FOUND = {"study": "study", "claim": "claim", "number": "number", "band": "must be", "result": "result", "why": "why"}
STATES = {"study": "study", "run": "run", "state": "state", "steps": "steps", "key": "directory", "why": "why"}


def list_studies(scale: str | None) -> None:
    """Every study on a line, at all of its scales or at one.

    Raises:
        ConfigError: there is no such scale.
    """
    if scale is not None:
        check_scale(scale)
    rows = []
    for study in STUDIES.values():
        shown = [each for each in study.scales if scale in (None, each)]
        if not shown:
            continue
        num_runs = [str(len({case.key for case in study.cases(each)})) for each in shown if study.grids]
        scales = ", ".join(shown) if study.grids else "exact"
        row = {"name": study.name, "figure": study.figure, "title": study.title}
        rows.append({**row, "runs": ", ".join(num_runs) or "none", "scales": scales})
    print_table(LISTED, rows)


def run_studies(
    names: Sequence[str],
    scale: str,
    settings: Sequence[str],
    out: Path,
    num_workers: int | None,
    ray: str | None,
    is_dry: bool,
) -> Execution | None:
    """Carry out the runs of studies here or on a Ray cluster, or only say what that would take.

    Raises:
        ConfigError, DataError, StoreError: nothing is written.
    """
    workers = num_cores() if num_workers is None else num_workers
    check_count("-j:", workers)
    asked = asked_studies(names, scale)
    folder = StudyFolder(out)
    for study in asked:
        folder.check(study, scale)
    cases = [case for study in asked for case in study.cases(scale, settings)]
    try:
        check_problems(cases, device=None if ray is None else "cpu")
    except DataError as error:
        raise DataError(f"{error} The studies as they are at --scale small need no file.") from error
    if is_dry:
        _say_forecast(cases, folder, workers)
        return None
    if not cases:
        say("Nothing to train: exact studies are computed when they are checked.")
        return None
    with nullcontext(None) if ray is None else connected(ray, num_workers) as cluster:
        for study in asked:
            if study.grids:
                folder.sign(study, scale)
        with watching() as observe:
            execution = execute(cases, folder, num_workers=workers, observe=observe, cluster=cluster)
    say_execution(execution)
    return execution


def check_studies(
    names: Sequence[str], scale: str, settings: Sequence[str], out: Path, as_json: bool, into: Path | None
) -> list[Judgement]:
    """Decide the claims of studies on the runs there are, and print what was found.

    Raises:
        ConfigError, StoreError: as for `run_studies`, or what the page holds cannot be replaced by what was found;
            it stays as it is.
    """
    asked = asked_studies(names, scale)
    if into is not None:
        check_page(into, scale, studies(names))  # before minutes go into what could not be written
    found = [judge(study, scale, StudyFolder(out), settings) for study in asked]
    if into is not None:
        check_runs(found, names, settings, out)
    if as_json:
        say(json.dumps([judgement.to_dict() for judgement in found], indent=1))
    else:
        print_table(FOUND, [_finding_row(each.study.name, asdict(f)) for each in found for f in each.findings])
        say("")
        for judgement in found:
            say(f"{judgement.study.name}: {judgement.result}{_cost_words(judgement)}")
    if into is not None:
        write_table(into, scale, found)
        if not as_json:
            say(f"Table: {into}")
    return found


def study_status(names: Sequence[str], scale: str, settings: Sequence[str], out: Path, as_json: bool) -> None:
    """Say how far each run of studies is."""
    folder, rows = StudyFolder(out), []
    for study in asked_studies(names, scale):
        folder.check(study, scale)
        for case in study.cases(scale, settings):
            state = folder.state(case)
            row = {"study": study.name, "run": case.label, "state": state.state, "key": case.key, "why": state.reason}
            rows.append({**row, "step": state.step, "num_steps": case.config.num_steps})
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    print_table(STATES, [{**row, "steps": f"{row['step']}/{row['num_steps']}"} for row in rows])
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "begun", "failed", "missing")}
    say(f"{len(rows)} runs: " + ", ".join(f"{number} {state}" for state, number in counts.items() if number))


def asked_studies(names: Sequence[str], scale: str) -> list[Study]:
    """The studies named; of "all", those that have runs at the scale."""
    check_scale(scale)
    found = studies(names)
    return [study for study in found if scale in study.scales] if "all" in names else found


def _say_forecast(cases: Iterable[Case], folder: StudyFolder, workers: int) -> None:
    different = list({case.key: case for case in cases}.values())
    to_do = [case for case in different if folder.state(case).state != "done"]
    cost = forecast(to_do)
    say(f"{len(different)} runs, {len(different) - len(to_do)} of them done already")
    say(
        f"to do: {cost.num_runs} runs, about {duration(cost.seconds)} of one core, "
        f"{duration(cost.seconds / max(1, min(workers, cost.num_runs)))} with -j {workers} on free cores, "
        f"{cost.num_bytes / 1e6:.0f} MB in {folder.path}"
    )


def say_execution(execution: Execution) -> None:
    """What became of a grid of runs."""
    made = execution.num_runs - execution.num_found - len(execution.failures)
    if execution.is_interrupted:
        say("Interrupted; the same command goes on.")
        return
    say(
        f"{execution.num_runs} runs: {execution.num_found} there already, {made} made in "
        f"{duration(execution.seconds)}, {len(execution.failures)} failed"
    )
    for label, reason in execution.failures.items():
        say(f"failed: {label}: {reason}")


@contextmanager
def watching() -> Iterator[Callable[[GridProgress], None]]:
    """One live line for the whole grid on a terminal, and everywhere a line for each run that ends."""
    console = Console()
    line = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
        console=console,
        disable=not console.is_terminal,
    )
    with line:
        task = line.add_task("starting workers", total=None, left="")

        def observe(progress: GridProgress) -> None:
            runs = f"{progress.num_ended}/{progress.num_runs} runs"
            left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
            line.update(task, description=runs, completed=progress.step, total=progress.num_steps, left=left)
            if progress.case is not None and progress.report is not None:
                text = f"[{runs}] {progress.case.label}: {progress.report.outcome}. {progress.report.words}"
                if console.is_terminal:
                    line.print(text, markup=False, highlight=False)
                else:
                    say(f"{text}  {left}".rstrip())

        yield observe


def num_cores() -> int:
    """Cores this process may use: as many workers run at once unless told otherwise."""
    return len(os.sched_getaffinity(0))


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _finding_row(name: str, finding: dict[str, str]) -> dict[str, str]:
    return {"study": name, **finding}


def _cost_words(judgement: Judgement) -> str:
    if not judgement.num_runs:
        return " (exact)"
    seconds, measuring = total(judgement.costs)
    share = f", {measuring / seconds:.0%} of it measuring" if seconds else ""
    return f" ({len(judgement.costs)} of {judgement.num_runs} runs, {duration(seconds)} of one core{share})"
