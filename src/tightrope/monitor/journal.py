"""What a watched run leaves behind: events in its run directory, lines for a person, numbers for sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from torch.optim import Optimizer

from tightrope.optim import Frozen, freeze
from tightrope.stability import RunVerdict, StepCurvature, size_words
from tightrope.store import FORMAT, RunWriter, claim, environment

from .budget import Budget
from .hooks import moved
from .probe_set import ProbeSet
from .reading import Reading
from .resolution import checked, resolved
from .schedule import Schedule
from .sinks import Sink, Sinks
from .step_log import NotFinite
from .tensorboard import ScalarWriter

FEW = 64
"""A part of a probe set with fewer examples than this is warned of; see docs/watching.md for what was measured."""
QUIET = ("too early to say", "undecided")
"""Verdicts that are stored and not said; one between two others that agree does not part them."""


class Journal:
    """Stores, says and hands on."""

    def __init__(self, writer: RunWriter, sinks: Sinks, say: Callable[[str], None]) -> None:
        self.writer, self.sinks, self.say = writer, sinks, say
        self.path = writer.path
        self._said = self._former = ""
        self._cause: tuple[int, str] | None = None

    @classmethod
    def begun(
        cls,
        optimizer: Optimizer,
        run_dir: str | Path | None,
        sinks: Sequence[str | Sink | ScalarWriter] | None,
        say: Callable[[str], None],
        settings: dict[str, Any],
    ) -> Journal:
        """A new run directory with its first event; `settings` are stored as its configuration.

        Raises:
            ConfigError: a sink is none, or not installed.
            StoreError: the directory cannot be made.
        """
        name = f"watch-{type(optimizer).__name__.lower()}"
        asked = checked(sinks)
        path = claim(Path("runs"), name) if run_dir is None else Path(run_dir)
        watched = {key: value for key, value in settings.items() if value is not None}
        params = moved(optimizer)
        writer = RunWriter.new(path, tomli_w.dumps({"watch": watched}))
        journal = cls(writer, Sinks(resolved(asked, path, with_active=sinks is not None), say), say)
        journal.writer.write(
            "start",
            format=FORMAT,
            **environment(),
            device=str(params[0].device),
            num_parameters=sum(w.numel() for w in params),
            method=type(optimizer).__name__,
        )
        return journal

    def introduce(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        step: int,
        route: str,
        chance: str,
        data: ProbeSet,
        *,
        is_kept: bool,
        is_minibatch: bool,
    ) -> None:
        """The first line: optimizer, edge, route, cadence, budget and run directory; and one for what is read."""
        if schedule.every is not None:
            cadence = "a reading every step" if schedule.every == 1 else f"a reading every {schedule.every:,} steps"
        else:
            first, then = schedule.forecast(step, is_minibatch=is_minibatch)
            cadence = (
                f"a reading at about step {first:,}, then about every {then:,} steps, for at most "
                f"{schedule.limit:.3g} of the process time"
            )
        where = ", ".join([str(self.path), *self.sinks.names])
        self.say(f"{type(optimizer).__name__}, {_edge(freeze(optimizer))}; {route}; {cadence}; -> {where}")
        examples = _examples(max(1, round(schedule.share * data.size)), data, is_kept=is_kept)
        self.say("; ".join(words for words in (f"each reading is of {examples}", chance) if words))

    def step(self, **columns: Any) -> None:
        """One step of the loop."""
        self.writer.write("step", **columns)

    def glance(self, step: int, along: StepCurvature) -> None:
        """What a step said of the curvature along it."""
        self.writer.write(
            "glance", step=step, ratio_along_step=along.ratio, directional_smoothness=along.smoothness, loss=along.loss
        )

    def reading(self, reading: Reading, share: float) -> None:
        """A reading; what has changed for more than a moment is said as well, with what brought it about."""
        self.writer.write("measurement", step=reading.step, probe_share=share, **reading.to_dict())
        name, words = reading.verdict.name, reading.verdict.words
        is_news = self._is_news(name)
        if reading.cause is not None:
            self._cause = reading.step, reading.cause.words
        if name == "stable":
            self._cause = None
        elif is_news and self._cause is not None:
            (step, cause), self._cause = self._cause, None
            self.say(f"step {step:,}: {cause}")
        if is_news:
            self.say(f"step {reading.step:,}: {name}. {words}")
        self.sinks.log(reading.step, reading.numbers())
        if is_news and name == "unstable":
            self.sinks.alert(reading.step, "beyond the edge of stability", words)

    def _is_news(self, name: str) -> bool:
        """Whether to say a verdict: the first, growth at once, any other change when two readings in a row show it."""
        if name in QUIET:
            return False
        has_lasted, self._former = name == self._former, name
        is_news = name != self._said and (not self._said or name == "unstable" or has_lasted)
        if is_news:
            self._said = name
        return is_news

    def not_finite(self, found: NotFinite) -> None:
        """The first number of its kind that is not finite."""
        self.say(found.words)
        self.writer.write("not_finite", **found.to_dict())
        self.sinks.alert(found.step, f"{found.what} not finite", found.words)

    def end(self, verdict: RunVerdict, step: int, budget: Budget, *, num_skipped: int) -> None:
        """How the run ended."""
        self.writer.write("verdict", **verdict.to_dict())
        try:
            self.sinks.close()
        finally:  # a tracker that uploads may be interrupted, and its time counts
            self.writer.write(
                "end",
                step=step,
                outcome="closed",
                seconds=budget.total,
                measuring_seconds=budget.inside,
                num_skipped=num_skipped,
            )
            self.writer.close()


def _edge(frozen: Frozen) -> str:
    threshold = frozen.shared_threshold
    if threshold is None:
        return "edge at ratio 1 (its groups have different thresholds)"
    lr = frozen.groups[0].lr
    if not lr > 0:
        return "edge at infinity while lr is 0"
    return f"edge at {threshold * lr:.4g}/lr, now {float(f'{threshold:.4g}'):,.9g}"


def _examples(used: int, data: ProbeSet, *, is_kept: bool) -> str:
    kept = f"({size_words(data.num_bytes)} kept)" if is_kept else "of its step's own batch"
    if not data.is_counted:
        return f"all {used:,} batches kept" if is_kept else "its step's own batch"
    if used == data.size:
        return f"all {used:,} examples {kept}"
    caution = ", so few that they tend to overstate the sharpness" if used < FEW else ""
    return f"{used:,} of {data.size:,} examples {kept}{caution}"
