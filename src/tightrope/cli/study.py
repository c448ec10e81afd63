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
def study_list(*, scale: str | None = None) -> None:
    """List the studies: figure, what it shows, how many runs at which scales.

    Args:
        scale: Only those with runs at it.
    """
    from .studying import list_studies

    list_studies(scale)


@study.command(name="run")
def study_run(
    *names: str,
    scale: str = "small",
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    workers: Annotated[int | None, Parameter(name=["--workers", "-j"])] = None,
    ray: str | None = None,
    dry: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Carry out the runs of studies, side by side; what was done is not repeated, what was begun goes on.

    Args:
        names: Studies, or all.
        scale: small (no data files), cpu or paper.
        settings: KEY=VALUE put over every run, such as seed=1; may be repeated.
        out: Folder for the runs, shared by all studies.
        workers: Processes, one thread each; default one a core.
        ray: Carry them out on a Ray cluster instead: HOST:PORT of its head node, auto for the one this machine belongs
            to, or local. Every node must see the folder.
        dry: Only say how many runs there are, and what they will cost here.
    """
    from .studying import run_studies

    execution = run_studies(names, scale, settings or [], out, workers, ray, dry)
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
        into: A Markdown page to write the tables into, between the two marks of the scale, such as
            docs/reproduction.md; left as it is where rows of other studies would be lost, or no run has ended.
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
        into: Folder for the figures; figures/ in that of the runs where it is left out, figures/SCALE beyond small.
    """
    from .figures import default_folder, draw_studies

    is_whole = draw_studies(names, scale, settings or [], out, into or default_folder(out, scale))
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


@study.command(name="aeos")
def study_aeos(
    what: str,
    /,
    *,
    lrs: int = 5,
    lr: Annotated[list[float] | None, Parameter(negative="")] = None,
    options: Annotated[list[str] | None, Parameter(name="--option", negative="")] = None,
    settings: Settings = None,
    out: Path = STUDY_FOLDER,
    workers: Annotated[int | None, Parameter(name=["--workers", "-j"])] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Put an optimizer of your own to the adaptive edge of stability: its precision, its threshold, its figure.

    It is called as Name(params, lr=..., KEY=VALUE, ...). Exit 3 if a check misses, 5 if none does and some are open,
    as where it has no linear threshold.

    Args:
        what: A torch.optim.Optimizer class, or a function that makes one, as pkg.mod:Name or path/to/file.py:Name.
        lrs: How many learning rates to run it at.
        lr: Lowest and highest of them, given twice, or with --lrs 1 the one; found by short runs where left out.
        options: KEY=VALUE it is called with; may be repeated.
        settings: As for run.
        out: Folder for the runs, shared with all studies; its panel goes into figures/ there.
        workers: As for run.
        as_json: Print one JSON object.
    """
    from .own_optimizer import study_own

    result = study_own(what, lrs, lr or [], options or [], settings or [], out, workers, as_json)
    return {"PASS": 0, "MISS": CHECK_FAILED, "INTERRUPTED": INTERRUPTED}.get(result, UNMEASURED)
