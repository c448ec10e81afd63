"""The lab's training loop: run a configuration, or take up a run that was stopped, and store every step."""

from __future__ import annotations

import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tightrope.errors import ConfigError, StoreError
from tightrope.optim import ForeignRecipe
from tightrope.problems import Problem
from tightrope.store import CONFIG, RunRecord, RunWriter, claim, environment, read_run, versions

from .checkpoint import State, load, save
from .config import RunConfig, to_mapping
from .preparation import build_problem
from .provenance import describe
from .rehearsal import rehearse
from .session import Progress, Session
from .settings import from_mapping

Observer = Callable[[Progress], None]


def run(
    config: RunConfig, *, out: str | Path | None = None, name: str | None = None, observe: Observer | None = None
) -> RunRecord:
    """Train as configured, measure on the way, store everything, and return what was stored.

    Args:
        config: The whole run.
        out: Directory to make; it must not hold files. Default a new one below runs/.
        name: What to call that one, default PROBLEM-METHOD; numbered where it exists.
        observe: Called after every step; it only reads.
    Returns:
        The run as stored, with its verdict. A divergence or an interrupt (Ctrl-C) ends the run cleanly and is
        its `outcome`, not an exception.
    Raises:
        ConfigError: the data or a setting does not fit; nothing is written.
        StoreError: the directory holds files, or cannot be written; what was written stays and can be resumed.
    """
    # As a file would give it back: what cannot be written and read again could not be resumed.
    config = from_mapping(to_mapping(config))
    problem = _build(config)
    default = f"{config.problem.__struct_config__.tag}-{config.method.__struct_config__.tag}"
    path = claim(Path("runs"), name or default) if out is None else Path(out)
    with RunWriter.new(path, config.to_toml()) as writer:
        _train(config, problem, writer, None, observe)
    return read_run(path)


def resume(path: str | Path, *, observe: Observer | None = None, is_strict: bool = True) -> RunRecord:
    """Take up a run that was stopped or killed, from its last checkpoint, and return the whole of it.

    What the run stored from then on equals what it would have stored undisturbed, bit for bit in all but times.
    Events past the checkpoint are moved to `events.discarded.jsonl`. A run that ended is returned as it is.

    Args:
        path: The run directory.
        observe: As for `run`.
        is_strict: Refuse where versions or device differ from those of the checkpoint, so that the promise holds.
    Raises:
        StoreError: there is no run, its checkpoint is missing, damaged or of another configuration, or another
            process writes it; nothing is changed.
    """
    path = Path(path)
    with RunWriter.reopen(path) as writer:
        former = read_run(path)
        if "watch" in former.config:
            raise StoreError(
                f"resume: {path} must be a run of tightrope's own; it is a loop that was watched. Run that loop again."
            )
        if former.outcome not in ("unfinished", "interrupted"):
            return former
        config, state = _configured(path), load(path)
        problem = _build(config)
        if state is not None:
            _check_identity(path, state["identity"], _identity(config, problem), is_strict)
        elif len(former.steps["step"]):
            raise StoreError(f"resume: {path} must have a checkpoint; there is none. {_anew(path)}")
        _train(config, problem, writer, state, observe)
    return read_run(path)


def _build(config: RunConfig) -> Problem:
    problem = build_problem(config)
    if isinstance(config.method, ForeignRecipe):
        rehearse(config.method, problem)
    return problem


def _train(
    config: RunConfig, problem: Problem, writer: RunWriter, state: State | None, observe: Observer | None
) -> None:
    """Carry a run to its end, from its beginning or from a checkpoint's state."""
    with _reproducible(config.seed, state):
        session = Session(config, problem, writer)
        run_id = uuid.uuid4().hex if state is None else state["run_id"]
        if state is None:
            writer.rewind(0)
            writer.write("start", run_id=run_id, **describe(config, problem))
        else:
            _take_up(session, state)
        keep = _Keeper(session, run_id, _identity(config, problem))
        try:
            if state is None:
                session.prepare()
            keep.now()
            while session.outcome is None:
                progress = session.advance()
                if progress is not None:
                    keep.when_due()
                    if observe is not None:
                        observe(progress)
        except KeyboardInterrupt:
            session.outcome = "interrupted"
        session.finish()


def _take_up(session: Session, state: State) -> None:
    writer = session.writer
    events = _own_events(writer, state)
    num_discarded = writer.rewind(state["offset"])
    session.load_state_dict(state["session"])
    session.instrument.recall(event for event in events if event["type"] == "measurement")
    writer.write("resumed", step=session.step, discarded_bytes=num_discarded, **environment())


class _Keeper:
    """Writes the checkpoints of one session: at once, at its end, and every so many seconds between."""

    def __init__(self, session: Session, run_id: str, identity: State) -> None:
        self.session, self.run_id, self.identity = session, run_id, identity
        self.last = time.monotonic()

    def when_due(self) -> None:
        is_over = self.session.outcome is not None
        if is_over or time.monotonic() - self.last >= self.session.config.checkpoint_seconds:
            self.now()

    def now(self) -> None:
        writer = self.session.writer
        writer.sync()
        state = {
            "run_id": self.run_id,
            "identity": self.identity,
            "offset": writer.offset,
            "session": self.session.state_dict(),
        }
        save(writer.path, state)
        self.last = time.monotonic()


def _identity(config: RunConfig, problem: Problem) -> State:
    """What must be the same for a checkpoint to be taken up."""
    return {
        "config": config.to_toml(),
        "versions": _versions(config),
        "device": str(problem.w.device),
        "data": problem.digest(),
        "num_threads": torch.get_num_threads(),
    }


def _versions(config: RunConfig) -> dict[str, str]:
    """Of all code a run's numbers come from, a foreign optimizer's own included."""
    code = config.method.code
    return {**versions(), **({config.method.label: code} if code else {})}


def _check_identity(path: Path, stored: State, present: State, is_strict: bool) -> None:
    # Compared as values: 0 and 0.0 are the same setting, and one that an older version did not write is at its default.
    if _parsed(stored["config"]) != _parsed(present["config"]):
        raise StoreError(
            f"resume: {path / CONFIG} must be as it was when the checkpoint was written; it was changed. Put it back, "
            f"or start a run of its own: tightrope run {path / CONFIG}"
        )
    if stored["data"] != present["data"]:
        raise StoreError(
            f"resume: the data must be what {path} was trained on; it differs. Put the files back (problem.path, "
            f"TIGHTROPE_DATA), or run it anew on these: tightrope run {path / CONFIG}"
        )
    for name in ("versions", "device"):
        if is_strict and stored[name] != present[name]:
            raise StoreError(
                f"resume: {name} must be those of the checkpoint, {stored[name]}; got {present[name]}. Go back to "
                f"them, or go on with numbers that may differ in their last digits: tightrope resume {path} --anyway"
            )


def _parsed(config: str) -> RunConfig | None:
    """A configuration from its text; None where this version does not take it."""
    try:
        return from_mapping(tomllib.loads(config))
    except ConfigError:
        return None


def _own_events(writer: RunWriter, state: State) -> list[State]:
    """The events up to the checkpoint; raises unless they are those it was written after."""
    path, events = writer.path, writer.events_until(state["offset"])
    ids = {event.get("run_id") for event in events if event.get("type") == "start"}
    steps = [event.get("step") for event in events if event.get("type") == "step"]
    if ids != {state["run_id"]} or (steps or [0])[-1] != state["session"]["step"]:
        raise StoreError(
            f"resume: the checkpoint in {path} must belong to its events; it is another run's, or they were edited. "
            f"Put both back, or run it anew: tightrope run {path / CONFIG}"
        )
    return events


def _configured(path: Path) -> RunConfig:
    try:
        return from_mapping(tomllib.loads((path / CONFIG).read_text(encoding="utf-8")))
    except ConfigError as error:
        raise StoreError(f"resume: {path / CONFIG} must be a configuration this version takes; {error}") from error


def _anew(path: Path) -> str:
    return f"Run it anew: tightrope run {path / CONFIG}"


@contextmanager
def _reproducible(seed: int, state: State | None) -> Iterator[None]:
    """The run's own random numbers, and as many threads as its checkpoint had, for the time of the block."""
    former = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if state is not None:
            torch.set_num_threads(state["identity"]["num_threads"])
        try:
            yield
        finally:
            torch.set_num_threads(former)
