"""The micro-batches of one optimizer step as one batch and one loss, and what every trainer's watcher shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from tightrope.curvature import MicroBatches
from tightrope.errors import TightropeError
from tightrope.monitor import say

RUN = "tightrope"
"""Name of the run directory below a trainer's own."""


def joined(batches: Sequence[Any], weights: Sequence[float]) -> Any:
    """One batch whose loss is the weighted sum of the losses of these; None of none."""
    if not batches:
        return None
    return batches[0] if list(weights) == [1.0] else MicroBatches(list(batches), list(weights))


def weighted(losses: Sequence[Any], weights: Sequence[float]) -> Any:
    """The weighted sum of losses, waited for by nobody; None where one is not known."""
    if not losses or any(loss is None for loss in losses):
        return None
    return sum(weight * loss for loss, weight in zip(losses, weights, strict=True))


def plain(loss: Any) -> Any:
    """A loss without its graph."""
    return loss.detach() if isinstance(loss, Tensor) else loss


def run_directory(asked: str | Path | None, folder: str | Path | None) -> str | Path | None:
    """Where a run is to be stored: as asked; or new below the trainer's own folder; or None for one below runs/."""
    if asked is not None or folder is None:
        return asked
    names = (RUN if number == 1 else f"{RUN}-{number}" for number in count(1))
    return next(path for path in (Path(folder, name) for name in names) if not path.exists())


def on_one_rank(num_ranks: int) -> None:
    """Say what the watcher of the first of several processes measures."""
    if num_ranks > 1:
        say(
            f"watching on rank 0 of {num_ranks}: the loss measured is that of the batches of this rank alone; the "
            "optimizer and its averaged gradients are those of all."
        )


@contextmanager
def harmless(close: Callable[..., None]) -> Iterator[None]:
    """What goes wrong inside is said in one line, and ends the watching; the trainer goes on."""
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, TightropeError) else f"{type(error).__name__}: {error}"
        say(f"{' '.join(words.split())} The run goes on unwatched.")
        close(has_failed=True)
