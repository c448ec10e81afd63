"""A study judged: what each check found, and what the runs it rests on cost."""

from __future__ import annotations

from collections.abc import Iterable
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
        num_runs, num_done: Different runs it needs, and those that ended.
        seconds, measuring_seconds: Process time of those that ended, and the part of it spent measuring.
        environment: Versions, seeds and threads of the runs, each value once.
    """

    study: Study
    scale: str
    findings: tuple[Finding, ...]
    num_runs: int
    num_done: int
    seconds: float
    measuring_seconds: float
    environment: dict[str, list[str]]

    @property
    def result(self) -> Result:
        """Of the whole study."""
        return verdict_of(self.findings)

    @property
    def measuring_share(self) -> float | None:
        """Part of the time that was spent measuring; None without runs."""
        return self.measuring_seconds / self.seconds if self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        study = {"name": self.study.name, "title": self.study.title, "figure": self.study.figure}
        rest = {"result": self.result, "scale": self.scale, "version": self.study.version}
        cost = {
            "num_runs": self.num_runs,
            "num_done": self.num_done,
            "seconds": self.seconds,
            "measuring_seconds": self.measuring_seconds,
            "measuring_share": self.measuring_share,
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
        len(done),
        *_cost(done.values()),
        _environment(done.values()),
    )


def _cost(outcomes: Iterable[Outcome]) -> tuple[float, float]:
    ends = [outcome.record.end for outcome in outcomes if outcome.record is not None]
    return sum(end["seconds"] for end in ends), sum(end["measuring_seconds"] for end in ends)


def _environment(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        start = {} if outcome.record is None else outcome.record.start
        values = {**start.get("versions", {}), "seed": start.get("seed"), "threads": start.get("num_threads")}
        for name, value in values.items():
            if value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return found
