"""Fetching an archive: to a temporary name, checked, and only then to its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tightrope.errors import DataError

from .archives import Archive, data_folder

CHUNK = 1 << 16
SECONDS_OF_SILENCE = 30.0


def download(archive: Archive, observe: Callable[[int], None] = lambda num_bytes: None) -> Path:
    """Fetch a published archive into the data folder; what is there already is replaced by a genuine one only.

    Args:
        archive: What to fetch.
        observe: Called with the number of bytes that have come so far.
    Returns:
        The file.
    Raises:
        DataError: the network, the server or the disk failed, or what came is not the published file; nothing of it
            is left, and what was there before is untouched.
    """
    path = data_folder() / archive.file
    part = path.with_name(f".{archive.file}.{os.getpid()}.part")
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise DataError(f"TIGHTROPE_DATA: must name a folder; {path.parent} is a file. Name another.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(archive, part, observe)
        part.replace(path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"{archive.name}: {path} must be writable, with {archive.num_bytes / 1e6:.0f} MB free; "
            f"{error.strerror}. Make room, or set TIGHTROPE_DATA to another folder."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return path


def _receive(archive: Archive, part: Path, observe: Callable[[int], None]) -> None:
    md5, num_bytes = hashlib.md5(usedforsecurity=False), 0
    with part.open("wb") as file:
        for chunk in _chunks(archive):
            file.write(chunk)
            md5.update(chunk)
            num_bytes += len(chunk)
            observe(num_bytes)
            if num_bytes > archive.num_bytes:
                break
        if md5.hexdigest() != archive.md5:
            raise DataError(
                f"{archive.name}: {archive.url} must give {archive.num_bytes} bytes with md5 {archive.md5}; got "
                f"{num_bytes} with md5 {md5.hexdigest()}. Nothing was kept; try again."
            )
        file.flush()
        os.fsync(file.fileno())


def _chunks(archive: Archive) -> Iterator[bytes]:
    """What the server sends; whatever goes wrong on the way is a DataError."""
    try:
        with urlopen(archive.url, timeout=SECONDS_OF_SILENCE) as response:
            while chunk := response.read(CHUNK):
                yield chunk
    except HTTPError as error:
        error.close()
        raise _unreachable(archive, f"the server says {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _unreachable(archive, f"{getattr(error, 'reason', None) or error or type(error).__name__}") from error


def _unreachable(archive: Archive, why: str) -> DataError:
    # The words may be the server's own; they must not break the line or steer the terminal.
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in why).split())
    return DataError(
        f"{archive.name}: {archive.url} must be reachable; {words}. Nothing was kept: try again, or put "
        f"{archive.file} into {data_folder()} yourself."
    )
