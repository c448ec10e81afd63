"""A study judged: what each check found, and what the runs it rests on cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .check import Finding, Outcome, Result, verdict_of
from .folder import StudyFolder
from .study import Study


@dataclass(frozen=True)
class Judgement:
    """What a study found.

    Attributes:
        study: It.
        scale: Of its runs.
        findings: One a line of its table.
        num_runs: Different runs it needs.
        costs: By key, of those that ended: process time, and the part of it spent measuring, in seconds.
        environment: Versions, seeds and threads of the runs, each value once.
        outcomes: The runs themselves, in the order of the grid.
    """

    study: Study
    scale: str
    findings: tuple[Finding, ...]
    num_runs: int
    costs: dict[str, tuple[float, float]]
    environment: dict[str, list[str]]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def result(self) -> Result:
        """Of the whole study."""
        return verdict_of(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        study = {"name": self.study.name, "title": self.study.title, "figure": self.study.figure}
        rest = {"result": self.result, "scale": self.scale, "version": self.study.version}
        seconds, measuring = total(self.costs)
        cost = {
            "num_runs": self.num_runs,
            "num_done": len(self.costs),
            "seconds": seconds,
            "measuring_seconds": measuring,
            "measuring_share": measuring / seconds if seconds else None,
        }
        findings = [asdict(finding) for finding in self.findings]
        return {**study, **rest, **cost, "environment": self.environment, "findings": findings}


def judge(study: Study, scale: str, folder: StudyFolder, settings: Iterable[str] = ()) -> Judgement:
    """Decide a study's claims on the runs that a folder holds of it.

    Raises:
        ConfigError: as `Study.cases`.
        StoreError: the folder holds runs of another version of the study.
    """
    folder.check(study, scale)
    cases = study.cases(scale, settings)
    outcomes = folder.outcomes(cases)
    findings = [finding for check in study.checks for finding in check.judge(outcomes)]
    done = {case.key: outcome for case, outcome in zip(cases, outcomes, strict=True) if outcome.record is not None}
    return Judgement(
        study,
        scale,
        tuple(findings),
        len({case.key for case in cases}),
        {key: _cost(outcome) for key, outcome in done.items()},
        _environment(done.values()),
        tuple(outcomes),
    )


def total(costs: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Seconds of runs together, and the part of them spent measuring."""
    return sum(seconds for seconds, _ in costs.values()), sum(measuring for _, measuring in costs.values())


def _cost(outcome: Outcome) -> tuple[float, float]:
    assert outcome.record is not None
    return outcome.record.end["seconds"], outcome.record.end["measuring_seconds"]


def _environment(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        start = {} if outcome.record is None else outcome.record.start
        values = {**start.get("versions", {}), "seed": start.get("seed"), "threads": start.get("num_threads")}
        for name, value in values.items():
            if value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return found
