"""Files that are either whole or not there, whenever the process or the machine stops, and folders for one owner."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tightrope.errors import StoreError


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk and give it its name; a former one stays until then.

    Its folder is made where it is missing, in one that exists.

    Raises:
        OSError: it cannot be written; the former file is untouched and the temporary one removed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    if not path.parent.exists():
        path.parent.mkdir()
        _sync_folder(path.parent.parent)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def claim(folder: Path, name: str) -> Path:
    """Make the first of folder/name, folder/name-2, folder/name-3, ... that does not exist, for nobody else to take."""
    number = 1
    while True:
        path = folder / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.exists():  # it is the folder that cannot be one
                raise StoreError(f"run directory: {folder} must be a folder; it is a file. Choose an --out.") from None
            number += 1
        except OSError as error:
            raise StoreError(
                f"run directory: {path} must be writable; {error.strerror or error}. Choose another directory."
            ) from error


def _sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk, which a rename alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
