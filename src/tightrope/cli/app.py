"""The commands of `tightrope` and what they exit with.

Exit codes: 0 done, 2 bad usage or configuration, 3 a check you asked for failed, 4 diverged, 5 could not measure, 130
interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from tightrope.errors import ConfigError, TightropeError, one_line

from .ending import conclude, write_page
from .exit_codes import CHECK_FAILED, INTERRUPTED, UNMEASURED, USAGE
from .output import print_table, say
from .study import study

app = App(
    name="tightrope",
    help="How far a training run is from the edge of stability.",
    help_format="plaintext",
    version_flags=["--version"],
)
app.command(study)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command; errors are one line on stderr."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _fail(f"{error} See tightrope --help.")
    except TightropeError as error:
        code = _fail(str(error))
    except OSError as error:  # a path that cannot even be looked at
        code = _fail(f"{error}. Name another path.")
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


@app.command
def run(
    what: str = "demo",
    /,
    *,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Path | None = None,
    report: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train as a preset or a configuration file says, and measure the way to the edge.

    Args:
        what: A preset's name, or a .toml file.
        settings: KEY=VALUE put over it, such as lr=1e-4 or measure.every=20; may be repeated.
        out: Directory for the run; it must not hold files. Default: a new one below runs/.
        report: Write the run's report.html into its directory as well.
    """
    from tightrope.training import from_mapping, load, override, preset
    from tightrope.training import run as train

    from .progress import watching

    is_file = what.endswith(".toml") or Path(what).is_file()
    mapping = load(Path(what)) if is_file else preset(what)
    config = from_mapping(override(mapping, settings or []))
    with watching(config.num_steps) as observe:
        record = train(config, out=out, name=Path(what).stem if is_file else what, observe=observe)
    return conclude(record, report)


@app.command
def resume(
    path: Path,
    /,
    *,
    anyway: Annotated[bool, Parameter(negative="")] = False,
    report: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Take up a run that was stopped or killed, from its last checkpoint, as if nothing had happened.

    Args:
        path: The run directory.
        anyway: Go on although versions or device differ from those of the checkpoint.
        report: Write the run's report.html into its directory as well.
    """
    from tightrope.store import read_run
    from tightrope.training import resume as take_up

    from .progress import watching

    former = read_run(path)
    if former.outcome in ("unfinished", "interrupted") or "watch" in former.config:  # which is refused
        with watching(former.config.get("num_steps", 0)) as observe:
            record = take_up(path, observe=observe, is_strict=not anyway)
    else:
        say("This run has ended; there is nothing to resume.")
        record = former
    return conclude(record, report)


@app.command
def report(*runs: Path, out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html")) -> None:
    """Write one HTML file that shows one or several runs; it opens from disk, with no network.

    Args:
        runs: Run directories.
        out: The file to write.
    """
    from tightrope.store import read_run

    if not runs:
        raise ConfigError("report: name at least one run directory; `tightrope runs` lists them.")
    write_page([read_run(path) for path in runs], out)


@app.command
def runs(
    folder: Path = Path("runs"), /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """List the runs below a folder with how they ended and what they showed.

    The ratio is the median over the plateau, or the last one measured where there is none; lr the largest, where no
    configuration names one.

    Args:
        folder: Where to look.
        as_json: Print one JSON list.
    """
    from tightrope.store import find_runs

    from .listing import COLUMNS, listed

    if not folder.is_dir():
        raise ConfigError(f"runs: {folder} must be a folder; there is none. Name one, or make a run first.")
    rows = [listed(path) for path in find_runs(folder)]
    if as_json:
        say(json.dumps(rows, indent=1))
    elif rows:
        print_table({name: name for name in COLUMNS}, rows)
    else:
        say(f"No runs below {folder}.")


@app.command
def compare(*paths: Path, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Set runs side by side: what is known of each method, and what it did.

    Args:
        paths: Run directories, or folders of them.
        as_json: Print one JSON list.
    """
    from tightrope.store import find_runs, read_run
    from tightrope.views import KNOWN, SHOWN, comparison

    if not paths:
        raise ConfigError("compare: name at least one run directory, or a folder of them such as runs/.")
    found = [run for path in paths for run in find_runs(path) or [path]]
    records, unreadable = [], []
    for run in found:
        try:
            records.append(read_run(run))
        except TightropeError as error:
            if run in paths:
                raise
            unreadable.append(f"Left out: {error}")
    rows = comparison(records)
    if as_json:
        say(json.dumps(rows, indent=1))
    else:
        print_table(KNOWN, {row["method"]: row for row in rows}.values())
        say("")
        print_table(SHOWN, rows)
        for line in unreadable:
            say(line)


@app.command
def explain(
    path: Path,
    /,
    *,
    at: int | None = None,
    fail_on: Literal["growth"] | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Say where a run stands and how it came there, while it goes on or afterwards.

    Args:
        path: A run directory, of the lab or of a loop that was watched.
        at: A step; the last one stored where it is left out.
        fail_on: growth: exit with 3 if the last ratio up to there is called unstable, or the whole run is.
        as_json: Print one JSON object.
    """
    from tightrope.views import explanation

    found = explanation(path, at)
    say(json.dumps(found.to_dict(), indent=1) if as_json else "\n".join(found.lines))
    return CHECK_FAILED if fail_on and found.is_growing else 0


@app.command
def threshold(
    method: str, /, *, step: int | None = None, rho: float = 0.0, grad_norm: float | None = None, **options: str
) -> None:
    """Print the stability threshold of a method: P, F(-1), the threshold, and the growth just beyond it.

    Args:
        method: Its name, such as gd, heavyball, nesterov, rmsprop, adam, adamw.
        step: Of a method whose momentum changes with the step; the threshold it tends to where it is left out.
        rho: Length of SAM's ascent; 0 for none.
        grad_norm: Norm of the gradient that ascends, for SAM over a method without preconditioner.
        options: Its hyperparameters, such as --lr 1e-3 --beta1 0.9.
    """
    from tightrope.training import recipe_from

    from .thresholds import describe_threshold

    recipe = recipe_from(method, {key.replace("-", "_"): value for key, value in options.items()})
    for name, value in list(describe_threshold(recipe, step, rho, grad_norm)):
        say(f"{name:<10} {value}")


@app.command
def doctor(
    what: str,
    /,
    *,
    budget: str = "3%",
    max_bytes: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Say, before training, whether a model can be measured, by which route, at what cost, and how often.

    It takes a few training steps and measurements on the batch, on the model that the function builds for it.

    Args:
        what: A function without arguments that returns (model, optimizer, loss_fn, batch), as pkg.mod:build or
            path/to/file.py:build.
        budget: Share of the whole time that measuring may take.
        max_bytes: Memory that a measurement may hold, such as 2GB; default most of what is free.
        as_json: Print one JSON object.
    """
    from .examining import doctor_says

    return 0 if doctor_says(what, budget, max_bytes, as_json) else UNMEASURED


@app.command
def measure(
    what: str,
    checkpoint: Path,
    /,
    *,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 1,
    rtol: float = 1e-2,
    layers: Annotated[bool, Parameter(negative="")] = False,
    spectrum: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Measure a checkpoint: how far its optimizer is from the edge of stability, on the batch that is built.

    Args:
        what: A function without arguments that returns (model, optimizer, loss_fn, batch), as pkg.mod:build or
            path/to/file.py:build.
        checkpoint: Its weights, and its optimizer's state if it has one: .safetensors, or a file of torch.save that
            holds tensors and plain containers only.
        k: How many of the largest eigenvalues to find.
        rtol: Relative residual at which the eigensolve stops.
        layers: Print which layers hold the top direction.
        spectrum: An HTML file to draw the whole spectrum into; some 250 products more.
        as_json: Print one JSON object.
    """
    from .offline import measure_says

    return 0 if measure_says(what, checkpoint, k, rtol, layers, spectrum, as_json) else UNMEASURED


@app.command
def fetch(name: str, /) -> None:
    """Download the official archive of a data set, check it, and keep it where `tightrope run` looks for it.

    Args:
        name: cifar10 or cifar100. Kept in the folder TIGHTROPE_DATA names, or in ~/.cache/tightrope.
    """
    from .fetching import fetch_archive

    fetch_archive(name)


def _fail(message: str) -> int:
    print(f"tightrope: {one_line(message)}", file=sys.stderr)
    return USAGE
