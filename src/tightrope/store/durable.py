"""Files that are either whole or not there, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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


def _sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk, which a rename alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
