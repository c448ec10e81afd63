"""Where studies keep their runs: one folder, a directory a run named by its configuration, shared by all studies.

`runs/KEY/` is a run directory, `failures/KEY.json` why a run could not be carried out, `studies/NAME-SCALE.json` the
version of the study that asked for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tightrope.errors import ConfigError, StoreError, one_line
from tightrope.store import CONFIG, EVENTS, RunRecord, read_run, replace_file
from tightrope.training import RunConfig, from_mapping

from .check import Outcome
from .study import Case, Study, stored

ENDED = ("completed", "target_loss", "diverged")
"""Outcomes after which a run is never taken up again."""

State = Literal["done", "begun", "failed", "missing"]


@dataclass(frozen=True)
class RunState:
    """How far a run of a study is.

    Attributes:
        state: done, begun (it can be taken up), failed, or missing.
        step: Steps taken.
        reason: Why it failed.
        record: What is stored of it.
        is_spoilt: Whether its directory is damaged, or holds another run than the one asked for: until somebody puts it
            right or deletes it, nothing can be done.
    """

    state: State
    step: int = 0
    reason: str = ""
    record: RunRecord | None = None
    is_spoilt: bool = False


class StudyFolder:
    """A folder of studies.

    Attributes:
        path: Made when the first thing is written into it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def run_path(self, key: str) -> Path:
        """Directory of the run with a key."""
        return self.path / "runs" / key

    def check(self, study: Study, scale: str) -> None:
        """Raise unless the folder's runs of a study, if there are any, were asked for by the same version of it.

        Raises:
            StoreError: they were not, or the folder cannot be read.
        """
        path = self._signature(study, scale)
        try:
            version = json.loads(path.read_text(encoding="utf-8"))["version"] if path.exists() else study.version
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"study: {path} must say the version of {study.name}; it is damaged. Delete it."
            ) from error
        if version != study.version:
            raise StoreError(
                f"study: {self.path} must hold version {study.version} of {study.name}; it holds version {version}. "
                "Choose another --out, or use the tightrope that made it."
            )

    def sign(self, study: Study, scale: str) -> None:
        """Note the version of a study whose runs are about to be made.

        Raises:
            StoreError: the folder holds another version, or cannot be written.
        """
        self.check(study, scale)
        content = json.dumps({"study": study.name, "scale": scale, "version": study.version})
        self._write(self._signature(study, scale), content)

    def state(self, case: Case) -> RunState:
        """How far a run is, from what is stored of it."""
        path, reason = self.run_path(case.key), self._failure(case.key)
        held = _held(path)
        if not held:
            return RunState("failed", reason=reason) if reason else RunState("missing")
        if lost := [name for name in (CONFIG, EVENTS) if name not in held]:
            return _spoilt(f"{path} lacks its {lost[0]}; put it back, or {anew(path)}.")
        try:
            record = read_run(path)
        except StoreError:
            # Its own advice is for a run that no study makes again.
            return _spoilt(f"{path} is damaged and cannot be read; put it back, or {anew(path)}.")
        step = len(record.steps["step"])
        if not _holds(record.config, case.config):
            return _spoilt(f"{path / CONFIG} was changed; put it back, or {anew(path)}.", step, record)
        if record.outcome in ENDED:
            return RunState("done", step, record=record)
        return RunState("failed" if reason else "begun", step, reason, record)

    def outcomes(self, cases: Iterable[Case]) -> list[Outcome]:
        """The runs as a check sees them."""
        return [_outcome(case, self.state(case)) for case in cases]

    def note_failure(self, case: Case, reason: str) -> None:
        """Record why a run could not be carried out."""
        content: dict[str, Any] = {"label": case.label, "reason": reason, "config": case.config.to_toml()}
        self._write(self._failures / f"{case.key}.json", json.dumps(content, indent=1))

    def forget_failure(self, case: Case) -> None:
        """The run is tried again, or done."""
        (self._failures / f"{case.key}.json").unlink(missing_ok=True)

    @property
    def _failures(self) -> Path:
        return self.path / "failures"

    def _failure(self, key: str) -> str:
        path = self._failures / f"{key}.json"
        try:
            # An older version kept the lines of an error as they were.
            return one_line(str(json.loads(path.read_text(encoding="utf-8"))["reason"])) if path.exists() else ""
        except (OSError, ValueError, KeyError, TypeError):
            return f"{path} is damaged"

    def _signature(self, study: Study, scale: str) -> Path:
        return self.path / "studies" / f"{study.name}-{scale}.json"

    def _write(self, path: Path, content: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content.encode())
        except OSError as error:
            raise StoreError(
                f"study: {path} must be writable; {error.strerror or error}. Choose another --out."
            ) from error


def _held(path: Path) -> set[str]:
    """Names of what a run directory holds; none where nothing was stored in it before its process was killed."""
    try:
        held = {entry.name for entry in path.iterdir()}
        is_begun = bool(held - {EVENTS, f"{CONFIG}.tmp"}) or (path / EVENTS).stat().st_size > 0
    except OSError:
        return set()
    return held if is_begun else set()


def anew(path: Path) -> str:
    """What makes a run of a study again that cannot be taken up."""
    return f"delete {path} and give `tightrope study run` again"


def _spoilt(reason: str, step: int = 0, record: RunRecord | None = None) -> RunState:
    return RunState("failed", step, reason, record, is_spoilt=True)


def _holds(table: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether a stored table is a configuration; settings that it lacks are at their defaults."""
    try:
        return from_mapping(table) == from_mapping(stored(config))
    except ConfigError:
        return False


def _outcome(case: Case, state: RunState) -> Outcome:
    config = stored(case.config)
    if state.state == "done":
        return Outcome(case.label, case.series, state.record, config=config)
    reasons = {
        "missing": "not run yet",
        "begun": f"at step {state.step} of {case.config.num_steps}",
        "failed": f"failed: {state.reason}",
    }
    return Outcome(case.label, case.series, None, reasons[state.state], config)
