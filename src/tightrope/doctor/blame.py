"""An error raised in somebody else's code, in one line: what it says and where it was raised."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

OURS = (Path(__file__).parent.parent, Path(torch.__file__).parent)
"""Folders whose lines are not the ones to look at."""


def blame(error: BaseException) -> str:
    """Type and message of an error, with the last line outside this library and torch that it came through.

    Example:
        >>> try:
        ...     {}["a"]
        ... except KeyError as error:
        ...     blame(error).split(" (")[0]
        "KeyError: 'a'"
    """
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f"{what} ({frames[-1].filename}:{frames[-1].lineno})" if frames else what


def _is_theirs(filename: str) -> bool:
    path = Path(filename)
    return not filename.startswith("<frozen") and not any(path.is_relative_to(folder) for folder in OURS)
