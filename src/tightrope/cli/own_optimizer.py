"""`tightrope study aeos`: an optimizer of one's own, from its first step to its panel of Figure 5."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tightrope.errors import ConfigError, check_count, check_number
from tightrope.optim import ForeignRecipe
from tightrope.studies import (
    CANDIDATES,
    SEARCH_STEPS,
    Finding,
    Judgement,
    Soundness,
    Study,
    StudyFolder,
    check_problems,
    examine,
    execute,
    find_rates,
    judge,
    own_study,
    spaced,
    verdict_of,
)
from tightrope.training import from_mapping, override

from .building import chatter_aside
from .figures import default_folder, draw
from .output import print_table, say
from .studying import num_cores, say_execution, watching

LR = 1e-3
"""Where an optimizer is examined that trains at no rate."""
COLUMNS = {"claim": "claim", "number": "number", "band": "must be", "result": "result", "why": "why"}


@dataclass(frozen=True)
class Answer:
    """What was found of one optimizer.

    Attributes:
        method, rates, sound: Itself, where it is run, and what was found before.
        judgement: Of its runs; None where none were asked for.
        is_interrupted: Whether Ctrl-C ended them.
        figures: Paths of its panel; none where there is no run to draw.
        lacking: Why there is only a page of it; "" where nothing lacks.
    """

    method: ForeignRecipe
    rates: tuple[float, ...]
    sound: Soundness
    judgement: Judgement | None = None
    is_interrupted: bool = False
    figures: tuple[Path, ...] = ()
    lacking: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        untrained = () if self.rates else (_untrained(self.method),)
        return (*self.sound.findings, *untrained, *(self.judgement.findings if self.judgement else ()))

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "optimizer": self.method.path,
            "options": self.method.options,
            "status": self.sound.status,
            "reason": self.sound.reason,
            "threshold": self.sound.threshold,
            "threshold_lr": self.sound.lr,
            "lrs": list(self.rates),
            "result": verdict_of(self.findings),
            "findings": [asdict(finding) for finding in self.findings],
            "figure": None if self.judgement is None else self.judgement.to_dict(),
            "figures": [str(path) for path in self.figures],
            "lacking": self.lacking or None,
        }


def study_own(
    what: str,
    lrs: int,
    bounds: Sequence[float],
    options: Sequence[str],
    settings: Sequence[str],
    out: Path,
    num_workers: int | None,
    as_json: bool,
) -> str:
    """Examine an optimizer, run it at several rates, print and draw what was found.

    Returns:
        PASS, MISS, UNDECIDED or INTERRUPTED.
    Raises:
        ConfigError, StoreError: before anything is written; or, at the end, the figures cannot be.
    """
    check_count("--lrs:", lrs)
    workers = num_cores() if num_workers is None else num_workers
    check_count("-j:", workers)
    with chatter_aside():
        method = _method(what, options)
        _check_settings(method, settings)
        rates = _rates(method, lrs, bounds)
        study, folder = own_study(method, rates), StudyFolder(out)
        folder.check(study, "small")
        answer = Answer(method, rates, examine(_at_the_middle(method, rates)))
    if not as_json:
        _say_soundness(method, answer.sound)
    if answer.sound.has_edge and rates:
        answer = _with_runs(answer, study, folder, settings, workers, as_json)
    if as_json:
        say(json.dumps(answer.to_dict(), indent=1))
    else:
        _say_end(answer)
    return "INTERRUPTED" if answer.is_interrupted else verdict_of(answer.findings)


def _method(what: str, options: Sequence[str]) -> ForeignRecipe:
    for option in options:
        if "=" not in option:
            raise ConfigError(f"--option: must be KEY=VALUE; got '{option}'. Example: --option weight_decay=0.1")
    run = {"problem": {"name": "chebyshev"}, "method": {"name": "foreign", "path": what, "lr": LR, "options": {}}}
    method = from_mapping(override(run, [f"method.options.{option}" for option in options])).method
    assert isinstance(method, ForeignRecipe)
    return method


def _check_settings(method: ForeignRecipe, settings: Sequence[str]) -> None:
    """Raise where the runs could not begin, or would be of another method than the one that is named.

    It takes less time than to find rates. Two rates are tried, for one that is set could be the one that was there.
    """
    study = own_study(method, CANDIDATES[:2])
    runs = [tomllib.loads(case.config.to_toml()) for case in study.cases("small")]
    is_said = any(setting.strip().startswith("method.") for setting in settings)  # no such setting of it, perhaps
    if is_said or any(override(run, settings)["method"] != run["method"] for run in runs):
        raise ConfigError(
            f"--set {' '.join(settings)}: must leave the optimizer and its learning rates as they are; it sets one "
            "of them. Use --option KEY=VALUE for what it is called with, --lr for its rates."
        )
    check_problems(study.cases("small", settings))


def _rates(method: ForeignRecipe, lrs: int, bounds: Sequence[float]) -> tuple[float, ...]:
    if not bounds:
        return find_rates(method, lrs)
    for lr in bounds:
        check_number("--lr:", lr, lambda lr: 0 < lr < math.inf, "be positive and finite")
    if lrs == len(bounds) == 1:
        return tuple(bounds)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        given = " ".join(f"{lr:g}" for lr in bounds)
        raise ConfigError(
            f"--lr: must be given twice, the lowest rate and the highest, or once with --lrs 1; got {given}."
        )
    return spaced(bounds[0], bounds[1], lrs)


def _at_the_middle(method: ForeignRecipe, rates: Sequence[float]) -> ForeignRecipe:
    middle = spaced(rates[0], rates[-1], 1) if len(rates) > 1 else rates
    return msgspec.structs.replace(method, lr=middle[0]) if middle else method


def _untrained(method: ForeignRecipe) -> Finding:
    why = (
        f"{method.label} trains the Chebyshev network at no rate from {CANDIDATES[0]:g} to {CANDIDATES[-1]:g}: its "
        f"loss does not fall by a tenth in {SEARCH_STEPS} steps. Name two: --lr LOW --lr HIGH."
    )
    return Finding("trains at some rate", "", "a loss that falls by a tenth", "UNDECIDED", why)


def _with_runs(
    answer: Answer, study: Study, folder: StudyFolder, settings: Sequence[str], workers: int, as_json: bool
) -> Answer:
    """With the runs of its panel, judged and drawn."""
    folder.sign(study, "small")
    if not as_json:
        say("")
    with nullcontext(None) if as_json else watching() as observe:
        execution = execute(study.cases("small", settings), folder, num_workers=workers, observe=observe)
    judgement = judge(study, "small", folder, settings)
    if not as_json:
        say_execution(execution)
        say("")
        print_table(COLUMNS, [asdict(finding) for finding in judgement.findings])
    answer = replace(answer, judgement=judgement, is_interrupted=execution.is_interrupted)
    if execution.is_interrupted or not judgement.costs:
        return answer
    figures, lacking = draw(judgement, default_folder(folder.path, "small"))
    return replace(answer, figures=tuple(figures), lacking=lacking)


def _say_soundness(method: ForeignRecipe, sound: Soundness) -> None:
    if sound.threshold is not None:
        say(f"{method.label}: threshold {sound.threshold * sound.lr:.4g} / lr, as found at lr {sound.lr:g}")
    elif sound.has_edge:
        say(f"{method.label}: its groups have thresholds of their own; the edge is ratio 1 for all together")
    else:
        found = "no threshold" if sound.status == "no_threshold" else "threshold not known"
        say(f"{method.label}: {found}. {sound.reason}")
    print_table(COLUMNS, [asdict(finding) for finding in sound.findings])


def _say_end(answer: Answer) -> None:
    """Where its panel is, or why there is none; last its result."""
    if not answer.rates:
        say("")
        say(_untrained(answer.method).why)
    if answer.figures:
        say("")
        for path in answer.figures:
            say(str(path))
    if answer.lacking:
        say(answer.lacking)
    if not answer.is_interrupted:
        say("")
        say(f"{answer.method.label}: {verdict_of(answer.findings)}")
