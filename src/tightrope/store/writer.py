"""Write a run directory: one process at a time, nothing overwritten, events appended line by line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tightrope.errors import StoreError

from .durable import replace_file
from .reader import check_files
from .schema import CONFIG, DISCARDED, EVENTS


class RunWriter:
    """The one writer of a run directory; another one, in this process or any other, is refused while it is open.

    Made by `RunWriter.new` or `RunWriter.reopen`.

    Attributes:
        path: The run directory.
        offset: Bytes of events written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events = _lock(path)
        self.offset = os.fstat(self._events).st_size

    @classmethod
    def new(cls, path: Path, config: str) -> RunWriter:
        """Make a run directory and hold it.

        Args:
            path: Directory to make; it must not exist, or be empty.
            config: Text of `config.toml`.
        Raises:
            StoreError: the directory holds something already, or cannot be written.
        """
        with _explained(path, "Choose another directory."):
            path.mkdir(parents=True, exist_ok=True)
            _check_blank(path)
            writer = cls(path)
            try:
                _check_blank(path)  # again, now that no other process can come between
                replace_file(path / CONFIG, config.encode())
            except BaseException:
                writer.close()
                raise
            return writer

    @classmethod
    def reopen(cls, path: Path) -> RunWriter:
        """Hold a run directory that exists, to go on where its events end, or after a `rewind`.

        Raises:
            StoreError: there is no run, another process writes it, or it cannot be written.
        """
        check_files(path)
        with _explained(path, "See who owns it."):
            return cls(path)

    def write(self, kind: str, **columns: Any) -> None:
        """Append one event; the whole line is handed to the system before this returns, or none of it.

        Raises:
            StoreError: the disk is full or gone; the events written before stay as they are.
        """
        event = {"type": kind, **{name: _storable(value) for name, value in columns.items()}}
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        with _explained(self.path, _GO_ON.format(self.path)):
            try:
                _write_all(self._events, line)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._events, self.offset)
                raise
        self.offset += len(line)

    def events_until(self, offset: int) -> list[dict[str, Any]]:
        """The events in the first bytes of the file.

        Raises:
            StoreError: the file is shorter, or the offset is not the end of a line of events.
        """
        with _explained(self.path, "See who owns it."):
            content = os.pread(self._events, offset, 0)
        try:
            if len(content) < offset or content[-1:] not in (b"\n", b""):
                raise ValueError
            return [json.loads(line) for line in content.splitlines()]
        except (ValueError, RecursionError):
            raise StoreError(
                f"run directory: the first {offset} bytes of {self.path / EVENTS} must be whole events, as its "
                f"checkpoint counts them; they are not. Put the file back, or run it anew: tightrope run "
                f"{self.path / CONFIG}"
            ) from None

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether a process writes the run directory now."""
        try:
            os.close(_lock(path))
        except StoreError:
            return True
        return False

    def sync(self) -> None:
        """Bring the events to the disk, so that a checkpoint never names an offset beyond their end."""
        with _explained(self.path, _GO_ON.format(self.path)):
            os.fsync(self._events)

    def rewind(self, offset: int) -> int:
        """Move the events past an offset to `events.discarded.jsonl`; returns how many bytes that were."""
        size = os.fstat(self._events).st_size
        with _explained(self.path, _GO_ON.format(self.path)):
            discarded = os.pread(self._events, size - offset, offset)
            if discarded:
                _append(self.path / DISCARDED, discarded if discarded.endswith(b"\n") else discarded + b"\n")
            os.ftruncate(self._events, offset)
            os.fsync(self._events)
        self.offset = offset
        return len(discarded)

    def close(self) -> None:
        """Let go of the directory; further writing is an error."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_GO_ON = "Everything before is stored: make room, then `tightrope resume {}`."


def _lock(path: Path) -> int:
    """The events, open for appending and locked; the system lets go of the lock however the process ends."""
    descriptor = os.open(path / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"run directory: {path} must have one writer; another process writes it now. Wait for it, or stop it."
        ) from None
    return descriptor


def _check_blank(path: Path) -> None:
    """Raise unless a directory holds nothing, or only the empty beginning of a run that was killed at once."""
    events = path / EVENTS
    others = {entry.name for entry in path.iterdir()} - {EVENTS, f"{CONFIG}.tmp"}
    if others or (events.exists() and events.stat().st_size):
        raise StoreError(f"run directory: must be new or empty; {path} holds files. Choose another directory.")


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _explained(path: Path, advice: str) -> Iterator[None]:
    """Turns the system's errors inside the block into one line about the run directory."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"run directory: {path} must be writable; {error.strerror or error}. {advice}") from error


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: _storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value
