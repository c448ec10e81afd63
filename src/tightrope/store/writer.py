"""Write a run directory: made once, never overwritten, events appended line by line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from tightrope.errors import StoreError

from .schema import CONFIG, EVENTS


class RunWriter:
    """The one writer of a new run directory.

    Args:
        path: Directory to make; it must not exist, or be empty.
        config: Text of `config.toml`.
    Raises:
        StoreError: the directory holds something already, or cannot be written.
    """

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise StoreError(f"run directory: must be new or empty; {path} holds files. Choose another --out.")
            (path / CONFIG).write_text(config)
            self._events = (path / EVENTS).open("x", encoding="utf-8", buffering=1)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"run directory: {path} must be writable; {error.strerror}. Choose another --out."
            ) from error

    def write(self, kind: str, **columns: Any) -> None:
        """Append one event; the line is handed to the system before this returns."""
        event = {"type": kind, **{name: _storable(value) for name, value in columns.items()}}
        self._events.write(json.dumps(event, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the events; further writing is an error."""
        self._events.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: _storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value
