"""How `tightrope study figure` draws: for each study a PDF, a PNG and a page, of the runs there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tightrope.errors import ConfigError
from tightrope.studies import Judgement, StudyFolder, judge, picture
from tightrope.views import Picture, write_prints, write_sheet

from .output import say
from .studying import FOUND, asked_studies

HEADINGS = {key: heading for key, heading in FOUND.items() if key != "study"}


def draw_studies(names: Sequence[str], scale: str, settings: Sequence[str], out: Path, into: Path) -> bool:
    """Draw studies into a folder, naming each file; whether each had a run to draw, or needs none.

    Raises:
        ConfigError, StoreError: as for `run_studies`, or the folder cannot be written.
    """
    folder, asked = StudyFolder(out), asked_studies(names, scale)
    for study in asked:  # before anything is written
        folder.check(study, scale)
        study.cases(scale, settings)
    is_whole, lacking = True, ""
    for study in asked:
        judgement = judge(study, scale, folder, settings)
        if judgement.num_runs and not judgement.costs:
            runs = f"none of its {judgement.num_runs} runs is there"
            at = "" if scale == "small" else f" --scale {scale}"
            say(f"{study.name}: {runs}; `tightrope study run {study.name}{at}` makes them.")
            is_whole = False
            continue
        paths, lacking = draw(judgement, into)
        for path in paths:
            say(str(path))
    if lacking:
        say(lacking)
    return is_whole


def draw(judgement: Judgement, into: Path) -> tuple[list[Path], str]:
    """Paths of the page, PDF and PNG of a judged study; without matplotlib its page alone, and the line that says so.

    Raises:
        StoreError: the folder cannot be written, or another file has the name of one.
    """
    drawn = picture(judgement.study, judgement.outcomes)
    page = _page(drawn, judgement, into)
    try:
        return [page, *write_prints(drawn, into)], ""
    except ConfigError as error:
        return [page], str(error)


def default_folder(out: Path, scale: str) -> Path:
    """Where the figures of a scale go: those of one never take the place of another's."""
    return out / "figures" if scale == "small" else out / "figures" / scale


def _page(drawn: Picture, judgement: Judgement, into: Path) -> Path:
    found = [asdict(finding) for finding in judgement.findings]
    facts = [f"{name} {' and '.join(values)}" for name, values in judgement.environment.items()]
    facts += [f"scale {judgement.scale}"] if judgement.num_runs else ["computed, not trained for"]
    facts += [f"version {judgement.study.version} of the study", f"drawn {time.strftime('%Y-%m-%d')}"]
    return write_sheet(drawn, into / f"{drawn.name}.html", found=found, headings=HEADINGS, facts=facts)
