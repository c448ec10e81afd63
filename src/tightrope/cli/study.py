"""The commands of `tightrope study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .exit_codes import CHECK_FAILED, INTERRUPTED, UNMEASURED

study = App(name="study", help="The figures of the paper as studies: run them, and check what they claim.")
Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
STUDY_FOLDER = Path("studies")


@study.command(name="list")
def study_list() -> None:
    """List the studies: figure, what it shows, how many runs at which scales."""
    from .studying import list_studies

    list_studies()


@study.command(name="run")
def study_run(
    *names: str,
    scale: str = "small",
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    workers: Annotated[int | None, Parameter(name=["--workers", "-j"])] = None,
    dry: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Carry out the runs of studies, side by side; what was done is not repeated, what was begun goes on.

    Args:
        names: Studies, or all.
        scale: small (no data files), cpu or paper.
        settings: KEY=VALUE put over every run, such as seed=1; may be repeated.
        out: Folder for the runs, shared by all studies.
        workers: Processes, one thread each; default one a core.
        dry: Only say how many runs there are, and what they will cost here.
    """
    from .studying import run_studies

    execution = run_studies(names, scale, settings or [], out, workers, dry)
    if execution is None:
        return 0
    return INTERRUPTED if execution.is_interrupted else UNMEASURED if execution.failures else 0


@study.command(name="check")
def study_check(
    *names: str,
    scale: str = "small",
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    into: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Decide the claims of studies on the runs there are: exit 3 if a check misses, 5 if none does and some are open.

    Args:
        names: Studies, or all.
        scale: As for run.
        settings: As for run.
        out: Folder of the runs.
        into: A Markdown page to write the table into, between its two marks, such as docs/reproduction.md.
        as_json: Print one JSON list.
    """
    from .studying import check_studies

    results = {judgement.result for judgement in check_studies(names, scale, settings or [], out, as_json, into)}
    return CHECK_FAILED if "MISS" in results else UNMEASURED if "UNDECIDED" in results else 0


@study.command(name="figure")
def study_figure(
    *names: str,
    scale: str = "small",
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    into: Path | None = None,
) -> int:
    """Draw studies of the runs there are, as a paper prints them (PDF, PNG) and as a page: exit 5 if any has none.

    Args:
        names: Studies, or all.
        scale: As for run.
        settings: As for run.
        out: Folder of the runs.
        into: Folder for the figures; figures/ in that of the runs where it is left out.
    """
    from .figures import draw_studies

    is_whole = draw_studies(names, scale, settings or [], out, into or out / "figures")
    return 0 if is_whole else UNMEASURED


@study.command(name="status")
def study_status(
    *names: str,
    scale: str = "small",
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say how far each run of studies is, and why any failed.

    Args:
        names: Studies, or all.
        scale: As for run.
        settings: As for run.
        out: Folder of the runs.
        as_json: Print one JSON list.
    """
    from .studying import study_status as say_status

    say_status(names, scale, settings or [], out, as_json)
