"""From what `watch` is given as sinks to `Sink` objects."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tightrope.errors import ConfigError, did_you_mean

from .sinks import Sink
from .tensorboard import ScalarWriter, TensorBoard
from .trackers import MLflow, Trackio, WandB

KNOWN: dict[str, type[TensorBoard | WandB | MLflow | Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def checked(sinks: Sequence[str | Sink | ScalarWriter] | None) -> list[str | Sink | ScalarWriter]:
    """The sinks, if there can be such.

    Raises:
        ConfigError: something else is among them, or a tracker that is not installed.
    """
    if isinstance(sinks, str | Sink | ScalarWriter):
        sinks = (sinks,)
    for sink in sinks or ():
        if not isinstance(sink, str | Sink | ScalarWriter) or (isinstance(sink, str) and sink not in KNOWN):
            near = did_you_mean(sink, KNOWN) if isinstance(sink, str) else ""
            raise ConfigError(
                f"watch: sinks must be of {', '.join(KNOWN)}, `Sink` objects or a SummaryWriter; got {sink!r}. "
                f"{near if near.startswith('Did') else 'Write a subclass of `Sink`, or leave it out.'}"
            )
        if isinstance(sink, str) and not _is_installed(sink):
            raise ConfigError(f"watch: {sink} must be installed; it is not. Do: pip install 'tightrope[trackers]'.")
    return list(sinks or ())


def resolved(asked: Sequence[str | Sink | ScalarWriter], run_dir: Path, *, with_active: bool) -> list[Sink]:
    """Sinks that `checked` let through as objects, and those that take what an active run of their tracker gets."""
    found = [sink for sink in asked if isinstance(sink, Sink)]
    found += [TensorBoard(None, sink) for sink in asked if not isinstance(sink, str | Sink)]
    found += [tracker(run_dir) for name, tracker in KNOWN.items() if name in asked]
    if with_active:
        found += [tracker(None) for name, tracker in KNOWN.items() if name not in (*asked, "tensorboard")]
    return found


def _is_installed(tracker: str) -> bool:
    """Folders without code, such as the wandb/ and mlflow/ that runs leave behind, look like packages too."""
    spec = find_spec(tracker)
    return spec is not None and spec.origin is not None
