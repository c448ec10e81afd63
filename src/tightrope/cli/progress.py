"""How a run looks while it goes: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from tightrope.training import Progress as RunProgress

from .output import say

SECONDS_BETWEEN_LINES = 2.0
WIDTH_FOR_A_BAR = 110


@contextmanager
def watching(num_steps: int) -> Iterator[Callable[[RunProgress], None]]:
    """An observer for `training.run` that shows where the run stands."""
    console = Console()
    if console.is_terminal:
        with _live(console, num_steps) as observe:
            yield observe
    else:
        yield _PlainLines()


@contextmanager
def _live(console: Console, num_steps: int) -> Iterator[Callable[[RunProgress], None]]:
    width = len(f"step {num_steps}/{num_steps}")
    bar = [BarColumn(bar_width=12)] if console.width >= WIDTH_FOR_A_BAR else []
    line = Progress(
        TextColumn("step {task.completed}/{task.total}", table_column=Column(min_width=width, no_wrap=True)),
        *bar,
        TimeRemainingColumn(compact=True, table_column=Column(min_width=5, no_wrap=True)),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="crop")),
        console=console,
    )
    with line:
        task = line.add_task("", total=num_steps)
        measured = _Measured()

        def observe(progress: RunProgress) -> None:
            measured.take(progress)
            line.update(task, completed=progress.step, description=_text(progress, measured))

        yield observe


class _PlainLines:
    """Prints a line at a measurement, at most every few seconds, and at the last step."""

    def __init__(self) -> None:
        self.measured = _Measured()
        self.last = time.monotonic()
        self.first: tuple[int, float] | None = None

    def __call__(self, progress: RunProgress) -> None:
        self.measured.take(progress)
        now = time.monotonic()
        # Counted from the first step seen: it is the dear one, and a resumed run begins in the middle.
        self.first = (progress.step, now) if self.first is None else self.first
        is_last = progress.step == progress.num_steps
        if is_last or (progress.measurement is not None and now - self.last >= SECONDS_BETWEEN_LINES):
            self.last = now
            left = (now - self.first[1]) / max(1, progress.step - self.first[0]) * (progress.num_steps - progress.step)
            text = _text(progress, self.measured)
            say(f"step {progress.step}/{progress.num_steps}  {text}  {left:.0f} s left")


class _Measured:
    """The latest measurement in words, and the products spent so far."""

    def __init__(self) -> None:
        self.words = "not measured yet"
        self.num_products = 0

    def take(self, progress: RunProgress) -> None:
        m = progress.measurement
        if m is None:
            return
        self.num_products += m.num_products
        number = f"ratio {m.ratio:.3f} +- {m.residual:.1g}" if m.has_ratio else "no ratio"
        self.words = f"{number}  {progress.verdict}"


def _text(progress: RunProgress, measured: _Measured) -> str:
    # What a narrow terminal may cut off stands last.
    return f"{measured.words}  loss {progress.loss:.4g}  lr {progress.lr:.3g}  {measured.num_products} products"
