"""TensorBoard as a sink, through a writer of the loop's owner or one of our own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .sinks import SPACE, Sink, spaced


@runtime_checkable
class ScalarWriter(Protocol):
    """A SummaryWriter, of torch, tensorboardX or a trainer's logger."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> Any:
        """One number."""

    def add_text(self, tag: str, text_string: Any, global_step: Any = None) -> Any:
        """Some words."""

    def flush(self) -> Any:
        """Write out what is held back."""


class TensorBoard(Sink):
    """Scalars in an event file, alerts in its texts.

    Args:
        run_dir: Below it a file of our own.
        writer: To write with instead; it stays open.
    """

    def __init__(self, run_dir: Path | None, writer: ScalarWriter | None = None) -> None:
        self._run_dir, self._writer = run_dir, writer

    @property
    def name(self) -> str:
        return "tensorboard"

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        writer = self._opened()
        for key, value in spaced(numbers).items():
            writer.add_scalar(key, value, step)

    def alert(self, step: int, title: str, words: str) -> None:
        self._opened().add_text(f"{SPACE}/alert", f"**{title}**: {words}", step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            if self._run_dir is not None:
                self._writer.close()  # type: ignore[attr-defined]

    def _opened(self) -> Any:
        if self._writer is None:
            assert self._run_dir is not None
            self._writer = import_module("torch.utils.tensorboard").SummaryWriter(self._run_dir / "tensorboard")
        return self._writer
