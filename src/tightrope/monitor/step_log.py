"""Every step's loss, learning rate and gradient norm, and the first number among them that is not finite.

A GPU is not waited for: tensors are kept as they are and looked at together, when a reading is due or now and then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError

SECONDS_BETWEEN = 1.0
MAX_ROWS = 200
"""Rows held back at most: what a killed run loses of its log."""


@dataclass(frozen=True)
class NotFinite:
    """The first number of its kind that was not finite.

    Attributes:
        step: At which it was seen.
        what: "loss", "gradient", "weight", "second moment" or another part of the optimizer's state.
        parameter: Its name, where it is one; empty for the loss.
        since: The last step at which all was still finite, where the steps between were not looked at; else step - 1.
    """

    step: int
    what: str
    parameter: str = ""
    since: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Columns of a `not_finite` event."""
        return {**asdict(self), "words": self.words}

    @property
    def words(self) -> str:
        """One sentence."""
        where = f" of {self.parameter}" if self.parameter else ""
        late = f", after step {self.since}" if self.since < self.step - 1 else ""
        return f"The {self.what}{where} is not finite for the first time at step {self.step}{late}."


@dataclass(frozen=True)
class _Row:
    step: int
    loss: Any
    lr: float
    norms: Tensor | None
    names: Sequence[str]


class StepLog:
    """Collects rows and hands them on, in order.

    Args:
        write: Takes the columns of one `step` event.
        report: Takes the first number of each kind that is not finite.
        clock: Wall-clock seconds.
    Attributes:
        is_finite: Whether the last loss handed on was finite; True before the first.
    """

    def __init__(
        self,
        write: Callable[..., None],
        report: Callable[[NotFinite], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._report, self._clock = write, report, clock
        self._rows: list[_Row] = []
        self._flushed = clock()
        self._seen: set[str] = set()
        self.is_finite = True
        self._last_finite = {"loss": 0, "gradient": 0}

    def add(self, step: int, loss: Any, lr: float, norms: Tensor | None, names: Sequence[str]) -> None:
        """Take in one step; `norms` are of the gradients of the parameters of these names.

        Raises:
            ConfigError: the loss is no number.
        """
        if loss is not None and not hasattr(loss, "__float__"):
            raise ConfigError(
                f"step: the loss must be a tensor or a number; got {type(loss).__name__}. Call step(batch, loss)."
            )
        self._rows.append(_Row(step, loss.detach() if isinstance(loss, Tensor) else loss, lr, norms, names))
        if len(self._rows) >= MAX_ROWS or self._clock() - self._flushed > SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Look at what has been collected and hand it on."""
        rows, self._rows, self._flushed = self._rows, [], self._clock()
        for row in rows:
            loss, norms = _as_float(row.loss), None if row.norms is None else row.norms.double().cpu()
            total = float("nan") if norms is None else float(norms.norm())
            self._write(step=row.step, loss=loss, lr=row.lr, grad_norm=total)
            for found in self._found(row, loss, norms):
                self.note(found)

    def note(self, found: NotFinite) -> None:
        """Report what is not finite, the first time something of its kind is not."""
        if found.what not in self._seen:
            self._seen.add(found.what)
            self._report(found)

    def _found(self, row: _Row, loss: float, norms: Tensor | None) -> Iterator[NotFinite]:
        if norms is not None:
            bad = torch.nonzero(~norms.isfinite())
            if len(bad):
                yield NotFinite(row.step, "gradient", row.names[int(bad[0])], self._last_finite["gradient"])
            else:
                self._last_finite["gradient"] = row.step
        if row.loss is not None:
            self.is_finite = math.isfinite(loss)
            if self.is_finite:
                self._last_finite["loss"] = row.step
            else:
                yield NotFinite(row.step, "loss", "", self._last_finite["loss"])


def _as_float(loss: Any) -> float:
    if loss is None:
        return float("nan")
    if isinstance(loss, Tensor):
        return float(loss.double().mean()) if loss.numel() else float("nan")
    return float(loss)
