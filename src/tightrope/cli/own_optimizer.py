"""`tightrope study aeos`: an optimizer of one's own, from its first step to its panel of Figure 5."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from tightrope.errors import ConfigError, check_count, check_number
from tightrope.optim import ForeignRecipe
from tightrope.studies import (
    CANDIDATES,
    SEARCH_STEPS,
    Execution,
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
from .output import print_table, say
from .studying import num_cores, say_execution, watching

LR = 1e-3
"""Where an optimizer is examined that trains at no rate."""
COLUMNS = {"claim": "claim", "number": "number", "band": "must be", "result": "result", "why": "why"}


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
    """Examine an optimizer, run it at several rates, print what was found; PASS, MISS, UNDECIDED or INTERRUPTED.

    Raises:
        ConfigError, StoreError: before anything is written.
    """
    check_count("--lrs:", lrs)
    workers = num_cores() if num_workers is None else num_workers
    check_count("-j:", workers)
    with chatter_aside():
        method = _method(what, options)
        rates = _rates(method, lrs, bounds)
        study = own_study(method, rates)
        check_problems(study.cases("small", settings))
        folder = StudyFolder(out)
        folder.check(study, "small")
        sound = examine(msgspec.structs.replace(method, lr=spaced(rates[0], rates[-1], 1)[0] if rates else method.lr))
    if not as_json:
        _say_soundness(method, sound)
    execution = _carried_out(study, sound, folder, settings, workers, as_json)
    judgement = None if execution is None else judge(study, "small", folder, settings)
    untrained = () if rates else (_untrained(method),)
    findings = (*sound.findings, *untrained, *(judgement.findings if judgement else ()))
    if as_json:
        say(json.dumps(_to_dict(method, sound, rates, findings, judgement), indent=1))
    elif judgement is not None and execution is not None:
        say_execution(execution)
        say("")
        print_table(COLUMNS, [asdict(finding) for finding in judgement.findings])
    elif untrained:
        say(untrained[0].why)
    result = "INTERRUPTED" if execution is not None and execution.is_interrupted else verdict_of(findings)
    if not as_json and result != "INTERRUPTED":
        say("")
        say(f"{method.label}: {result}")
    return result


def _method(what: str, options: Sequence[str]) -> ForeignRecipe:
    for option in options:
        if "=" not in option:
            raise ConfigError(f"--option: must be KEY=VALUE; got '{option}'. Example: --option weight_decay=0.1")
    run = {"problem": {"name": "chebyshev"}, "method": {"name": "foreign", "path": what, "lr": LR, "options": {}}}
    method = from_mapping(override(run, [f"method.options.{option}" for option in options])).method
    assert isinstance(method, ForeignRecipe)
    return method


def _rates(method: ForeignRecipe, lrs: int, bounds: Sequence[float]) -> tuple[float, ...]:
    if not bounds:
        return find_rates(method, lrs)
    for lr in bounds:
        check_number("--lr:", lr, lambda lr: 0 < lr < math.inf, "be positive and finite")
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        given = " ".join(f"{lr:g}" for lr in bounds)
        raise ConfigError(f"--lr: must be given twice, the lowest rate and the highest; got {given}.")
    return spaced(bounds[0], bounds[1], lrs)


def _untrained(method: ForeignRecipe) -> Finding:
    why = (
        f"{method.label} trains the Chebyshev network at no rate from {CANDIDATES[0]:g} to {CANDIDATES[-1]:g}: its "
        f"loss does not fall by a tenth in {SEARCH_STEPS} steps. Name two: --lr LOW --lr HIGH."
    )
    return Finding("trains at some rate", "", "a loss that falls by a tenth", "UNDECIDED", why)


def _carried_out(
    study: Study, sound: Soundness, folder: StudyFolder, settings: Sequence[str], workers: int, as_json: bool
) -> Execution | None:
    """The runs of its panel; None where there are none, or no ratio could be drawn."""
    cases = study.cases("small", settings)
    if not sound.has_edge or not cases:
        return None
    folder.sign(study, "small")
    with nullcontext(None) if as_json else watching() as observe:
        return execute(cases, folder, num_workers=workers, observe=observe)


def _say_soundness(method: ForeignRecipe, sound: Soundness) -> None:
    if sound.threshold is not None:
        say(f"{method.label}: threshold {sound.threshold * sound.lr:.4g} / lr, as found at lr {sound.lr:g}")
    elif sound.has_edge:
        say(f"{method.label}: its groups have thresholds of their own; the edge is ratio 1 for all together")
    else:
        say(f"{method.label}: no threshold. {sound.reason}")
    print_table(COLUMNS, [asdict(finding) for finding in sound.findings])
    say("")


def _to_dict(
    method: ForeignRecipe,
    sound: Soundness,
    rates: Sequence[float],
    findings: Sequence[Finding],
    judgement: Judgement | None,
) -> dict[str, Any]:
    return {
        "optimizer": method.path,
        "options": method.options,
        "status": sound.status,
        "reason": sound.reason,
        "threshold": sound.threshold,
        "threshold_lr": sound.lr,
        "lrs": list(rates),
        "result": verdict_of(findings),
        "findings": [asdict(finding) for finding in findings],
        "figure": None if judgement is None else judgement.to_dict(),
    }
